"""How batches are read: what whoever runs a handler is asked and told, gaps, chunks from the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from framework import Batch, Topic
from framework.errors import DecodeError
from framework.log import Cursor, NewRecord, TopicSettings, encode
from framework.log.errors import OffsetOutOfRange
from framework.reading import SLICE_RECORDS, Reading
from tests.framework.shelf import BAD, RUN, Shelf, Told

SMALL = TopicSettings(segment_bytes=4096, max_message_bytes=1024, index_interval_bytes=512)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    """A new one; closed after the test."""
    shelf = Shelf(tmp_path / "data")
    yield shelf
    shelf.app.close()


# Pauses and bad records.


def test_a_run_has_its_say_before_every_few_hundred_records(shelf: Shelf) -> None:
    shelf.append(range(10 * SLICE_RECORDS))
    told = Told()
    batch = shelf.batch(told)
    values = iter(batch)
    assert (next(values), told.pauses <= 2) == (0, True)
    assert len([next(values) for _ in range(SLICE_RECORDS)]) == SLICE_RECORDS
    assert told.pauses <= 3, "one slice ahead at most"
    assert len(list(values)) == 9 * SLICE_RECORDS - 1
    assert 10 <= told.pauses <= 13
    for read in (lambda: len(batch), lambda: list(batch.records()), lambda: list(batch.chunks(100))):
        before = told.pauses
        read()
        assert told.pauses > before


def test_a_run_that_is_over_is_not_read_on(shelf: Shelf) -> None:
    class Over(Reading):
        def pause(self) -> None:
            raise TimeoutError("it took too long")

    shelf.append(range(3))
    batch = shelf.batch(Over())
    for read in (lambda: list(batch), lambda: len(batch), lambda: list(batch.records()), lambda: next(batch.chunks(1))):
        with pytest.raises(TimeoutError, match="it took too long"):
            read()


def test_the_values_around_a_bad_record_are_read(shelf: Shelf) -> None:
    """In a slice with others, at its ends, and alone; each is told as often as it is read."""
    values: list[int | bytes | None] = [BAD, *range(1, SLICE_RECORDS - 1), BAD, BAD, None, SLICE_RECORDS + 2]
    shelf.append(values)
    shelf.append([BAD])
    good = [value for value in values if isinstance(value, int)]
    told = Told()
    batch = shelf.batch(told)
    assert list(batch) == good
    bads = [0, SLICE_RECORDS - 1, SLICE_RECORDS, SLICE_RECORDS + 3]
    assert told.bads == bads
    assert [record.value for record in batch.records() if not record.is_tombstone] == good
    assert told.bads == bads * 2
    assert [value for chunk in batch.chunks(7) for value in chunk] == good
    assert told.bads == bads * 3
    assert sum(records for _, records in told.commits) == len(values) + 1 == len(shelf.batch(told))


def test_what_comes_before_a_bad_record_is_handled_before_it_raises(shelf: Shelf) -> None:
    shelf.append([1, 2, BAD, 4])
    values = iter(shelf.batch(Reading()))
    assert [next(values), next(values)] == [1, 2]
    with pytest.raises(DecodeError, match=r"^numbers-0@2: not a valid int"):
        next(values)


# Chunks.


def test_asking_for_the_next_chunk_commits_exactly_what_came_before(shelf: Shelf) -> None:
    """Chunks end inside log batches and at their ends; the position is behind the last record of each."""
    shelf.append(range(4))
    shelf.append(range(4, 9))
    shelf.append(range(9, 11), at=1)
    for size in range(1, 13):
        told = Told()
        batch = shelf.batch(told, number=5)
        done = 0
        for number, chunk in enumerate(batch.chunks(size), 5):
            assert (chunk.number, chunk.run, list(chunk)) == (number, RUN, list(range(done, min(done + size, 11))))
            done += len(chunk)
            assert batch.open_records == len(chunk)
        ends = [min(end, 11) for end in range(size, 11 + size, size)]
        assert [starts for starts, _ in told.commits] == [[min(end, 9), max(end - 9, 0)] for end in ends], size
        assert sum(records for _, records in told.commits) == 11
        assert batch.number == 5 + len(ends)
        assert list(batch) == [], "what is committed is behind it"


def test_chunks_that_are_asked_for_again_go_on_in_a_run(shelf: Shelf) -> None:
    shelf.append(range(10))
    told = Told()
    batch = shelf.batch(told, resumed=True)
    first = batch.chunks(2)
    assert (list(next(first)), list(next(first)), told.commits) == ([0, 1], [2, 3], [([2, 0], 2)])
    rest = [(chunk.number, list(chunk), chunk.resumed) for chunk in batch.chunks(4)]
    assert rest == [(1, [4, 5, 6, 7], True), (2, [8, 9], True)]


def test_the_chunks_of_a_chunk_commit_nothing_and_move_nobody(shelf: Shelf) -> None:
    shelf.append(range(10))
    told = Told()
    batch = shelf.batch(told)
    found = []
    for chunk in batch.chunks(5):
        found.append([list(small) for small in chunk.chunks(2)])
        assert [list(small) for small in chunk.chunks(2)] == found[-1]
    assert found == [[[0, 1], [2, 3], [4]], [[5, 6], [7, 8], [9]]]
    assert told.commits == [([5, 0], 5), ([10, 0], 5)]


def test_a_commit_that_fails_ends_the_chunks(shelf: Shelf) -> None:
    """A handler that catches it gets no more records, which it could not commit."""

    class Failing(Told):
        def commit(self, cursor: Cursor, records: int) -> None:
            super().commit(cursor, records)
            raise OSError("no")

    shelf.append(range(10))
    told = Failing()
    chunks = shelf.batch(told).chunks(2)
    assert list(next(chunks)) == [0, 1]
    with pytest.raises(OSError, match="no"):
        next(chunks)
    assert (list(chunks), len(told.commits)) == ([], 1)


async def test_async_for_reads_and_commits_in_a_thread_that_sees_the_context(shelf: Shelf) -> None:
    seen = ContextVar[str]("seen")
    seen.set("the handler's")

    class Contextual(Told):
        def commit(self, cursor: Cursor, records: int) -> None:
            super().commit(cursor, records)
            assert seen.get() == "the handler's"

    shelf.append(range(10))
    told = Contextual()
    found = []
    async for chunk in shelf.batch(told).chunks(4):
        assert threading.get_ident() not in told.threads
        found.append((chunk.number, len(chunk)))
    assert (found, [records for _, records in told.commits]) == ([(0, 4), (1, 4), (2, 2)], [4, 4, 2])
    assert threading.get_ident() not in told.threads
    with pytest.raises(ValueError, match=r"chunks\(0\)"):
        shelf.batch(told).chunks(0)


async def test_the_loop_goes_on_during_a_commit_and_a_handler_that_is_cancelled_waits_for_it(shelf: Shelf) -> None:
    """Else the thread would commit behind the run's back."""
    begun, free = threading.Event(), threading.Event()

    class Slow(Told):
        def commit(self, cursor: Cursor, records: int) -> None:
            begun.set()
            assert free.wait(60)
            super().commit(cursor, records)

    async def handle() -> None:
        async for _ in shelf.batch(told).chunks(4):
            pass

    shelf.append(range(10))
    told = Slow()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(handle())
        await asyncio.to_thread(begun.wait, 60)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        free.set()
    assert task.cancelled()
    assert [records for _, records in told.commits] == [4]


