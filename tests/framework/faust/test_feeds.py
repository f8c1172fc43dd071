"""One partition on its way to Faust: what is handed out, what may be committed, and what has no records."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from framework.faust.feeds import Feed
from framework.faust.records import end_of_records
from framework.log import Log, NewRecord, TopicSettings, encode
from framework.log.errors import OffsetOutOfRange
from framework.log.header import CONTROL, HEADER, read_header, seal
from tests.framework.faust.group_of import TOPIC


def append(log: Log, values: Iterable[int], *, topic: str = TOPIC, key: bytes | None = None) -> None:
    """One batch."""
    records = [NewRecord(key, b"%d" % value, value) for value in values]
    log.append(log.partition(log.topic(topic), 0), encode(records, max_batch_bytes=1 << 20)).result()


def append_control(log: Log) -> None:
    """A batch that holds no record for anybody."""
    [batch] = encode([NewRecord(b"\0\0\0\0", b"", 0)], max_batch_bytes=1 << 20)
    header = read_header(batch)
    batch[: HEADER.size] = HEADER.pack(*header._replace(attributes=header.attributes | CONTROL))
    seal(batch)
    log.append(log.partition(log.topic(TOPIC), 0), [batch]).result()


def feed_of(log: Log, offset: int, *, topic: str = TOPIC) -> Feed:
    """A feed that begins at *offset*; where there is none such, it is an error."""

    def reset(start: int, end: int) -> int:
        raise OffsetOutOfRange(f"{start} to {end}")

    feed = Feed(log, log.partition(log.topic(topic), 0), reset)
    feed.seek(offset)
    return feed


def hand(feed: Feed, most: int = 1 << 30) -> list[int]:
    """Take, and hand out at most *most*."""
    offsets = [record.offset for record in feed.take()][:most]
    feed.handed.extend(offsets)
    return offsets


def test_nothing_is_given_before_it_is_told_where_to_begin(log: Log) -> None:
    append(log, range(3))
    feed = Feed(log, log.partition(log.topic(TOPIC), 0), lambda start, end: start)
    assert not feed.is_ready
    feed.seek(1)
    assert feed.is_ready
    assert hand(feed) == [1, 2]
    assert not feed.is_ready


def test_what_was_taken_and_not_handed_out_comes_again(log: Log) -> None:
    append(log, range(10))
    append(log, range(10))
    feed = feed_of(log, 0)
    assert hand(feed, 4) == [0, 1, 2, 3]
    assert feed.is_ready
    assert hand(feed, 2) == [4, 5]
    assert hand(feed) == list(range(6, 20))
    assert feed.take() == []


def test_the_frontier_is_before_the_first_that_is_not_finished(log: Log) -> None:
    append(log, range(5))
    feed = feed_of(log, 0)
    hand(feed)
    assert feed.advance({1, 2, 4}) == 0
    assert feed.advance({0}) == 3
    assert feed.advance({3}) == 5


def test_offsets_without_records_hold_up_nothing(log: Log) -> None:
    """Behind the very first record, too, where Faust's own account of gaps stands still for ever."""
    append(log, [0])
    append_control(log)
    append(log, [2])
    append_control(log)
    feed = feed_of(log, 0)
    assert hand(feed) == [0, 2]
    assert feed.advance({0}) == 1
    assert feed.advance({2}) == 3
    assert not feed.is_ready


def test_nothing_behind_a_gap_is_taken_for_finished(log: Log) -> None:
    append(log, [0])
    append_control(log)
    append(log, [2, 3])
    feed = feed_of(log, 0)
    hand(feed)
    assert feed.advance({0, 3}) == 1


def test_a_seek_forgets_what_was_in_hand(log: Log) -> None:
    append(log, range(5))
    feed = feed_of(log, 0)
    hand(feed)
    assert feed.advance({0, 1, 3}) == 2
    feed.seek(1)
    assert hand(feed) == [1, 2, 3, 4]
    assert feed.advance({1}) == 2


def test_what_is_finished_late_and_is_in_nobodys_hands_is_forgotten(log: Log) -> None:
    append(log, range(3))
    feed = feed_of(log, 0)
    hand(feed)
    feed.seek(3)
    assert feed.advance({0, 1, 2}) == 3
    assert feed.finished == set()


