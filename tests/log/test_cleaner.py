"""Compaction beside everything else: the thread that does it, other processes, appends, and readers it overtakes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from framework.log import Files, Log, Partition, Reader, SystemClock, decode
from framework.log.compaction import Compacted
from framework.log.errors import Conflict, LogClosed
from framework.log.locks import COMPACTION_LOCK
from tests.log.compacted_log import (
    COMPACT,
    fill,
    findings,
    keyed,
    make,
    names_in,
    names_that_should_be,
    offsets_of,
    open_quiet,
    put,
    records_of,
    scratch,
    until,
)
from tests.log.conftest import TIMEOUT_S, Child, FaultyFiles, ManualClock


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where the data directory of a test is, in memory if that can be: no disk is under test."""
    with scratch() as path:
        yield path


@pytest.fixture
def log(directory: Path, clock: ManualClock, files: FaultyFiles) -> Iterator[Log]:
    """A log that compacts only when it is told to."""
    with open_quiet(directory, clock, files) as log:
        yield log


def rest_of(reader: Reader, max_bytes: int = 1000) -> list[int]:
    """The offsets that *reader* gives from where it is up to the end."""
    found, first = list[int](), reader.offset
    while batches := reader.read(max_bytes).batches:
        found += [record.offset for _, batch in batches for record in decode(batch) if record.offset >= first]
    return found


# Readers that were there before (F10).


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same process", "another process"])
@pytest.mark.parametrize("read", range(0, 26, 3))
def test_a_reader_goes_on_where_it_was_when_its_segment_is_replaced(log: Log, read: int, elsewhere: bool) -> None:
    """In the middle of a segment, at its end, in what was the active one; twice, with records after each."""
    partition = make(log)
    fill(log, partition, 26, keys=5)
    # What another process knows: nothing is shared but the files.
    known = Partition(log._place, partition.topic, 0) if elsewhere else partition
    reader = log.reader(known, 0)
    for _ in range(read):
        reader.read(1)
    assert reader.offset == read
    found = list[int]()
    for _ in range(2):
        fill(log, partition, 6, keys=5)
        assert log.compact("t").segments > 0
        new = rest_of(log.reader(known, reader.offset))
        at = reader.offset
        more = [record.offset for _, batch in reader.read(1).batches for record in decode(batch)]
        more += rest_of(reader)
        # What it had open it may read to the end, with records that are gone since.
        assert set(new) <= set(more) <= set(range(at, partition.log_end))
        assert more == sorted(more)
        found += more
        assert reader.offset == partition.high_watermark
    assert found == sorted(set(found))
    put(log, partition, keyed(b"last"))
    assert rest_of(reader) == [38]
    reader.close()


@pytest.mark.slow
def test_a_process_that_appends_and_one_that_reads_go_on_while_a_third_compacts(
    directory: Path, child: Callable[..., Child]
) -> None:
    """The reader meets every record in order but those that a later one of their key replaced."""
    with open_quiet(directory, SystemClock()) as log:
        partition = make(log)
        put(log, partition, keyed(b"k0", b"0"))
        appender = child(
            """
            log = Log(Path(sys.argv[1]))
            partition = log.partition(log.topic("t"), 0)
            log._cleaner.submit = lambda partition: None
            for at in range(1, 400):
                batches = encode([NewRecord(b"k%d" % (at % 7), b"%d" % at + bytes(500), 0)], max_batch_bytes=1 << 20)
                log.append(partition, batches).result()
            log.close()
            say("done")
            """,
            directory,
        )
        reader = child(
            """
            log, last = Log(Path(sys.argv[1])), -1
            for partition, record in log.follow("t", "beginning"):
                assert last < record.offset < 400, (last, record.offset)
                assert record.value.startswith(b"%d" % record.offset), record
                assert record.offset - last <= 7 or last // 7 < record.offset // 7
                last = record.offset
                if last == 399:
                    break
            say("done", last)
            """,
            directory,
        )
        compacted = Compacted()
        while partition.log_end < 400:
            compacted += log.compact("t")
        assert compacted.segments > 5
        assert (appender.hear(), reader.hear()) == ("done", "done 399")
        appender.finish()
        log.compact("t")
        active = partition.segments()[-1].base_offset
        closed = [record for record in records_of(log) if record[0] < active]
        assert {record[1]: record[0] for record in closed} == {
            b"k%d" % (at % 7): at for at in range(active - 7, active)
        }
        assert len(closed) == 7
        reader.finish()
    assert findings(directory) == []


# The thread.


def test_a_log_compacts_by_itself_when_segments_are_closed(directory: Path, open_log: Any) -> None:
    log = open_log()
    partition = make(log, min_cleanable_dirty_ratio=0.0)
    fill(log, partition, 40, keys=2)
    until(log, lambda: len(offsets_of(log)) < 16)
    log.close()
    assert findings(directory) == []


