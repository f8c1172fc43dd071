"""The sparse index of a segment agrees with a search through the whole file, walked, noted or loaded."""

from __future__ import annotations

import random
import struct
from bisect import bisect_right
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.log import Files
from framework.log.appended import APPENDED_MAGIC, first_offset_at_second, pack_entry
from framework.log.codec import NewRecord, encode
from framework.log.header import set_base_offset
from framework.log.manifest import SegmentRow
from framework.log.segment import Segment

INTERVAL = 512
BASE = 1000
Row = tuple[int, int, int, list[int]]
"""Base offset, position, size, timestamps of a batch."""


class SegmentFile:
    """A segment file, and everything in it."""

    def __init__(self, directory: Path, seed: int, batches: int = 120, interval: int = INTERVAL) -> None:
        """Write *batches* of random sizes and timestamps that mostly grow."""
        print(f"seed {seed}")
        self.random, self.interval, self.directory = random.Random(seed), interval, directory
        self.rows: list[Row] = []
        offset, data, now = BASE, b"", 1_000_000
        for _ in range(batches):
            now += self.random.choice([0, 1, 40])
            times = [now + self.random.randrange(-50, 50) for _ in range(self.random.randrange(1, 9))]
            records = [NewRecord(None, bytes(self.random.randrange(60)), at) for at in times]
            [batch] = encode(records, max_batch_bytes=1 << 20)
            set_base_offset(batch, offset)
            self.rows.append((offset, len(data), len(batch), times))
            data, offset = data + bytes(batch), offset + len(times)
        self.data, self.end = data, offset
        self.path = directory / f"{BASE:020}.4.log"
        self.path.write_bytes(data)

    def segment(self, *, closed: bool = False) -> Segment:
        """The segment, with nothing known of it yet."""
        return Segment(self.directory, SegmentRow(BASE, 4, len(self.data) if closed else None), self.interval)

    def walked(self, end: int | None = None) -> Segment:
        """The segment, walked."""
        segment, files = self.segment(), Files()
        fd = files.open(self.path, write=False)
        try:
            segment.walk_to(files, fd, len(self.data) if end is None else end)
        finally:
            files.close(fd)
        return segment

    def check(self, segment: Segment) -> None:
        """Compare every offset and time with a search through the file."""
        places = {position for _, position, _, _ in self.rows}
        bases = [base for base, *_ in self.rows]
        largest = max(size for _, _, size, _ in self.rows)
        for offset in range(BASE, self.end):
            _, position, _, _ = self.rows[bisect_right(bases, offset) - 1]
            found = segment.place_below(offset)[0]
            assert found in places
            assert found <= position < found + self.interval + largest
        stamped = [(time, base + at) for base, _, _, times in self.rows for at, time in enumerate(times)]
        for time in range(min(stamped)[0] - 2, max(stamped)[0] + 3):
            first = min((offset for at, offset in stamped if at >= time), default=self.end)
            found = segment.offset_below_time(time)
            assert found in bases
            assert found <= first
            nearest = self.rows[bisect_right(bases, min(first, self.end - 1)) - 1]
            assert nearest[1] < self.rows[bases.index(found)][1] + 2 * (self.interval + largest)
        assert segment.max_timestamp == max(stamped)[0]


@pytest.mark.parametrize("seed", range(3))
def test_a_walked_index_finds_every_offset_and_time(tmp_path: Path, seed: int) -> None:
    file = SegmentFile(tmp_path, seed)
    file.check(file.walked())


def test_an_index_noted_batch_by_batch_is_the_one_a_walk_gives(tmp_path: Path) -> None:
    file = SegmentFile(tmp_path, 11)
    segment = file.segment()
    for base, position, size, times in file.rows:
        segment.note(base, position, size, max(times))
    assert segment.index_bytes() == file.walked().index_bytes()


def test_a_note_behind_a_gap_is_ignored_until_the_gap_is_walked(tmp_path: Path) -> None:
    """Another process wrote what lies between."""
    file = SegmentFile(tmp_path, 12)
    segment, files = file.walked(file.rows[30][1]), Files()
    for base, position, size, times in file.rows[60:]:
        segment.note(base, position, size, max(times))
    fd = files.open(file.path, write=False)
    segment.walk_to(files, fd, len(file.data))
    files.close(fd)
    assert segment.index_bytes() == file.walked().index_bytes()
    file.check(segment)