def test_without_acknowledgements_all_that_was_handed_out_is_behind(log: Log) -> None:
    append(log, range(1000))
    feed = feed_of(log, 0)
    feed.count(acknowledged=False)
    hand(feed)
    assert (feed.position, len(feed.handed)) == (1000, 1)


def test_retention_that_was_faster_is_told_and_reading_goes_on(log: Log) -> None:
    for _ in range(4):
        append(log, range(10))
    partition = log.partition(log.topic(TOPIC), 0)
    told = []

    def reset(start: int, end: int) -> int:
        told.append((start, end))
        return start

    feed = Feed(log, partition, reset)
    feed.seek(5)
    partition.delete_records(25)
    assert hand(feed) == list(range(25, 40))
    assert told == [(25, 40)]


def test_a_position_behind_the_end_is_told(log: Log) -> None:
    append(log, range(10))
    feed = Feed(log, log.partition(log.topic(TOPIC), 0), lambda start, end: end - 2)
    feed.seek(500)
    assert feed.is_ready
    assert hand(feed) == [8, 9]


def test_one_whose_app_does_not_want_that_fails(log: Log) -> None:
    append(log, range(10))
    feed = feed_of(log, 500)
    with pytest.raises(OffsetOutOfRange, match="0 to 10"):
        feed.take()


def test_any_order_of_taking_finishing_and_seeking_loses_nothing(log: Log, seed: int) -> None:
    """Against the plain definition: all before the frontier was finished since it was told to begin."""
    random_numbers = random.Random(seed)
    for _ in range(30):
        append(log, range(random_numbers.randint(1, 20)))
        if random_numbers.random() < 0.3:
            append_control(log)
    everything = [record.offset for _, record in log.read(TOPIC, partitions=[0])]
    feed, begin, open_offsets, finished = feed_of(log, 0), 0, list[int](), set[int]()
    for _ in range(2000):
        step = random_numbers.random()
        if step < 0.4:
            taken = hand(feed, random_numbers.randint(1, 30))
            expected = [offset for offset in everything if offset >= begin and offset not in finished]
            assert taken == [offset for offset in expected if offset not in open_offsets][: len(taken)]
            open_offsets += taken
        elif step < 0.97 and open_offsets:
            some = {random_numbers.choice(open_offsets) for _ in range(3)}
            finished |= some
            open_offsets = [offset for offset in open_offsets if offset not in some]
            frontier = feed.advance(set(some))
            assert all(offset in finished for offset in everything if begin <= offset < frontier)
            assert not open_offsets or frontier <= min(open_offsets)
        elif step >= 0.97:
            begin = random_numbers.choice(everything)
            feed.seek(begin)
            open_offsets, finished = [], set()


# Where records end.


def test_records_end_at_the_high_watermark(log: Log) -> None:
    partition = log.partition(log.topic(TOPIC), 0)
    assert end_of_records(log, partition) == 0
    append(log, range(7))
    assert end_of_records(log, partition) == 7


def test_they_end_before_it_where_the_last_offsets_have_none(log: Log) -> None:
    """A table that waits for a record at the end of its changelog would wait for ever."""
    append(log, range(3))
    for _ in range(200):
        append_control(log)
    assert end_of_records(log, log.partition(log.topic(TOPIC), 0)) == 3


def test_they_end_where_the_log_begins_if_there_are_none(log: Log) -> None:
    append(log, range(3))
    append_control(log)
    partition = log.partition(log.topic(TOPIC), 0)
    partition.delete_records(3)
    assert end_of_records(log, partition) == 3


def test_a_compacted_topic_is_read_whole(log: Log) -> None:
    log.create_topic("changes", 1, TopicSettings(cleanup_policy="compact", segment_bytes=4096))
    for number in range(300):
        append(log, [number], topic="changes", key=b"k%d" % (number % 3))
    log.compact("changes")
    expected = [record.offset for _, record in log.read("changes")]
    assert len(expected) < 300
    feed, found = feed_of(log, 0, topic="changes"), list[int]()
    while feed.is_ready:
        found += hand(feed)
    assert found == expected
    assert feed.advance(set(expected)) == 300
