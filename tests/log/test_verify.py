"""Verification: sound directories have no damage, whoever else is at work; any damage is found, in the right file."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from framework.log import Log, NewRecord, Partition, TopicSettings, encode
from framework.log.errors import UnknownTopic
from framework.log.files import Files
from framework.log.header import checksum, set_base_offset, walk
from framework.log.manifest import Manifest
from framework.log.outside import Finding
from framework.log.producers import Producers
from framework.log.shared import PAGE_BYTES
from framework.log.verify import Verification

TASK = 1 << 62 | 5
SMALL = TopicSettings(segment_bytes=4096, index_interval_bytes=512)


class Quick(Files):
    """Files that need not survive a power cut."""

    def fdatasync(self, fd: int) -> None:
        pass

    def sync_directory(self, path: Path) -> None:
        pass


def verify(directory: Path, *topics: str, deep: bool = False) -> list[Finding]:
    """Everything that is found."""
    return list(Verification(directory, topics, deep=deep).findings())


def damage(directory: Path, *, deep: bool = False) -> list[Finding]:
    """What is found without the notes."""
    return [finding for finding in verify(directory, deep=deep) if finding.severity == "damage"]


def fill(log: Log, topic: str, batches: int, *, clock: Any = None, size: int = 600, settings: Any = SMALL) -> Partition:
    """A topic of one partition with *batches* of two records, by a producer that numbers them."""
    if topic not in log.topics():
        log.create_topic(topic, 1, settings)
    partition = log.partition(log.topic(topic), 0)
    for _ in range(batches):
        if clock is not None:
            clock.ms += 1000
        sequence = partition.log_end
        records = [NewRecord(b"key", bytes(size // 2), sequence * 10), NewRecord(None, None, 5)]
        batch = encode(records, max_batch_bytes=1 << 20, producer_id=TASK, producer_epoch=0, base_sequence=sequence)
        log.append(partition, batch).result(60)
    return partition


def files_of(partition: Partition, ending: str) -> list[Path]:
    """The partition's files with this ending, in order."""
    return sorted(partition.directory.glob(f"*{ending}"))


@pytest.fixture
def three(directory: Path, open_log: Any, clock: Any) -> Partition:
    """A partition of three segments, of 10, 10 and 3 batches; nobody has it open."""
    log = open_log(clock=clock, files=Quick())
    partition = fill(log, "t", 23, clock=clock)
    log.close()
    assert len(files_of(partition, ".log")) == 3
    return partition


# Sound directories.


def test_a_sound_directory_has_no_findings_and_is_counted(directory: Path, three: Partition) -> None:
    run = Verification(directory, deep=True)
    assert list(run.findings()) == []
    assert (run.partitions, run.segments, run.batches, run.records) == (1, 3, 23, 46)
    assert run.bytes == run.total_bytes == sum(path.stat().st_size for path in files_of(three, ".log"))


def test_what_was_never_written_to_is_sound(directory: Path, open_log: Any) -> None:
    log = open_log()
    log.create_topic("empty", 3)
    assert verify(directory) == []
    log.close()
    assert verify(directory) == []


def test_only_wanted_topics_are_checked(directory: Path, three: Partition, open_log: Any) -> None:
    with open_log() as log:
        fill(log, "other", 1)
    files_of(three, ".log")[0].unlink()
    assert verify(directory, "other") == []
    assert len(verify(directory, "t", "other")) == 1
    with pytest.raises(UnknownTopic, match="'nope'"):
        verify(directory, "nope", "t")


def test_a_process_that_has_the_log_open_keeps_its_locks(directory: Path, open_log: Any, child: Any) -> None:
    """Closing any descriptor of the shared file would drop them."""
    log = open_log()
    fill(log, "t", 1)
    assert verify(directory) == []
    asking = child("say(Log(sys.argv[1]).shared.alone)\nos._exit(0)", directory)
    assert asking.hear() == "False"


def test_batches_larger_than_what_is_read_at_once_are_checked_whole(directory: Path, open_log: Any) -> None:
    log = open_log()
    partition = log.partition(log.create_topic("t", 1, TopicSettings(max_message_bytes=8 << 20)), 0)
    for size in (10, 3 << 20, 700_000, 700_000, 20):
        log.append(partition, encode([NewRecord(None, bytes(size), 0)], max_batch_bytes=8 << 20)).result(60)
    log.close()
    assert verify(directory, deep=True) == []
    path = files_of(partition, ".log")[0]
    data = bytearray(path.read_bytes())
    data[2 << 20] ^= 1
    path.write_bytes(data)
    [found] = verify(directory, deep=True)
    assert (found.position, found.offset, found.text[-8:]) == (78, 1, "offset 2")


