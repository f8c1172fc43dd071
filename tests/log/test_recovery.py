"""After a kill nothing is lost; after a power cut, or in a copy, the torn tail goes and all before it stays."""

from __future__ import annotations

import shutil
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

from framework.log import Log, NewRecord, Partition, TopicSettings, encode
from framework.log.appended import APPENDED_MAGIC, pack_entry
from framework.log.errors import Damaged
from framework.log.header import walk
from framework.log.manifest import Manifest

SMALL = TopicSettings(segment_bytes=4096, index_interval_bytes=512)


def batch(value: bytes) -> bytearray:
    """*value* as one batch."""
    [one] = encode([NewRecord(None, value, 0)], max_batch_bytes=1 << 25)
    return one


def values(records: list[Any]) -> list[bytes]:
    """The values of *records*, whose offsets must be dense from 0."""
    assert [record.offset for record in records] == list(range(len(records)))
    return [record.value for record in records]


def the(log: Log, name: str = "t") -> Partition:
    """Partition 0 of topic *name*."""
    return log.partition(log.topic(name), 0)


def file_of(directory: Path, suffix: str) -> Path:
    """The last file of the only partition that ends with *suffix*."""
    return max(directory.glob(f"topics/*/0/*{suffix}"))


@pytest.fixture
def five(directory: Path, open_log: Any) -> list[int]:
    """A closed data directory with five batches in one segment; where each begins, and where the last one ends."""
    with open_log() as log:
        partition = log.partition(log.create_topic("t", 1), 0)
        for at in range(5):
            log.append(partition, [batch(b"%d" % at * 20)]).result(60)
    data = file_of(directory, ".log").read_bytes()
    return [position for position, _, _ in walk(data)] + [len(data)]


FIVE = [b"%d" % at * 20 for at in range(5)]


@pytest.fixture
def unsynced(directory: Path, open_log: Any) -> list[int]:
    """As `five`, but only the first three are durable when the power goes."""
    with open_log() as log:
        partition = log.partition(log.create_topic("t", 1), 0)
        log.append(partition, [batch(value) for value in FIVE[:3]]).result(60)
        partition.append([[batch(value)] for value in FIVE[3:]])
    data = file_of(directory, ".log").read_bytes()
    return [position for position, _, _ in walk(data)] + [len(data)]


# The torn tail.


@pytest.mark.slow
@pytest.mark.parametrize("zeros", [False, True])
def test_a_last_batch_torn_at_any_byte_is_lost_alone(
    directory: Path, tmp_path: Path, open_log: Any, read_all: Any, append: Any, five: list[int], zeros: bool
) -> None:
    """In a copy, whose slots say nothing; the rest of the batch is missing, or zeros."""
    whole = file_of(directory, ".log").read_bytes()
    for length in range(five[5] - five[4]):
        torn = whole[: five[4] + length] + bytes(five[5] - five[4] - length) * zeros
        if torn == whole:
            continue
        copy = tmp_path / f"torn at {length}"
        shutil.copytree(directory, copy)
        file_of(copy, ".log").write_bytes(torn)
        with open_log(copy, create=False) as log:
            assert values(read_all(log, the(log))) == FIVE[:4]
            assert file_of(copy, ".log").stat().st_size == five[4]
            assert append(log, the(log), b"new") == 4
        with open_log(copy) as log:
            assert values(read_all(log, the(log))) == [*FIVE[:4], b"new"]


def test_a_copy_has_everything_and_lives_apart(
    directory: Path, tmp_path: Path, open_log: Any, read_all: Any, append: Any, five: list[int]
) -> None:
    shutil.copytree(directory, tmp_path / "copy")
    copy, original = open_log(tmp_path / "copy"), open_log()
    assert copy.shared is not original.shared
    assert append(copy, the(copy), b"mine") == append(original, the(original), b"yours") == 5
    assert values(read_all(copy, the(copy))) == [*FIVE, b"mine"]
    assert values(read_all(original, the(original))) == [*FIVE, b"yours"]


def test_sound_batches_behind_a_torn_one_are_cut_with_it_and_never_come_back(
    directory: Path, open_log: Any, read_all: Any, append: Any, reboot: Any, unsynced: list[int]
) -> None:
    """The disk kept the page of offset 4 and lost that of offset 3; an equal batch takes its place."""
    path = file_of(directory, ".log")
    data = bytearray(path.read_bytes())
    data[unsynced[3] + 65] ^= 1
    path.write_bytes(data)
    reboot()
    with open_log() as log:
        assert values(read_all(log, the(log))) == FIVE[:3]
        assert append(log, the(log), b"x" * 20) == 3
    reboot()
    with open_log() as log:
        assert values(read_all(log, the(log))) == [*FIVE[:3], b"x" * 20]


def test_what_was_written_and_survived_a_power_cut_whole_is_kept(
    open_log: Any, read_all: Any, reboot: Any, unsynced: list[int]
) -> None:
    reboot()
    with open_log() as log:
        assert (the(log).log_end, the(log).high_watermark) == (5, 5)
        assert values(read_all(log, the(log))) == FIVE


