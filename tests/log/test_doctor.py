"""Looking at a directory and its machine from outside, and repairing what can be rebuilt after a copy."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path
from typing import Any

import pytest

from framework.log import Files, Log, NewRecord, Partition, TopicSettings, encode
from framework.log.errors import Conflict, NoDataDirectory
from framework.log.machine import Condition, file_system, preallocation_pays, sync_latency
from framework.log.manifest import Manifest
from framework.log.outside import Finding, newest_append_second
from framework.log.repair import repair
from framework.log.segment import Segment
from framework.log.shared import PAGE_BYTES, POSITION_MASK, Mark, sealed
from framework.log.verify import Verification


class Quick(Files):
    """Files that need not survive a power cut."""

    def fdatasync(self, fd: int) -> None:
        pass

    def sync_directory(self, path: Path) -> None:
        pass


def verify(directory: Path) -> list[Finding]:
    """Everything that is found."""
    return list(Verification(directory).findings())


def damage(directory: Path) -> list[Finding]:
    """What is found without the notes."""
    return [finding for finding in verify(directory) if finding.severity == "damage"]


@pytest.fixture
def three(directory: Path, open_log: Any, clock: Any) -> Partition:
    """A partition of three segments, of six batches each; nobody has it open."""
    log = open_log(clock=clock, files=Quick())
    settings = TopicSettings(segment_bytes=4096, index_interval_bytes=512)
    partition: Partition = log.partition(log.create_topic("t", 1, settings), 0)
    for at in range(18):
        clock.ms += 1000
        log.append(partition, encode([NewRecord(None, bytes(600), at)], max_batch_bytes=1 << 20)).result(60)
    log.close()
    assert len(list(partition.directory.glob("*.log"))) == 3
    return partition


def copied(directory: Path) -> dict[str, bytes]:
    """What stands in the copies that a repair made, by name."""
    return {path.name: path.read_bytes() for path in directory.glob("repair-*/**/*") if path.is_file()}


# What is found.


def test_every_file_that_is_no_file_is_named_and_nothing_waits(directory: Path, three: Partition) -> None:
    """Opening a pipe would wait for a writer."""
    for path in [directory / "catalogue", directory / "shared", *sorted(three.directory.iterdir())]:
        aside = path.rename(directory / "aside")
        os.mkfifo(path)
        assert [finding.path for finding in verify(directory)] == [path]
        path.unlink()
        path.mkdir()
        assert [finding.path for finding in verify(directory)] == [path]
        path.rmdir()
        aside.rename(path)


def test_damaged_marks_are_found(directory: Path, three: Partition) -> None:
    """Of page and slot, what anything else can be compared with; what cannot be, raises nothing at least."""
    path = directory / "shared"
    data = path.read_bytes()
    which = data[PAGE_BYTES + 56] & 1
    mark = PAGE_BYTES + 64 + 16 * which
    told = [*range(16), *range(PAGE_BYTES + 56, PAGE_BYTES + 64), *range(mark, mark + 16)]
    for at in [*range(56), *range(PAGE_BYTES, PAGE_BYTES + 128)]:
        broken = bytearray(data)
        broken[at] ^= 0x80
        path.write_bytes(broken)
        found = damage(directory)
        assert found or at not in told, f"byte {at}"
        assert all(finding.path.name == "shared" or finding.path.suffix in (".log", ".appended") for finding in found)
    lower = bytearray(data)
    lower[PAGE_BYTES] -= 2
    path.write_bytes(lower)
    assert "a mark of slot 0 has a wrong checksum" in damage(directory)[0].text
    place = PAGE_BYTES + 8 + 24 * (data[PAGE_BYTES] & 1)
    position, segment, second = struct.unpack_from("=3Q", data, place)
    struct.pack_into("=Q", lower, place, sealed(Mark(17, position & POSITION_MASK, segment), second))
    path.write_bytes(lower)
    [finding] = damage(directory)
    assert finding.text == "t-0: durable 18 or last stable 18 is above 17"
    path.write_bytes(data[: PAGE_BYTES + 100])
    assert [finding.path for finding in damage(directory)] == [path]
    path.write_bytes(b"")
    assert [finding.repairable for finding in damage(directory)] == [True]


def test_an_index_that_is_whole_but_wrong_is_found(directory: Path, three: Partition) -> None:
    """And one with another interval, from before the topic was altered, is right."""
    path = min(three.directory.glob("*.index"))
    row = Manifest.read(three.directory).segments[0]
    other, segment = Segment(three.directory, row, 2048), Segment(three.directory, row, 512)
    with other.path.open("rb") as file:
        other.walk_to(Files(), file.fileno(), row.size_bytes or 0)
    assert len(other.index_bytes()) < path.stat().st_size
    path.write_bytes(other.index_bytes())
    assert verify(directory) == []
    for column in (other._offsets, other._positions, other._timestamps):
        column[1] += 1
        path.write_bytes(other.index_bytes())
        assert [finding.path for finding in verify(directory)] == [path]
        column[1] -= 1
    other._max_timestamp += 1
    for wrong in (other, segment):
        path.write_bytes(wrong.index_bytes())
        assert [finding.path for finding in verify(directory)] == [path]


def test_files_that_no_manifest_names_are_notes(directory: Path, three: Partition, child: Any) -> None:
    """While somebody has the directory open they may be those of a roll that is under way."""
    strays = [three.directory / "00000000000000000099.9.log", three.directory / "manifest.tmp"]
    for path in strays:
        path.write_bytes(b"")
    found = verify(directory)
    assert [(finding.path, finding.severity, finding.repairable) for finding in found] == [
        (path, "note", True) for path in strays
    ]
    user = child("log = Log(sys.argv[1])\nsay('open')\nhear()", directory)
    user.hear()
    assert verify(directory) == []


def test_a_directory_without_anything_is_none(tmp_path: Path) -> None:
    with pytest.raises(NoDataDirectory, match="there is no data directory at"):
        Verification(tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_nothing_that_can_stand_in_the_files_raises_or_hangs(directory: Path, three: Partition, seed: int) -> None:
    """Pieces of files are overwritten with others' pieces, noise and zeros, often with a right checksum."""
    draw = random.Random(seed)
    paths = [directory / "catalogue", directory / "shared", *sorted(three.directory.iterdir())]
    originals = {path: path.read_bytes() for path in paths}
    for _ in range(200):
        for path in draw.sample(paths, draw.choice((1, 1, 2, 3))):
            data, other = bytearray(originals[path]), originals[draw.choice(paths)]
            at, size = draw.randrange(len(data) + 1), draw.choice((1, 8, 61, 500, 5000))
            piece = draw.choice((draw.randbytes(size), bytes(size), other[draw.randrange(len(other)) :][:size]))
            data[at : at + draw.choice((0, size))] = piece
            path.write_bytes(data)
        list(Verification(directory, deep=True).findings())
        for path in paths:
            path.write_bytes(originals[path])
    assert verify(directory) == []