@pytest.mark.slow
def test_nothing_is_damaged_while_others_append_roll_retain_and_are_killed(
    directory: Path, open_log: Any, child: Any, seed: int, reboot: Any
) -> None:
    script = """
    import random
    log = Log(sys.argv[1], create=True)
    partition, draw, at = log.partition(log.topic("t"), 0), random.Random(int(sys.argv[2])), 0
    pid = 1 << 62 | int(sys.argv[2])
    while True:
        size = draw.choice((1, 50, 70, 1500, 9000))
        many = batches(*[bytes(size)] * 3, producer_id=pid, producer_epoch=0, base_sequence=at)
        log.append(partition, many).result(60)
        at += 3
        if at % 600 == 0:
            say("go on")
    """
    with open_log() as log:
        log.create_topic("t", 1, TopicSettings(segment_bytes=20_000, retention_bytes=200_000))
    for turn in range(2):
        workers = [child(script, directory, (seed + 2 * turn + at) % 2**31) for at in range(2)]
        for worker in workers:
            worker.hear()
        for _ in range(12):
            assert damage(directory, deep=True) == []
        for worker in workers:
            worker.kill()
        assert damage(directory, deep=True) == []
        if turn % 2:
            reboot(directory)
            assert damage(directory, deep=True) == []
        open_log().close()
        notes = verify(directory, deep=True)
        assert [finding for finding in notes if turn % 2 or not finding.repairable] == []


def test_what_is_deleted_meanwhile_is_no_damage(directory: Path, open_log: Any) -> None:
    log = open_log()
    partition = fill(log, "t", 40)
    fill(log, "u", 20)

    def delete() -> None:
        if run.segments == 2:
            partition.delete_records(50)
        if run.batches == 35 and "t" in log.topics():
            log.delete_topic("t")

    run = Verification(directory, progress=delete)
    assert list(run.findings()) == []
    assert set(log.topics()) == {"u"}
    assert verify(directory) == []


def test_bytes_behind_the_end_are_a_note(directory: Path, three: Partition, reboot: Any) -> None:
    """Those of a killed write; after a power cut what is whole there is kept, and is not even a note."""
    path = files_of(three, ".log")[-1]
    batch = encode([NewRecord(None, b"x" * 99, 0)], max_batch_bytes=1 << 20)[0]
    set_base_offset(batch, 46)
    with path.open("ab") as file:
        file.write(batch + b"torn" * 40)
    [note] = verify(directory)
    assert (note.path, note.severity) == (path, "note")
    assert note.text.startswith(f"{len(batch) + 160} bytes stand behind")
    reboot(directory)
    [note] = verify(directory)
    assert note.text.startswith("160 bytes stand behind")