@pytest.mark.parametrize("size", [3 << 20, (4 << 20) - 80, 4 << 20, 9 << 20])
def test_batches_larger_than_what_a_scan_reads_at_once_are_kept(
    directory: Path, open_log: Any, read_all: Any, reboot: Any, size: int
) -> None:
    with open_log() as log:
        partition = log.partition(log.create_topic("t", 1), 0)
        partition.append([[batch(bytes(at)) for at in (10, size, 20, size, 30)]])
    with file_of(directory, ".log").open("r+b") as file:
        file.truncate(file.seek(0, 2) - 1)
    reboot()
    with open_log() as log:
        assert [len(value) for value in values(read_all(log, the(log)))] == [10, size, 20, size]


# Damage is not a tail.


@pytest.mark.parametrize("place", [8, 16, 17, 65])
def test_damage_below_the_recovery_point_is_left_and_reported_while_the_tail_is_cut(
    directory: Path, open_log: Any, reboot: Any, unsynced: list[int], place: int
) -> None:
    path = file_of(directory, ".log")
    data = bytearray(path.read_bytes())
    data[unsynced[1] + place] ^= 0x40
    path.write_bytes(data[:-1])
    reboot()
    log = open_log()
    assert the(log).log_end == 4
    assert path.read_bytes() == data[: unsynced[4]]
    reader = log.reader(the(log), 0)
    assert [header.base_offset for header, _ in reader.read(unsynced[1]).batches] == [0]
    with pytest.raises(Damaged, match=f"{path.name} is damaged at byte {unsynced[1]}"):
        reader.read()
    reader.close()


def test_a_segment_shorter_than_what_was_durable_is_damaged_and_the_rest_is_served(
    directory: Path, open_log: Any, append: Any, read_all: Any, reboot: Any, five: list[int], caplog: Any
) -> None:
    path = file_of(directory, ".log")
    with path.open("r+b") as file:
        file.truncate(five[4])
    reboot()
    with open_log() as log:
        assert f"{path.name} is {five[4]} bytes long, but {five[5]} were durable" in caplog.text
        damaged = log.partition(log.topic("t"), 0)
        with pytest.raises(Damaged, match="t-0 has lost what was durable"):
            append(log, damaged, b"behind it")
        assert len(log.reader(damaged, 0).read().batches) == 4
        with pytest.raises(Damaged, match=path.name):
            read_all(log, damaged)
        other = log.partition(log.create_topic("other", 1), 0)
        assert append(log, other, b"served") == 0
    assert path.stat().st_size == five[4], "left as it is"


def test_a_partition_is_taken_into_use_again_when_its_files_were_put_back(
    directory: Path, open_log: Any, append: Any, read_all: Any, reboot: Any, five: list[int]
) -> None:
    path = file_of(directory, ".log")
    whole = path.read_bytes()
    path.write_bytes(whole[: five[4]])
    reboot()
    open_log().close()
    path.write_bytes(whole)
    with open_log() as log:
        partition = log.partition(log.topic("t"), 0)
        assert append(log, partition, b"behind it") == 5
        assert len(read_all(log, partition)) == 6


@pytest.mark.parametrize("suffix", [".log", "manifest"])
def test_a_file_that_is_gone_is_damage_and_is_named(
    directory: Path, open_log: Any, read_all: Any, reboot: Any, five: list[int], suffix: str
) -> None:
    path = file_of(directory, suffix)
    path.unlink()
    reboot()
    with open_log() as log, pytest.raises(Damaged, match=path.name):
        read_all(log, log.partition(log.topic("t"), 0))
    assert not path.exists()


# What else recovery puts right.


def test_files_that_the_manifest_does_not_name_are_removed(
    directory: Path, open_log: Any, read_all: Any, append: Any, reboot: Any
) -> None:
    """A roll was killed before its manifest, and a replacement before its rename."""
    with open_log() as log:
        partition = log.partition(log.create_topic("t", 1, SMALL), 0)
        for _ in range(4):
            append(log, partition, bytes(3000))
    place = file_of(directory, ".log").parent
    before = {path.name for path in place.iterdir()}
    for name in (f"{4:020}.5.log", f"{4:020}.5.appended", f"{4:020}.5.producers", "manifest.tmp"):
        (place / name).write_bytes(b"left behind")
    (place / f"{0:020}.1.index.tmp").write_bytes(b"")
    reboot()
    with open_log() as log:
        assert {path.name for path in place.iterdir()} == before
        assert len(read_all(log, the(log))) == 4
        assert append(log, the(log), bytes(3000)) == 4


