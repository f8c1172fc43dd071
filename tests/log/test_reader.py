"""Pull reads: from any offset, in any chunks, across rolls, and what is damaged is said and not served."""

from __future__ import annotations

import random
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from framework.log import Files, Log, NewRecord, Partition, TopicSettings, decode, encode
from framework.log.errors import Damaged, OffsetOutOfRange
from framework.log.header import CONTROL, checksum, read_header, walk
from framework.log.reader import READ_AHEAD_BYTES

SMALL = TopicSettings(segment_bytes=4096, index_interval_bytes=512)


def batches(*values: bytes) -> list[bytearray]:
    """*values* as one batch."""
    return encode([NewRecord(None, value, 0) for value in values], max_batch_bytes=1 << 24)


def fill(log: Log, partition: Partition, seed: int, count: int) -> list[bytes]:
    """Append *count* records in batches of random sizes, some larger than a segment; their values."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    written: list[bytes] = []
    while len(written) < count:
        sizes = [chance.choice([0, 5, 60, 300]) for _ in range(chance.randrange(1, 8))]
        values = [b"%d:" % (len(written) + at) + bytes(size) for at, size in enumerate(sizes)]
        if chance.random() < 0.05:
            values[0] += bytes(6000)
        log.append(partition, batches(*values)).result(60)
        written += values
    return written


@pytest.fixture
def filled(open_log: Any) -> tuple[Log, Partition, list[bytes]]:
    """A log, a partition of many segments, and the values in it."""
    log = open_log()
    partition = log.partition(log.create_topic("t", 1, SMALL), 0)
    return log, partition, fill(log, partition, 21, 400)


def test_reading_begins_at_any_offset(filled: Any, read_all: Any) -> None:
    log, partition, written = filled
    assert len(partition.segments()) > 10
    for offset in range(0, len(written), 7):
        records = read_all(log, partition, offset)
        assert [record.offset for record in records] == list(range(offset, len(written)))
        assert [record.value for record in records] == written[offset:]


@pytest.mark.slow
@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("max_bytes", [1, 60, 61, 62, 100, 500, 4096, 1 << 20])
def test_a_read_gives_at_most_its_bytes_or_exactly_one_batch(
    filled: Any, open_log: Any, max_bytes: int, reopened: bool
) -> None:
    log, partition, written = filled
    if reopened:
        log.close()
        log = open_log()
        partition = log.partition(log.topic("t"), 0)
    for start in (0, 1, 33, 200, len(written) - 1):
        reader, at = log.reader(partition, start), start
        while at < len(written):
            fetched = reader.read(max_bytes)
            sizes = [len(batch) for _, batch in fetched.batches]
            assert sizes
            assert sum(sizes) <= max_bytes or len(sizes) == 1
            first = fetched.batches[0][0]
            assert first.base_offset <= at < first.next_offset
            found = [record for _, batch in fetched.batches for record in decode(batch) if record.offset >= at]
            assert [record.value for record in found] == written[at : at + len(found)]
            at = found[-1].offset + 1
            assert fetched.next_offset == reader.offset == at
        assert reader.read(max_bytes).batches == []
        reader.close()


def test_seeking_goes_back_and_forth(filled: Any) -> None:
    log, partition, written = filled
    reader = log.reader(partition, 0)
    for offset in (300, 5, len(written), 0, 399, 399):
        reader.seek(offset)
        found = [record for _, batch in reader.read(2000).batches for record in decode(batch)]
        assert [r.value for r in found if r.offset >= offset][:1] == written[offset : offset + 1]
    reader.close()


def test_a_closed_reader_goes_on_where_it_was(filled: Any) -> None:
    log, partition, written = filled
    reader, found = log.reader(partition, 0), []
    while fetched := reader.read(1000).batches:
        found += [record.value for _, batch in fetched for record in decode(batch)]
        reader.close()
        reader.close()
    assert found == written


@pytest.mark.parametrize("max_bytes", [1 << 20, 3000])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_reader_that_keeps_up_reads_across_rolls(
    directory: Path, open_log: Any, child: Any, max_bytes: int, elsewhere: bool
) -> None:
    """It stands at the end of a segment when the next one begins, here or in another process."""
    log = open_log()
    partition = log.partition(log.create_topic("t", 1, SMALL), 0)
    script = """
    log = Log(sys.argv[1])
    while line := hear():
        log.append(log.partition(log.topic("t"), 0), batches(line.encode().ljust(1800))).result(60)
        say("appended")
    """
    writer = child(script, directory) if elsewhere else None
    reader = log.reader(partition, 0)
    for at in range(12):
        if writer:
            writer.say(str(at))
            assert writer.hear() == "appended"
        else:
            log.append(partition, batches((b"%d" % at).ljust(1800))).result(60)
        [(header, batch)] = reader.read(max_bytes).batches
        assert (header.base_offset, decode(batch)[0].value) == (at, (b"%d" % at).ljust(1800))
        assert reader.read(max_bytes).batches == []
    assert len(partition.segments()) == 6
    reader.close()


@pytest.mark.parametrize("max_bytes", [1 << 20, 2000])
def test_a_reader_that_fell_behind_reads_across_rolls(open_log: Any, max_bytes: int) -> None:
    """It opened the active segment, and finds it closed with others behind it."""
    log = open_log()
    partition = log.partition(log.create_topic("t", 1, SMALL), 0)
    log.append(partition, batches(b"0" * 1800)).result(60)
    reader, found = log.reader(partition, 0), []
    found += [header.base_offset for header, _ in reader.read(max_bytes).batches]
    for _ in range(9):
        log.append(partition, batches(b"1" * 1800)).result(60)
    while fetched := reader.read(max_bytes).batches:
        found += [header.base_offset for header, _ in fetched]
    assert found == list(range(10))
    reader.close()


def test_a_batch_larger_than_a_read_is_read_alone_and_whole(open_log: Any) -> None:
    log = open_log()
    partition = log.partition(log.create_topic("t", 1), 0)
    sizes = [10, 3 << 20, 10, (1 << 20) - 30, 10]
    for size in sizes:
        log.append(partition, batches(bytes(size))).result(60)
    reader = log.reader(partition, 1)
    assert [decode(batch)[0].value for _, batch in reader.read(1000).batches] == [bytes(3 << 20)]
    assert [decode(batch)[0].value for _, batch in reader.read(1000).batches] == [bytes(10)]
    for offset, size in enumerate(sizes):
        reader.seek(offset)
        assert decode(reader.read().batches[0][1])[0].value == bytes(size)
    reader.close()


def test_at_the_end_there_is_nothing_until_more_is_appended(filled: Any) -> None:
    log, partition, written = filled
    reader = log.reader(partition, len(written))
    assert reader.read().batches == []
    assert reader.read().next_offset == len(written)
    log.append(partition, batches(b"more")).result(60)
    assert [decode(batch)[0].value for _, batch in reader.read().batches] == [b"more"]
    reader.close()


def test_what_is_written_and_not_durable_is_not_read(open_log: Any) -> None:
    log = open_log()
    partition = log.partition(log.create_topic("t", 1), 0)
    log.append(partition, batches(b"durable")).result(60)
    partition.append([batches(b"a", b"b")])
    reader = log.reader(partition, 0)
    assert [decode(batch)[0].value for _, batch in reader.read().batches] == [b"durable"]
    assert reader.read().batches == []
    reader.seek(2)
    assert reader.read().batches == [], "between the high watermark and the log end"
    partition.advance(partition.sync())
    assert reader.read().next_offset == 3
    reader.close()


@pytest.mark.parametrize("offset", [-1, -(1 << 40), 4, 1 << 50])
def test_an_offset_outside_is_refused_with_start_and_end(open_log: Any, append: Any, offset: int) -> None:
    log = open_log()
    partition = log.partition(log.create_topic("t", 1), 0)
    with pytest.raises(OffsetOutOfRange, match=f"no offset {offset}: log start is 0, log end is 0"):
        log.reader(partition, offset).read()
    append(log, partition, b"a", b"b", b"c")
    reader = log.reader(partition, offset)
    with pytest.raises(OffsetOutOfRange, match=f"no offset {offset}: log start is 0, log end is 3"):
        reader.read()
    reader.seek(2)
    assert reader.read().next_offset == 3
    reader.close()


def test_control_batches_are_passed_over_and_their_offsets_are_a_gap(open_log: Any, append: Any) -> None:
    log = open_log()
    partition = log.partition(log.create_topic("t", 1), 0)
    for at, control in enumerate([False, True, True, False, True]):
        [batch] = batches(b"%d" % at)
        struct.pack_into(">h", batch, 21, CONTROL * control)
        struct.pack_into(">I", batch, 17, checksum(batch))
        log.append(partition, [batch]).result(60)
    for max_bytes in (61, 80, 150, 1 << 20):
        reader, found = log.reader(partition, 0), []
        while reader.offset < 5:
            found += [header.base_offset for header, _ in reader.read(max_bytes).batches]
        assert found == [0, 3]
        reader.close()


# Damage.


@pytest.fixture
def ten(open_log: Any) -> tuple[Log, Partition, Path, list[int]]:
    """A log with ten batches of one record in one segment file; where each begins."""
    log = open_log()
    partition = log.partition(log.create_topic("t", 1), 0)
    for at in range(10):
        log.append(partition, batches(b"%d" % at * 30)).result(60)
    path = partition.segments()[0].path
    return log, partition, path, [position for position, _, _ in walk(path.read_bytes())]


def change(path: Path, position: int, flipped: int) -> None:
    """Flip bits of one byte in place."""
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ flipped]))


@pytest.mark.parametrize("place", [8, 9, 16, 17, 22, 30, 60, 70])
def test_damage_is_reported_with_file_and_byte_and_never_served(ten: Any, place: int) -> None:
    log, partition, path, starts = ten
    change(path, starts[6] + place, 0x40)
    for offset in (5, 6):
        reader = log.reader(partition, offset)
        for sound in range(offset, 6):
            assert [header.base_offset for header, _ in reader.read(100).batches] == [sound]
        with pytest.raises(Damaged, match=f"{path.name} is damaged at byte {starts[6]}"):
            reader.read(100)
        with pytest.raises(Damaged):
            reader.read()
        reader.close()


def test_what_stands_before_the_damage_is_served_first(ten: Any) -> None:
    """However much is read at once: good data is never hidden."""
    log, partition, path, starts = ten
    change(path, starts[6] + 65, 1)
    reader = log.reader(partition, 0)
    assert [header.base_offset for header, _ in reader.read().batches] == list(range(6))
    with pytest.raises(Damaged, match=f"byte {starts[6]}, near offset 6"):
        reader.read()
    reader.close()


def test_what_stands_behind_the_damage_is_served_by_seeking_over_it(ten: Any) -> None:
    log, partition, path, starts = ten
    change(path, starts[6] + 65, 1)
    reader = log.reader(partition, 6)
    with pytest.raises(Damaged):
        reader.read(100)
    reader.seek(7)
    found = [header.base_offset for header, _ in reader.read(100).batches]
    assert found == [7]
    reader.close()


@pytest.mark.parametrize("bit", range(6))
def test_a_flipped_base_offset_is_reported_before_a_record_is_served_under_it(ten: Any, bit: int) -> None:
    """The checksum does not cover it, but the batch before it and the high watermark do."""
    log, partition, path, starts = ten
    change(path, starts[4] + 7, 1 << bit)
    reader = log.reader(partition, 0)
    for at in range(4):
        [(header, batch)] = reader.read(starts[1]).batches
        assert (header.base_offset, decode(batch)[0].value) == (at, b"%d" % at * 30)
    with pytest.raises(Damaged, match=path.name):
        reader.read(starts[1])
    reader.close()


def test_a_file_that_became_shorter_is_reported_with_what_is_missing(ten: Any) -> None:
    log, partition, path, starts = ten
    for length in (starts[8], starts[8] + 1, starts[8] + 61, starts[9] - 1):
        with path.open("r+b") as file:
            file.truncate(length)
        reader = log.reader(partition, 0)
        assert [header.base_offset for header, _ in reader.read(starts[8]).batches] == list(range(8))
        with pytest.raises(Damaged, match=f"{path.name} is damaged at byte {starts[8]}"):
            reader.read()
        reader.close()


def test_zeros_in_place_of_a_batch_are_reported(ten: Any) -> None:
    log, partition, path, starts = ten
    with path.open("r+b") as file:
        file.seek(starts[3])
        file.write(bytes(starts[4] - starts[3]))
    reader = log.reader(partition, 3)
    with pytest.raises(Damaged, match=f"byte {starts[3]}"):
        reader.read()
    reader.close()


def test_a_segment_file_that_is_gone_is_damage_and_the_others_are_served(filled: Any) -> None:
    log, partition, written = filled
    gone, following = partition.segments()[3:5]
    gone.path.unlink()
    with pytest.raises(Damaged, match=gone.path.name):
        log.reader(partition, gone.base_offset).read()
    reader = log.reader(partition, following.base_offset)
    assert decode(reader.read(10).batches[0][1])[0].value == written[following.base_offset]
    reader.close()


def test_a_segment_file_in_place_of_another_is_damage(filled: Any) -> None:
    log, partition, _ = filled
    first, second = partition.segments()[2:4]
    shutil.copy(first.path, second.path)
    with pytest.raises(Damaged, match=second.path.name):
        log.reader(partition, second.base_offset).read()


def test_a_wrong_index_file_costs_a_report_and_never_a_wrong_record(
    filled: Any, directory: Path, open_log: Any
) -> None:
    """The index of another segment, sound in itself."""
    log, partition, written = filled
    segments = partition.segments()
    log.close()
    shutil.copy(segments[5].index_path, segments[2].index_path)
    log = open_log()
    partition = log.partition(log.topic("t"), 0)
    for offset in range(segments[2].base_offset, segments[3].base_offset):
        reader = log.reader(partition, offset)
        try:
            found = [record for _, batch in reader.read().batches for record in decode(batch)]
        except Damaged:
            continue
        finally:
            reader.close()
        assert [record.value for record in found] == written[found[0].offset : found[-1].offset + 1]
        assert found[0].offset <= offset
    assert read_header(segments[2].path.read_bytes()).base_offset == segments[2].base_offset


class Asked(Files):
    """Files that remember what they were to read ahead."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.ahead: list[tuple[int, int]] = []

    def read_ahead(self, fd: int, position: int, size: int) -> None:
        """Remember it."""
        self.ahead.append((position, size))
        super().read_ahead(fd, position, size)


def test_who_reads_on_has_the_disk_read_ahead_and_who_is_at_the_end_does_not(open_log: Any, read_all: Any) -> None:
    files, mib = Asked(), 1 << 20
    log = open_log(files=files)
    partition = log.partition(log.create_topic("t", 1, TopicSettings(max_message_bytes=2 * mib)), 0)
    for _ in range(3 * READ_AHEAD_BYTES // mib):
        log.append(partition, batches(bytes(mib)))
    log.sync(partition).result(60)
    reader = log.reader(partition, 0)
    while reader.read().batches:
        pass
    asked = [position for position, _ in files.ahead]
    assert asked == [READ_AHEAD_BYTES * number for number in range(1, len(asked) + 1)]
    assert len(asked) >= 2
    for _ in range(20):
        log.append(partition, batches(b"one more")).result(60)
        assert reader.read().batches
    assert len(files.ahead) == len(asked)