# Repair.


def test_a_damaged_index_is_rebuilt_as_it_was(directory: Path, three: Partition) -> None:
    first, second = sorted(three.directory.glob("*.index"))
    originals = [path.read_bytes() for path in (first, second)]
    broken = originals[0][:30] + b"?" + originals[0][31:]
    first.write_bytes(broken)
    second.unlink()
    found = verify(directory)
    assert [(finding.path, finding.severity) for finding in found] == [(first, "damage"), (second, "damage")]
    done = repair(directory, found)
    assert [path.read_bytes() for path in (first, second)] == originals
    assert copied(directory) == {first.name: broken}
    assert done[0].startswith(f"{first}: rebuilt; a copy is {directory / 'repair-'}")
    assert done[1] == f"{second}: rebuilt"
    assert verify(directory) == []


def test_an_index_is_left_alone_where_its_segment_is_damaged(directory: Path, three: Partition) -> None:
    index = min(three.directory.glob("*.index"))
    log = index.with_suffix(".log")
    index.write_bytes(b"")
    found = verify(directory)
    log.write_bytes(log.read_bytes()[:1000])
    assert repair(directory, found) == [f"{index}: left as it is: its segment is damaged too"]
    assert (index.read_bytes(), copied(directory)) == (b"", {})


def test_what_a_killed_roll_left_is_removed_after_a_copy(directory: Path, three: Partition) -> None:
    stray = three.directory / "00000000000000000018.9.log"
    stray.write_bytes(b"something")
    named = {path: path.read_bytes() for path in three.directory.iterdir() if path != stray}
    [done] = repair(directory, verify(directory))
    assert done.startswith(f"{stray}: removed; a copy is {directory / 'repair-'}")
    assert {path: path.read_bytes() for path in three.directory.iterdir()} == named
    assert copied(directory) == {stray.name: b"something"}
    assert verify(directory) == []


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
def test_a_missing_shared_file_is_made_anew(
    directory: Path, three: Partition, open_log: Any, read_all: Any, left: str
) -> None:
    """As after a power cut: what is whole is kept. The files that this may cut are copied before."""
    (directory / "shared").unlink()
    if left == "an empty file":
        (directory / "shared").touch()
    active = max(three.directory.glob("*.log"))
    whole = active.read_bytes()
    active.write_bytes(whole + b"torn")
    found = verify(directory)
    assert [(finding.path.name, finding.repairable) for finding in found] == [("shared", True), (active.name, False)]
    assert repair(directory, found) == [f"{directory / 'shared'}: made anew"]
    assert active.read_bytes() == whole
    assert copied(directory)[active.name] == whole + b"torn"
    assert verify(directory) == []
    log = open_log()
    assert len(read_all(log, log.partition(log.topic("t"), 0))) == 18