def test_append_times_of_batches_that_are_gone_are_removed(
    directory: Path, open_log: Any, append: Any, reboot: Any, clock: Any
) -> None:
    start = clock.ms // 1000
    with open_log(clock=clock) as log:
        partition = log.partition(log.create_topic("t", 1), 0)
        append(log, partition, b"kept")
        for _ in range(2):
            clock.ms += 1000
            partition.append([[batch(b"lost")]])
    path = file_of(directory, ".appended")
    path.write_bytes(path.read_bytes() + b"torn")
    with file_of(directory, ".log").open("r+b") as file:
        file.truncate(file.seek(0, 2) - 80)
    reboot()
    with open_log(clock=clock) as log:
        kept = APPENDED_MAGIC + pack_entry(start, 0)
        assert path.read_bytes() == kept
        assert log.shared.append_second(the(log).slot) == start
        append(log, the(log), b"new")
        assert path.read_bytes() == kept + pack_entry(start + 2, 1)


def test_append_times_that_were_lost_altogether_begin_anew(
    directory: Path, open_log: Any, append: Any, read_all: Any, reboot: Any, five: list[int]
) -> None:
    """No later than when the batches were written: without any entry, retention could never tell their age."""
    for content in (b"", b"FW", b"garbage!", b"more garbage than a magic number"):
        file_of(directory, ".appended").write_bytes(content)
        reboot()
        with open_log():
            written = int(file_of(directory, ".log").stat().st_mtime)
            assert file_of(directory, ".appended").read_bytes() == APPENDED_MAGIC + pack_entry(written, 0)


def test_recovery_syncs_what_it_keeps_before_it_says_so(
    directory: Path, open_log: Any, files: Any, reboot: Any, unsynced: list[int]
) -> None:
    """The batches may be in the page cache only: served before the sync, a second power cut takes them back."""
    reboot()
    open_log(files=files)
    steps = [(operation, path.name) for operation, path in files.calls]
    name = file_of(directory, ".log").name
    assert steps.index(("fdatasync", name)) < steps.index(("pwrite", "shared")) < steps.index(("fdatasync", "shared"))


def test_a_recovery_that_fails_at_any_step_is_done_again_by_the_next_opener(
    directory: Path, open_log: Any, read_all: Any, files: Any, reboot: Any, unsynced: list[int]
) -> None:
    path = file_of(directory, ".log")
    with path.open("r+b") as file:
        file.truncate(unsynced[5] - 1)
    torn = path.read_bytes()
    for failing in range(1, 100):
        path.write_bytes(torn)
        reboot()
        files.calls.clear()

        def fail(operation: str, where: Path, failing: int = failing) -> None:
            if len(files.calls) == failing:
                raise OSError(5, "Input/output error")

        files.before = fail
        try:
            log = open_log(files=files)
        except OSError:
            files.before = lambda *_: None
            log = open_log()
        assert values(read_all(log, the(log))) == FIVE[:4]
        log.close()
        if len(files.calls) < failing:
            break
    assert 4 < failing < 99


def test_an_opener_of_this_boot_touches_no_segment(open_log: Any, files: Any, five: list[int], read_all: Any) -> None:
    """The slots are true, however the last process ended."""
    log = open_log(files=files)
    assert files.calls == []
    assert values(read_all(log, the(log))) == FIVE


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_second_opener_waits_until_recovery_is_done(
    directory: Path, open_log: Any, files: Any, reboot: Any, child: Any, five: list[int], elsewhere: bool
) -> None:
    """In another process or another thread: it never sees a slot that is not true yet."""
    reboot()
    seen: list[int] = []
    second = threading.Thread(target=lambda: seen.append(the(open_log()).high_watermark))
    other = child("hear(); log = Log(sys.argv[1]); say(log.partition(log.topic('t'), 0).high_watermark)", directory)

    def scribble(operation: str, path: Path) -> None:
        """Stand in the middle of recovery, with a slot that says something else, while the other one opens."""
        if operation == "fdatasync" and path.suffix == ".log":
            files.before = lambda *_: None
            if elsewhere:
                other.say()
            else:
                second.start()
                # Had it not waited it would be done in a millisecond; that it waits shows only in the end.
                second.join(0.2)

    slot = directory / "shared"
    data = bytearray(slot.read_bytes())
    data[4096 : 4096 + 8] = data[4096 + 56 : 4096 + 64] = struct.pack("=Q", 4 << 1)
    data[4096 + 64 : 4096 + 72] = struct.pack("=Q", five[4])
    slot.write_bytes(data)
    files.before = scribble
    log = open_log(files=files)
    assert the(log).high_watermark == 5
    if elsewhere:
        assert other.hear() == "5"
    else:
        second.join()
        assert seen == [5]


def test_the_manifest_outlives_recovery_unchanged(
    directory: Path, open_log: Any, append: Any, read_all: Any, reboot: Any
) -> None:
    with open_log() as log:
        partition = log.partition(log.create_topic("t", 1, SMALL), 0)
        for at in range(12):
            append(log, partition, (b"%d" % at).ljust(1500))
        manifest = Manifest.read(partition.directory)
    assert len(manifest.segments) == 6
    reboot()
    with open_log() as log:
        assert Manifest.read(the(log).directory) == manifest
        assert [int(value) for value in values(read_all(log, the(log)))] == list(range(12))
