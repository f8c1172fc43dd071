"""One partition: offsets without gaps through every roll, append times, and what survives a step that fails."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from framework.log import Files, NewRecord, TopicSettings, encode
from framework.log.appended import first_offset_at_second
from framework.log.errors import Damaged, Error, OffsetOutOfRange, UnknownPartition
from framework.log.manifest import Manifest

SMALL = TopicSettings(segment_bytes=4096, index_interval_bytes=512)
TASK: dict[str, Any] = {"producer_id": 1 << 62 | 9, "producer_epoch": 0}


def values(records: list[Any]) -> list[bytes]:
    """The values of *records*, whose offsets must be dense from 0."""
    assert [record.offset for record in records] == list(range(len(records)))
    return [record.value for record in records]


def test_an_untouched_partition_is_empty_and_has_no_files(open_log: Any) -> None:
    log = open_log()
    partition = log.partition(log.create_topic("t", 2), 1)
    assert (partition.log_start, partition.high_watermark, partition.log_end) == (0, 0, 0)
    assert partition.segments() == []
    assert partition.last_sequence(7) is None
    assert log.reader(partition, 0).read().batches == []
    assert not partition.directory.exists()


@pytest.mark.parametrize("number", [-1, 2])
def test_a_partition_the_topic_does_not_have_is_refused(open_log: Any, number: int) -> None:
    log = open_log()
    with pytest.raises(UnknownPartition, match=f"'t' has partitions 0 to 1, not {number}"):
        log.partition(log.create_topic("t", 2), number)


def test_offsets_run_on_through_every_roll(open_log: Any, append: Any, read_all: Any) -> None:
    log = open_log()
    partition = log.partition(log.create_topic("t", 1, SMALL), 0)
    written = [b"%d" % at * (1 + at * 37 % 400) for at in range(120)]
    for at in range(0, 120, 3):
        assert append(log, partition, *written[at : at + 3]) == at
    assert values(read_all(log, partition)) == written
    segments = partition.segments()
    assert len(segments) > 5
    assert [segment.closed for segment in segments] == [True] * (len(segments) - 1) + [False]
    assert all(segment.path.stat().st_size <= 4096 for segment in segments)
    for offset in range(120):
        segment, following = partition.segment_of(offset)
        assert segment.base_offset <= offset < (following or 120)


def test_one_append_may_roll_many_times(open_log: Any, read_all: Any) -> None:
    log = open_log()
    partition = log.partition(log.create_topic("t", 1, SMALL), 0)
    written = [bytes([at]) * 1000 for at in range(30)]
    batches = encode([NewRecord(None, value, 0) for value in written], max_batch_bytes=1500)
    assert log.append(partition, batches).result(60) == 0
    assert values(read_all(log, partition)) == written
    assert len(partition.segments()) == 10


def test_a_batch_larger_than_a_segment_has_one_to_itself(open_log: Any, append: Any, read_all: Any) -> None:
    log = open_log()
    partition = log.partition(log.create_topic("t", 1, SMALL), 0)
    written = [bytes(20_000), b"small", bytes(30_000), b"small again"]
    for value in written:
        append(log, partition, value)
    assert values(read_all(log, partition)) == written
    assert [segment.base_offset for segment in partition.segments()] == [0, 1, 2, 3]


def test_the_index_file_of_a_closed_segment_is_the_one_a_walk_would_give(open_log: Any, append: Any) -> None:
    log = open_log()
    partition = log.partition(log.create_topic("t", 1, SMALL), 0)
    for at in range(60):
        append(log, partition, bytes(200), timestamp=at)
    for segment in partition.segments()[:-1]:
        fd = log.files.open(segment.path, write=False)
        loaded = segment.index_path.read_bytes()
        segment.walk_to(log.files, fd, segment.size_bytes)
        log.files.close(fd)
        assert loaded == segment.index_bytes()


def test_an_offset_outside_is_refused_and_both_ends_are_named(open_log: Any, append: Any) -> None:
    log = open_log()
    partition = log.partition(log.create_topic("t", 1), 0)
    append(log, partition, b"a", b"b", b"c")
    for offset in (-1, 4, 1 << 40):
        with pytest.raises(OffsetOutOfRange, match=f"t-0 has no offset {offset}: log start is 0, log end is 3"):
            partition.segment_of(offset)
    assert partition.segment_of(3)[0].base_offset == 0


# Append times.


def append_times(partition: Any, at: int) -> bytes:
    """The append times of segment number *at*."""
    return partition.segments()[at].appended_path.read_bytes()  # type: ignore[no-any-return]


def test_append_times_say_which_offset_was_first_in_a_second(open_log: Any, append: Any, clock: Any) -> None:
    log = open_log(clock=clock)
    partition = log.partition(log.create_topic("t", 1), 0)
    start = clock.ms // 1000
    for step_ms in (0, 400, 400, 400, 5000, 0):
        clock.ms += step_ms
        append(log, partition, b"value", b"value", timestamp=1)
    times = append_times(partition, 0)
    found = [first_offset_at_second(times, start + second) for second in range(8)]
    assert found == [0, 6, 8, 8, 8, 8, 8, None]


def test_append_times_never_go_back_when_the_clock_does(open_log: Any, append: Any, clock: Any) -> None:
    log = open_log(clock=clock)
    partition = log.partition(log.create_topic("t", 1, SMALL), 0)
    start = clock.ms // 1000
    append(log, partition, b"value")
    clock.ms -= 60_000
    for _ in range(6):
        append(log, partition, bytes(2000))
    assert log.shared.append_second(partition.slot) == start
    for at, segment in enumerate(partition.segments()):
        assert first_offset_at_second(append_times(partition, at), 0) == segment.base_offset
        assert first_offset_at_second(append_times(partition, at), start) == segment.base_offset
        assert first_offset_at_second(append_times(partition, at), start + 1) is None


def test_a_new_second_is_synced_with_its_first_batch_and_not_again(
    open_log: Any, append: Any, clock: Any, files: Any
) -> None:
    log = open_log(clock=clock, files=files)
    partition = log.partition(log.create_topic("t", 1), 0)
    synced = []
    for step_ms in (0, 0, 1000, 0, 0):
        clock.ms += step_ms
        append(log, partition, b"value")
        synced.append([path.suffix for operation, path in files.calls if operation == "fdatasync"])
        files.calls.clear()
    assert [suffixes[-2:] == [".appended", ".log"] for suffixes in synced] == [True, False, True, False, False]
    assert all(suffixes[-1] == ".log" for suffixes in synced)


# The order of the steps of a roll.


def test_a_roll_syncs_the_old_segment_before_the_manifest_names_a_new_one(
    open_log: Any, append: Any, files: Any
) -> None:
    log = open_log(files=files)
    partition = log.partition(log.create_topic("t", 1, SMALL), 0)
    append(log, partition, bytes(3000))
    partition.append([encode([NewRecord(None, bytes(500), 0)], max_batch_bytes=1 << 20)][0:1])
    files.calls.clear()
    append(log, partition, bytes(3000))
    steps = [(operation, path.name) for operation, path in files.calls]
    named = steps.index(("rename", "manifest"))
    assert steps.index(("fdatasync", f"{0:020}.1.log")) < named
    for new in (f"{2:020}.2.log", f"{2:020}.2.appended"):
        assert steps.index(("fdatasync", new)) < named
    assert steps.index(("rename", f"{2:020}.2.producers")) < named
    assert steps.index(("sync_directory", "0")) < named < steps.index(("pwritev", f"{2:020}.2.log"))


def roll_steps(tmp_path: Path, open_log: Any, append: Any, files: Any) -> int:
    """How many operations an append that rolls takes."""
    log = open_log(tmp_path / "counted", files=files)
    partition = log.partition(log.create_topic("t", 1, SMALL), 0)
    append(log, partition, bytes(3000))
    files.calls.clear()
    append(log, partition, bytes(3000))
    return len(on_disk(files.calls))


def on_disk(calls: list[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """Without the marks, which `test_committer` is about."""
    return [call for call in calls if call[1].name != "shared"]


@pytest.mark.slow
def test_a_roll_that_fails_at_any_step_loses_and_doubles_nothing(
    tmp_path: Path, open_log: Any, append: Any, files: Any, read_all: Any
) -> None:
    """Whatever was acknowledged is there once, whether the partition goes on at once or after reopening."""
    steps = roll_steps(tmp_path, open_log, append, files)
    assert steps > 15
    for failing in range(1, steps + 1):
        path = tmp_path / str(failing)
        files.before = lambda *_: None
        log = open_log(path, files=files)
        partition = log.partition(log.create_topic("t", 1, SMALL), 0)
        append(log, partition, b"first".ljust(3000), base_sequence=0, **TASK)
        files.calls.clear()

        def fail(operation: str, where: Path, failing: int = failing) -> None:
            if where.name != "shared" and len(on_disk(files.calls)) == failing:
                raise OSError(28, f"No space left for {operation} {where.name}")

        files.before = fail
        with pytest.raises(OSError, match="No space left"):
            append(log, partition, b"second".ljust(3000), base_sequence=1, **TASK)
        acknowledged = [b"first"]
        try:
            append(log, partition, b"second".ljust(3000), base_sequence=1, **TASK)
            acknowledged.append(b"second")
        except Error:
            pass
        for _ in range(2):
            found = [value.strip() for value in values(read_all(log, partition))]
            assert found in (acknowledged, [b"first", b"second"]), on_disk(files.calls)[failing - 1]
            log.close()
            log = open_log(path)
            partition = log.partition(log.topic("t"), 0)


def test_a_directory_that_another_process_makes_first_is_no_error(open_log: Any, append: Any, files: Any) -> None:
    """Two processes append to two partitions of a new topic: each makes the directories that are not there."""
    log = open_log(files=files)
    partition = log.partition(log.create_topic("t", 1), 0)
    files.before = lambda operation, path: os.makedirs(path) if operation == "mkdir" else None
    assert append(log, partition, b"value") == 0


# What another process did meanwhile.


def test_this_process_goes_on_behind_what_another_appended_and_rolled(
    directory: Path, open_log: Any, append: Any, read_all: Any, child: Any
) -> None:
    log = open_log()
    partition = log.partition(log.create_topic("t", 1, SMALL), 0)
    script = """
    log = Log(sys.argv[1])
    partition = log.partition(log.topic("t"), 0)
    while line := hear():
        say(log.append(partition, batches(line.encode().ljust(1500))).result(60))
    """
    other = child(script, directory)
    for at in range(0, 20, 2):
        assert append(log, partition, b"%d" % at + bytes(1500)) == at
        other.say(str(at + 1))
        assert int(other.hear()) == at + 1
    assert [int(value.rstrip(b"\0")) for value in values(read_all(log, partition))] == list(range(20))


def test_duplicates_are_told_across_rolls_processes_and_reopening(
    directory: Path, open_log: Any, append: Any, read_all: Any, child: Any
) -> None:
    log = open_log()
    partition = log.partition(log.create_topic("t", 1, SMALL), 0)
    script = f"""
    log = Log(sys.argv[1])
    partition = log.partition(log.topic("t"), 0)
    while line := hear():
        sent = batches(line.encode().ljust(1500), base_sequence=int(line), **{TASK})
        say(log.append(partition, sent).result(60))
    """
    other = child(script, directory)
    for at in range(0, 12, 2):
        assert append(log, partition, b"%d" % at + bytes(1500), base_sequence=at, **TASK) == at
        other.say(str(at + 1))
        assert int(other.hear()) == at + 1
        other.say(str(at))
        assert int(other.hear()) == -1, "sent here before"
        assert append(log, partition, b"again", base_sequence=max(at - 5, 0), **TASK) == -1
        assert partition.last_sequence(TASK["producer_id"]) == at + 1
    log.close()
    log = open_log()
    partition = log.partition(log.topic("t"), 0)
    assert [append(log, partition, b"again", base_sequence=at, **TASK) for at in range(12)] == [-1] * 12
    assert append(log, partition, b"12", base_sequence=12, **TASK) == 12
    assert len(read_all(log, partition)) == 13


def test_a_producers_batches_are_told_in_a_segment_with_batches_larger_than_a_chunk(open_log: Any, append: Any) -> None:
    log = open_log()
    partition = log.partition(log.create_topic("t", 1), 0)
    for at, size in enumerate([10, 3 << 20, 10, 2 << 20]):
        batches = encode([NewRecord(None, bytes(size), 0)], max_batch_bytes=4 << 20, base_sequence=at, **TASK)
        assert log.append(partition, batches).result(60) == at
    log.close()
    log = open_log()
    assert log.partition(log.topic("t"), 0).last_sequence(TASK["producer_id"]) == 3


@pytest.mark.parametrize("trusted", [True, False])
def test_a_partition_whose_manifest_is_gone_is_damaged_and_its_segments_are_not_overwritten(
    directory: Path, tmp_path: Path, open_log: Any, append: Any, trusted: bool
) -> None:
    """In place as well as in a copy, where no slot tells how much there was."""
    with open_log() as log:
        partition = log.partition(log.create_topic("t", 1), 0)
        append(log, partition, b"acknowledged")
    where = directory
    if not trusted:
        where = tmp_path / "copy"
        shutil.copytree(directory, where)
    [manifest] = where.glob("topics/*/0/manifest")
    [segment] = where.glob("topics/*/0/*.log")
    before = segment.read_bytes()
    manifest.unlink()

    def overwrite() -> None:
        log = open_log(where)
        append(log, log.partition(log.topic("t"), 0), b"overwriting")

    with pytest.raises(Damaged, match="manifest" if trusted else "t-0 has lost"):
        overwrite()
    assert segment.read_bytes() == before


def test_the_manifest_names_topic_partition_and_every_segment(open_log: Any, append: Any) -> None:
    log = open_log()
    topic = log.create_topic("t", 3, SMALL)
    partition = log.partition(topic, 2)
    for _ in range(4):
        append(log, partition, bytes(3000))
    manifest = Manifest.read(partition.directory)
    assert (manifest.topic_id, manifest.partition, manifest.log_start) == (topic.id, 2, 0)
    assert [row.base_offset for row in manifest.segments] == [0, 1, 2, 3]
    assert all(row.size_bytes == 3000 + 61 + 9 for row in manifest.segments[:-1])
    assert isinstance(log.files, Files)
    assert manifest.active.size_bytes is None