# Gaps.


def segments(shelf: Shelf) -> Topic[Any]:
    """A topic of many small segments, with records 0 to 99."""
    shelf.app.log.create_topic("many", 1, SMALL)
    shelf.topic = shelf.app.topic("many", int)
    for number in range(100):
        raw = b"%d" % number + b" " * 200  # JSON may end in spaces.
        part = shelf.partition()
        shelf.app.log.append(part, encode([NewRecord(None, raw, number)], max_batch_bytes=1024)).result(60)
    return shelf.topic


def reads(batch: Batch[int]) -> dict[str, Callable[[], list[int]]]:
    """Ways to read all values."""
    return {
        "values": lambda: list(batch),
        "records": lambda: [record.value for record in batch.records()],
        "chunks": lambda: [value for chunk in batch.chunks(7) for value in chunk],
        "count": lambda: list(range(100 - len(batch), 100)),
    }


@pytest.mark.parametrize("way", ["values", "records", "chunks", "count"])
@pytest.mark.parametrize(("removed", "end"), [(40, 100), (95, 90), (40, 40)])
def test_reading_goes_on_behind_records_that_were_removed(shelf: Shelf, way: str, removed: int, end: int) -> None:
    """Before the range, up to its end and beyond it; the offsets told are those of the range."""
    segments(shelf)
    told = Told()
    batch = shelf.batch(told, (0, 10, end))
    shelf.partition().delete_records(removed)
    left = list(range(min(removed, end), end))
    assert reads(batch)[way]() == (left if way != "count" else list(range(100 - len(left), 100)))
    assert set(told.gaps) == {(10, min(removed, end))}


def test_of_a_log_batch_that_was_cut_the_rest_is_read(shelf: Shelf) -> None:
    """The file still holds what was removed of it."""
    shelf.append(range(10))
    told = Told()
    batch = shelf.batch(told)
    shelf.partition().delete_records(4)
    assert (list(batch), [record.offset for record in batch.records()]) == ([*range(4, 10)], [*range(4, 10)])
    assert [list(chunk) for chunk in batch.chunks(4)] == [[4, 5, 6, 7], [8, 9]]
    assert set(told.gaps) == {(0, 4)}


def test_records_that_are_removed_in_the_middle_are_a_gap_there(shelf: Shelf) -> None:
    segments(shelf)
    told = Told()
    found = []
    for chunk in shelf.batch(told, (0, 0, 100)).chunks(10):
        found.append(list(chunk))
        if len(found) == 2:
            shelf.partition().delete_records(70)
            assert list(chunk) == found[-1], "a chunk is in memory"
    values = [value for each in found for value in each]
    [(start, end)] = told.gaps
    assert 20 <= start < 70 == end, "what was read already is given"
    assert values == [*range(start), *range(70, 100)]
    assert told.commits[-1] == ([100], len(found[-1]))


@pytest.mark.parametrize("reading", [None, Reading()], ids=["outside", "by default"])
def test_without_leave_removed_records_are_an_error(shelf: Shelf, reading: Reading | None) -> None:
    topic = segments(shelf)
    batch = topic.read(10) if reading is None else shelf.batch(reading, (0, 10, 100))
    shelf.partition().delete_records(40)
    for read in reads(batch).values():
        with pytest.raises(OffsetOutOfRange, match="many-0"):
            read()