def test_a_copy_of_a_directory_is_checked_as_far_as_its_marks_go(
    directory: Path, three: Partition, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    assert verify(copy) == []
    path = copy / files_of(three, ".log")[-1].relative_to(directory)
    path.write_bytes(path.read_bytes()[:-1])
    assert [finding.path for finding in damage(copy)] == [path]


def test_a_segment_that_lacks_offsets_and_a_mark_beyond_its_offset_are_found(
    directory: Path, three: Partition, tmp_path: Path
) -> None:
    """Everything that is there is sound, and still it is not what should be there."""
    shared = directory / "shared"
    data = bytearray(shared.read_bytes())
    data[PAGE_BYTES + 56] += 2
    shared.write_bytes(data)
    copy = shutil.copytree(directory, tmp_path / "copy")
    [finding] = damage(copy)
    assert (finding.path, finding.position) == (copy / "shared", PAGE_BYTES)
    data[PAGE_BYTES + 56] -= 2
    shared.write_bytes(data)
    manifest = Manifest.read(three.directory)
    path = files_of(three, ".log")[0]
    *_, (last, base, _) = walk(path.read_bytes())
    path.write_bytes(path.read_bytes()[:last])
    rows = (replace(manifest.segments[0], size_bytes=last), *manifest.segments[1:])
    replace(manifest, segments=rows).write(Files(), three.directory)
    finding = damage(directory)[0]
    assert (finding.path, finding.position, finding.offset) == (path, last, base)


def test_gaps_are_allowed_where_a_segment_was_compacted(directory: Path, three: Partition) -> None:
    """The manifest says so; offsets still ascend, and the next segment's stay above."""
    manifest = Manifest.read(three.directory)
    old = manifest.segments[0]
    new = replace(old, generation=manifest.next_generation, compacted=True)
    stem = three.directory / old.stem
    data = Path(f"{stem}.log").read_bytes()
    kept = b"".join(data[at : at + size] for at, base, size in walk(data) if base not in (0, 6, 18))
    for ending in (".appended", ".producers"):
        Path(f"{stem}{ending}").rename(three.directory / f"{new.stem}{ending}")
    Path(f"{stem}.log").unlink()
    Path(f"{stem}.index").unlink()
    (three.directory / f"{new.stem}.log").write_bytes(kept)
    new = replace(new, size_bytes=len(kept))
    rows = (new, *manifest.segments[1:])
    replace(manifest, next_generation=9, segments=rows).write(Files(), three.directory)
    assert [finding.path.suffix for finding in verify(directory)] == [".index"]
    first, *others = [(at, size) for at, _, size in walk(kept)]
    at = first[0] + first[1]
    swapped = kept[at : at + others[0][1]] + kept[:at] + kept[at + others[0][1] :]
    (three.directory / f"{new.stem}.log").write_bytes(swapped)
    assert any("batch offset is 2, not" in finding.text for finding in verify(directory))


# Damage.


def check_flip(directory: Path, path: Path, data: bytes, at: int, mask: int) -> None:
    """One flipped byte gives one finding, in the batch that holds it."""
    broken = bytearray(data)
    broken[at] ^= mask
    path.write_bytes(broken)
    found = damage(directory)
    begins = max(position for position, _, _ in walk(data) if position <= at)
    assert [(finding.path, finding.position) for finding in found] == [(path, begins)], f"byte {at} ^ {mask:#x}"


@pytest.mark.slow
def test_every_flipped_byte_of_an_active_segment_is_found(directory: Path, open_log: Any, seed: int) -> None:
    with open_log() as log:
        partition = fill(log, "t", 4, size=40)
    [path] = files_of(partition, ".log")
    data, draw = path.read_bytes(), random.Random(seed)
    for at in range(len(data)):
        check_flip(directory, path, data, at, draw.randint(1, 255))


@pytest.mark.slow
def test_every_flipped_byte_of_the_headers_of_a_closed_segment_is_found(
    directory: Path, three: Partition, seed: int
) -> None:
    path = files_of(three, ".log")[1]
    data, draw = path.read_bytes(), random.Random(seed)
    places = [begin + at for begin, _, _ in walk(data) for at in range(61)]
    for at in [*places, *range(61, len(data), 7)]:
        check_flip(directory, path, data, at, 1 << draw.randrange(8))


def test_each_of_many_damaged_places_is_named(directory: Path, three: Partition) -> None:
    """A damaged length does not hide what comes behind it."""
    path = files_of(three, ".log")[0]
    data = bytearray(path.read_bytes())
    begins = [begin for begin, _, _ in walk(bytes(data))]
    for begin, at in ((begins[1], 9), (begins[3], 70), (begins[4], 16), (begins[7], 3), (begins[9], 11)):
        data[begin + at] ^= 0x15
    path.write_bytes(data)
    found = damage(directory)
    assert [(finding.position, finding.offset) for finding in found] == [(begins[at], 2 * at) for at in (1, 3, 7, 9)]
    assert str(found[1]).startswith(f"{path}: byte {begins[3]}, offset 6: checksum is 0x")
    assert str(found[1]).endswith(f"; sound again from byte {begins[5]}, offset 10")


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".index", ".producers", "manifest", "catalogue"])
def test_every_flipped_byte_of_a_file_with_a_checksum_is_found(
    directory: Path, three: Partition, ending: str, seed: int
) -> None:
    path = directory / "catalogue" if ending == "catalogue" else files_of(three, ending)[-1]
    data, draw = path.read_bytes(), random.Random(seed)
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= draw.randint(1, 255)
        path.write_bytes(broken)
        assert [finding.path for finding in damage(directory)] == [path], f"byte {at}"


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".index", ".producers", "manifest", "catalogue", ".log"])
def test_a_file_cut_at_any_length_is_found(directory: Path, three: Partition, ending: str) -> None:
    for path in [directory / "catalogue"] if ending == "catalogue" else files_of(three, ending):
        data = path.read_bytes()
        # Every length, but for the long ones only some of those in the middle of a batch.
        for size in range(0, len(data), 11 if len(data) > 2000 else 1):
            path.write_bytes(data[:size])
            [finding] = damage(directory)
            assert finding.path == path, f"{size} bytes of {path.name}"
            assert finding.position is None or finding.position <= size
        path.write_bytes(data)
    assert verify(directory) == []