@pytest.mark.parametrize("cut", [0, 1, 60, 61, 1000])
def test_walking_stops_at_a_batch_that_is_not_whole_and_goes_on_when_it_is(tmp_path: Path, cut: int) -> None:
    file = SegmentFile(tmp_path, 13)
    segment, files = file.walked(cut), Files()
    fd = files.open(file.path, write=False)
    segment.walk_to(files, fd, len(file.data))
    files.close(fd)
    assert segment.index_bytes() == file.walked().index_bytes()


def test_a_batch_larger_than_what_is_read_at_once_is_walked_over(tmp_path: Path) -> None:
    data, sizes = b"", []
    for offset, size in enumerate([10, 3 << 20, 20, (1 << 20) - 50, 30]):
        [batch] = encode([NewRecord(None, bytes(size), offset)], max_batch_bytes=8 << 20)
        set_base_offset(batch, BASE + offset)
        sizes.append(len(data))
        data += bytes(batch)
    (tmp_path / f"{BASE:020}.4.log").write_bytes(data)
    segment, files = Segment(tmp_path, SegmentRow(BASE, 4, None), 1), Files()
    fd = files.open(segment.path, write=False)
    segment.walk_to(files, fd, len(data))
    files.close(fd)
    assert [segment.place_below(BASE + at)[0] for at in range(5)] == sizes
    assert segment.max_timestamp == 4


def test_an_index_of_nothing_points_to_the_beginning(tmp_path: Path) -> None:
    segment = Segment(tmp_path, SegmentRow(BASE, 4, None), INTERVAL)
    assert segment.place_below(BASE + 5)[0] == 0
    assert segment.offset_below_time(0) == BASE
    assert segment.max_timestamp == -1


def test_an_index_file_says_what_the_walk_said(tmp_path: Path) -> None:
    file = SegmentFile(tmp_path, 14)
    segment = file.segment(closed=True)
    segment.index_path.write_bytes(file.walked().index_bytes())
    segment.load_index()
    file.check(segment)


def test_an_index_file_with_any_flipped_byte_or_length_is_not_believed(tmp_path: Path) -> None:
    """It can be rebuilt, so it is; the answers stay the same."""
    file = SegmentFile(tmp_path, 15, batches=40)
    sound = file.walked().index_bytes()
    broken = [sound[:length] for length in range(len(sound))]
    broken += [sound[:at] + bytes([sound[at] ^ 0x10]) + sound[at + 1 :] for at in range(len(sound))]
    for data in [*broken, sound + bytes(24)]:
        segment = file.segment(closed=True)
        segment.index_path.write_bytes(data)
        segment.load_index()
        assert segment.place_below(file.end)[0] == 0, "nothing is known yet"
    files = Files()
    fd = files.open(file.path, write=False)
    segment.walk_to(files, fd, len(file.data))
    files.close(fd)
    file.check(segment)


def test_a_missing_index_file_is_no_error(tmp_path: Path) -> None:
    segment = SegmentFile(tmp_path, 16, batches=3).segment(closed=True)
    segment.load_index()
    assert segment.place_below(BASE)[0] == 0


def test_the_index_of_an_empty_segment_loads(tmp_path: Path) -> None:
    segment = Segment(tmp_path, SegmentRow(BASE, 4, 0), INTERVAL)
    segment.index_path.write_bytes(segment.index_bytes())
    segment.load_index()
    assert segment.place_below(BASE)[0] == 0


any_entries = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), max_size=20)


@given(any_entries, st.integers(0, 60), st.integers(0, 15))
def test_the_first_offset_of_a_second_is_the_first_appended_then_or_later(
    steps: list[tuple[int, int]], second: int, torn: int
) -> None:
    """A torn entry at the end is as if it were not there."""
    entries, at, offset = [], 0, 0
    for waited, records in steps:
        at, offset = at + waited, offset + records
        entries.append((at, offset))
    data = APPENDED_MAGIC + b"".join(pack_entry(*entry) for entry in entries) + struct.pack(">Q", 0)[:8] * 2
    data = data[: len(data) - 16 + torn]
    expected = next((base for when, base in entries if when >= second), None)
    assert first_offset_at_second(data, second) == expected