def test_one_process_compacts_at_a_time_and_the_other_is_told_which(
    log: Log, directory: Path, child: Callable[..., Child]
) -> None:
    partition = make(log)
    fill(log, partition, 9)
    other = child(
        """
        from framework.log.locks import COMPACTION_LOCK
        log = Log(Path(sys.argv[1]))
        assert log.shared.try_own(COMPACTION_LOCK) is None
        say("owns")
        hear()
        log.shared.disown(COMPACTION_LOCK)
        say("gave it back")
        hear()
        """,
        directory,
    )
    assert other.hear() == "owns"
    with pytest.raises(Conflict, match=f"process {other.pid} is compacting in {directory} just now; try again"):
        log.compact("t")
    assert len(offsets_of(log)) == 9
    other.say()
    assert other.hear() == "gave it back"
    assert log.compact("t").segments > 0
    assert log.shared.try_own(COMPACTION_LOCK) is None, "it was given back"
    with pytest.raises(Conflict, match=f"process {os.getpid()} is compacting"):
        log.compact("t")
    log.shared.disown(COMPACTION_LOCK)


@pytest.mark.parametrize("times", [0, 1, 3])
def test_closing_ends_a_compaction_at_its_next_batch_and_loses_nothing(
    directory: Path, files: FaultyFiles, times: int
) -> None:
    """The thread's own; what was finished stays, and no copy that was not finished."""
    log, other = open_quiet(directory, files=files), open_quiet(directory)
    partition = make(log)
    fill(log, partition, 25, keys=30)
    fill(log, partition, 25, keys=30)
    written, left, reached = records_of(log), [times], threading.Event()

    def before(operation: str, path: Path) -> None:
        if operation == "pwritev" and path.suffix == ".log":
            left[0] -= 1
            if left[0] == -1:
                reached.set()
                until(other, lambda: log._cleaner._closing)

    files.before = before
    type(log._cleaner).submit(log._cleaner, partition)
    assert reached.wait(TIMEOUT_S)
    log.close()
    assert left[0] >= -2, "it went on to the next segment"
    other.close()
    with open_quiet(directory) as log:
        partition, found = log.partition(log.topic("t"), 0), records_of(log)
        assert {record[1]: record for record in found} == {record[1]: record for record in written}
        assert [record for record in found if record not in written] == []
        assert names_in(partition) == names_that_should_be(partition)
    assert findings(directory) == []


@pytest.mark.parametrize("open_elsewhere", [True, False])
def test_a_compaction_in_another_thread_ends_when_the_log_is_closed(
    directory: Path, files: FaultyFiles, open_elsewhere: bool
) -> None:
    """With an error that says so; its lock is given back, and nobody else's file is locked in its place."""
    log = open_quiet(directory, files=files)
    other = open_quiet(directory) if open_elsewhere else None
    partition = make(log)
    fill(log, partition, 25)
    reached, closed, failed = threading.Event(), threading.Event(), list[BaseException]()

    def before(operation: str, path: Path) -> None:
        if operation == "pwritev":
            reached.set()
            assert closed.wait(TIMEOUT_S)

    files.before = before

    def compact() -> None:
        try:
            log.compact("t")
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is looked at below
            failed.append(error)

    thread = threading.Thread(target=compact)
    thread.start()
    assert reached.wait(TIMEOUT_S)
    closing = threading.Thread(target=log.close)
    closing.start()
    until(log, lambda: log._cleaner._closing)
    closed.set()
    for one in (thread, closing):
        one.join(TIMEOUT_S)
        assert not one.is_alive()
    assert isinstance(failed[0], LogClosed), failed
    with other or open_quiet(directory) as log:
        assert log.compact("t").segments > 0


def test_a_partition_that_cannot_be_compacted_does_not_keep_others_from_it(
    log: Log, files: FaultyFiles, caplog: pytest.LogCaptureFixture
) -> None:
    """It is named in the process's log, and the thread goes on."""
    first = make(log)
    second = log.partition(log.create_topic("second", 1, first.topic.settings), 0)
    for partition in (first, second):
        fill(log, partition, 9, keys=1)
    path = first.segments()[0].path
    path.write_bytes(bytes(path.stat().st_size))
    for partition in (first, second):
        type(log._cleaner).submit(log._cleaner, partition)
    until(log, lambda: offsets_of(log, topic="second") == [7, 8])
    assert f"compaction of t-0: {path} is damaged at byte 0" in caplog.text


def test_compaction_opens_and_closes_its_files(log: Log) -> None:
    partition = make(log)
    fill(log, partition, 13)
    before = set(os.listdir("/proc/self/fd"))
    log.compact("t")
    assert len(set(os.listdir("/proc/self/fd"))) <= len(before)


def test_a_log_that_is_closed_is_not_compacted(directory: Path) -> None:
    log = open_quiet(directory, files=Files())
    make(log, **COMPACT)
    log.close()
    with pytest.raises(LogClosed):
        log.compact("t")