def test_append_times_cut_at_any_length_are_found_where_anything_tells(directory: Path, three: Partition) -> None:
    """Whole entries at the end of a closed segment leave no trace; in the active one the slot knows the last."""
    closed, _, active = files_of(three, ".appended")
    for path in (closed, active):
        data = path.read_bytes()
        for size in range(len(data)):
            path.write_bytes(data[:size])
            untold = path == closed and size > 8 and (size - 8) % 16 == 0
            assert [finding.path for finding in damage(directory)] == [path] * (not untold), f"{size} bytes"
        path.write_bytes(data)


def test_append_times_out_of_order_are_found(directory: Path, three: Partition) -> None:
    path = files_of(three, ".appended")[1]
    data = path.read_bytes()
    entries = [data[at : at + 16] for at in range(8, len(data), 16)]
    path.write_bytes(data[:8] + b"".join([entries[1], entries[0], *entries[2:]]))
    [finding] = damage(directory)
    assert (finding.path, finding.position) == (path, 8)
    path.write_bytes(data[:8] + b"".join([*entries[:2], entries[3], entries[2], *entries[4:]]))
    [finding] = damage(directory)
    assert (finding.path, finding.position) == (path, 8 + 3 * 16)
    path.write_bytes(data[:8] + entries[0] + bytes(8) + entries[1][8:] + b"".join(entries[2:]))
    [finding] = damage(directory)
    assert (finding.path, finding.position) == (path, 8 + 16)


def test_every_missing_file_is_named(directory: Path, three: Partition) -> None:
    paths = [directory / "catalogue", directory / "shared", *sorted(three.directory.iterdir())]
    assert len(paths) == 2 + 1 + 3 * 4 - 1, "an active segment has no index file"
    for path in paths:
        aside = path.rename(directory / "aside")
        [finding] = damage(directory)
        assert (finding.path, finding.text[:10]) == (path, "is missing")
        assert finding.repairable == (path.name == "shared" or path.suffix == ".index")
        aside.rename(path)
    assert verify(directory) == []


def test_a_snapshot_of_other_producers_is_found(directory: Path, three: Partition) -> None:
    """Its checksum is right; but the segments before it say something else."""
    path = files_of(three, ".producers")[2]
    snapshot = Producers.read(path)
    state = snapshot._states[TASK]
    for states in ({TASK: replace(state, last_sequence=3)}, {TASK: state, 8: state}, {}):
        snapshot._states = states
        snapshot.write(Files(), path)
        assert [(finding.path, finding.repairable) for finding in damage(directory)] == [(path, False)]


def test_records_are_decoded_when_asked_for(directory: Path, three: Partition) -> None:
    """A checksum can be right over what is no record."""
    path = files_of(three, ".log")[2]
    data = bytearray(path.read_bytes())
    (_, _, size), (begin, base, _) = list(walk(bytes(data)))[:2]
    batch = data[:size]
    batch[61] ^= 0x40
    batch[17:21] = checksum(batch).to_bytes(4, "big")
    path.write_bytes(batch + data[size:])
    assert verify(directory) == []
    [finding] = verify(directory, deep=True)
    assert (finding.path, finding.position, finding.offset) == (path, 0, base - 2)
    data[begin + 57 + 3] += 1
    second = data[begin : begin + size]
    second[17:21] = checksum(second).to_bytes(4, "big")
    path.write_bytes(data[:begin] + second + data[begin + size :])
    [finding] = verify(directory, deep=True)
    assert (finding.position, finding.offset) == (begin, base)