def test_nothing_is_repaired_while_the_directory_is_open(
    directory: Path, three: Partition, child: Any, open_log: Any
) -> None:
    index = min(three.directory.glob("*.index"))
    index.unlink()
    found = verify(directory)
    user = child("log = Log(sys.argv[1])\nsay('open')\nhear()", directory)
    user.hear()
    with pytest.raises(Conflict, match=f"while process {user.pid} has it open"):
        repair(directory, found)
    user.kill()
    log = open_log()
    with pytest.raises(Conflict, match="while this process has it open"):
        repair(directory, found)
    log.close()
    assert repair(directory, found) == [f"{index}: rebuilt"]
    with Log(directory) as again:
        assert again.shared.alone, "nothing of the repair still holds it"


# The machine.


def test_the_file_system_of_a_place_is_named(tmp_path: Path) -> None:
    condition = file_system(tmp_path)
    assert condition.name == "file system"
    assert condition.numbers["type"]
    assert tmp_path.resolve().is_relative_to(str(condition.numbers["mount"]))


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="only Linux has such places")
def test_places_that_are_no_disks_are_warned_of() -> None:
    advised = file_system(Path("/proc"))
    assert (advised.numbers["type"], advised.advice) == ("proc", None)
    shm = file_system(Path("/dev/shm"))  # noqa: S108  # Nothing is written there.
    if shm.numbers["type"] == "tmpfs":
        assert shm.advice == "it goes with memory: put what must last on a disk"
    [unwritable] = sync_latency(Path("/proc"))
    assert unwritable.advice == "make it writable"


@pytest.mark.slow
def test_syncs_are_measured_and_leave_nothing_behind(tmp_path: Path) -> None:
    conditions = sync_latency(tmp_path)
    assert [condition.name for condition in conditions] == ["fdatasync", "fdatasync, preallocated"]
    for condition in conditions:
        numbers = condition.numbers
        assert 0 < float(numbers["p50_ms"]) <= float(numbers["p99_ms"])
        assert float(numbers["mb_s"]) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("small_ms", "large_mb_s", "pays"), [(0.1, 300, True), (0.1, 100, False), (0.9, 400, False), (1.5, 400, False)]
)
def test_preallocation_pays_where_small_syncs_gain_and_large_ones_do_not_lose(
    small_ms: float, large_mb_s: float, pays: bool
) -> None:
    growing = {"p50_ms": 1.0, "p99_ms": 2.0, "mb_s": 400.0}
    assert preallocation_pays(growing, {"p50_ms": small_ms, "p99_ms": 2.0, "mb_s": large_mb_s}) == pays


def test_the_last_append_is_told_without_opening_anything(directory: Path, three: Partition, clock: Any) -> None:
    assert newest_append_second(directory) == clock.ms // 1000
    assert newest_append_second(directory.parent) == 0
    (directory / "shared").write_bytes(b"?" * 5000)
    assert newest_append_second(directory) == 0


def test_a_condition_that_needs_nothing_has_no_advice() -> None:
    assert Condition("name", "value") == Condition("name", "value", None, {})
