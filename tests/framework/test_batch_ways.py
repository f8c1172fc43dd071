"""What is read of a log, by every way there is of reading a batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from framework import Batch
from framework.log import Files, Partition, Range, Reader, Times
from framework.log.codec import decode, rewrite
from framework.log.header import HEADER_BYTES, read_header
from tests.framework.shelf import BAD, Shelf, Told

BATCHES = st.lists(
    st.lists(
        st.tuples(st.one_of(st.integers(0, 99), st.none(), st.just(BAD)), st.integers(0, 20)), min_size=1, max_size=9
    ),
    max_size=6,
)
BOUND = st.one_of(st.none(), st.integers(-1, 22))
OFFSET = st.integers(0, 40)


@given(BATCHES, BATCHES, st.sets(OFFSET), st.lists(OFFSET, min_size=4, max_size=4), BOUND, BOUND, st.integers(1, 20))
@settings(max_examples=150, deadline=None)
def test_every_way_of_reading_gives_the_records_of_the_range_and_the_times(
    tmp_path_factory: Any, left: Any, right: Any, gone: set[int], ranges: list[int], since: Any, until: Any, size: int
) -> None:
    """Log batches of any sizes, cut by ranges and chunks; records compacted away, tombstones and bad ones.

    Times are not negative, because -1 stands for none in this format.
    """
    shelf = Shelf(tmp_path_factory.mktemp("data"))
    with shelf.app.opened():
        for number, batches in enumerate((left, right)):
            for each in batches:
                shelf.append([value for value, _ in each], [time for _, time in each], at=number)
        told = Told(Times(since, until))
        spans = [(0, *sorted(ranges[:2])), (1, *sorted(ranges[2:]))]
        spans = [(n, start, min(end, shelf.partition(n).high_watermark)) for n, start, end in spans]
        spans = [(n, min(start, end), end) for n, start, end in spans]
        expected = []
        for (_, start, end), batches in zip(spans, (left, right), strict=True):
            every = [pair for each in batches for pair in each]
            expected += [
                value
                for offset, (value, time) in enumerate(every)
                if start <= offset < end and offset not in gone
                if (since is None or time >= since) and (until is None or time < until)
            ]
        listed = [Range(shelf.partition(n), start, end) for n, start, end in spans]
        cursor = told.cursor(lambda part, offset: Compacted(part, Files(), offset, gone), listed)
        batch: Batch[Any] = Batch(cursor, shelf.topic, reading=told)
        values = [value for value in expected if isinstance(value, int)]
        assert list(batch) == values
        assert [record.value for record in batch.records()] == [value for value in expected if value != BAD]
        assert len(batch) == len(expected)
        chunks = list(batch.chunks(size))
        assert [value for chunk in chunks for value in chunk] == values
        assert [value for chunk in chunks for value in chunk] == values
        assert [len(chunk) for chunk in chunks] == [
            min(size, len(expected) - at) for at in range(0, len(expected), size)
        ]
        assert told.gaps == []


class Compacted(Reader):
    """Reads as if the records at some offsets had been compacted away."""

    def __init__(self, partition: Partition, files: Files, offset: int, gone: set[int]) -> None:
        super().__init__(partition, files, offset)
        self._gone = gone

    def read(self, max_bytes: int = 1 << 20) -> Any:
        fetched = super().read(max_bytes)
        batches = []
        for _, batch in fetched.batches:
            keep = [record.offset not in self._gone for record in decode(batch)]
            if any(keep):
                shorter = memoryview(rewrite(batch, keep, None, 1 << 20))
                batches.append((read_header(shorter), shorter))
        return replace(fetched, batches=batches)


class Emptied(Reader):
    """Leaves only the headers of batches that are older than 9 ms."""

    def read(self, max_bytes: int = 1 << 20) -> Any:
        fetched = super().read(max_bytes)
        batches = [(h, batch[:HEADER_BYTES] if h.max_timestamp < 9 else batch) for h, batch in fetched.batches]
        return replace(fetched, batches=batches)


def test_of_batches_that_are_older_only_the_headers_are_looked_at(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "data")
    with shelf.app.opened():
        for number in range(5):
            shelf.append([number, number], [number, 10 - number])
        told = Told(Times(9, 11))
        cursor = told.cursor(lambda part, at: Emptied(part, Files(), at), [Range(shelf.partition(), 0, 10)])
        batch: Batch[int] = Batch(cursor, shelf.topic, reading=told)
        assert (list(batch), len(batch), [list(chunk) for chunk in batch.chunks(1)]) == ([0, 1], 2, [[0], [1]])
        assert [record.offset for record in batch.records()] == [1, 3]
        assert told.pauses > 5, "also a run that skips is asked now and then"
