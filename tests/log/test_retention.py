"""Retention removes whole closed segments by age and size, and waits for readers; topics are altered and deleted."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from framework.log import Log, NewRecord, Partition, TopicSettings, encode
from framework.log.errors import InvalidSetting, OffsetOutOfRange, UnknownTopic

SMALL: dict[str, Any] = {"segment_bytes": 4096}
VALUE = bytes(900)
DAY_MS = 24 * 3600 * 1000


class ManualClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def log(tmp_path: Path, clock: ManualClock) -> Any:
    with Log(tmp_path / "data", create=True, clock=clock) as log:
        yield log


def topic(log: Log, **settings: Any) -> Partition:
    """A topic of one partition with small segments."""
    return log.partition(log.create_topic("t", 1, TopicSettings(**{**SMALL, **settings})), 0)


def fill(log: Log, partition: Partition, records: int, *, each: Callable[[], None] = lambda: None) -> None:
    """Append *records*, four of which fill a segment."""
    for _ in range(records):
        log.append(partition, encode([NewRecord(None, VALUE, 0)], max_batch_bytes=1 << 20)).result()
        each()


def offsets(log: Log, partition: Partition) -> list[int]:
    """The offsets that can be read from the log start on."""
    reader, found = log.reader(partition, partition.log_start), list[int]()
    while batches := reader.read().batches:
        found += [header.base_offset for header, _ in batches]
    return found


def stems(partition: Partition) -> set[str]:
    """The segments whose files are there."""
    return {path.name.partition(".")[0] for path in partition.directory.glob("*.*") if path.suffix != ".tmp"}


def test_segments_older_than_the_retention_go_and_younger_ones_stay(log: Log, clock: ManualClock) -> None:
    """By the time of the append: the records themselves are stamped 1970."""
    partition = topic(log, retention_ms=DAY_MS)
    fill(log, partition, 8)
    clock.ms += DAY_MS + 2000
    fill(log, partition, 6)
    assert partition.retain() == 8
    assert offsets(log, partition) == list(range(8, 14))
    assert stems(partition) == {f"{base:020}" for base in (8, 12)}


def test_a_topic_to_which_nothing_is_appended_any_more_becomes_empty(log: Log, clock: ManualClock) -> None:
    """Its active segment too; offsets go on where they were."""
    partition = topic(log, retention_ms=DAY_MS)
    fill(log, partition, 3)
    clock.ms += DAY_MS + 2000
    assert partition.retain() == 3
    assert offsets(log, partition) == []
    fill(log, partition, 1)
    assert offsets(log, partition) == [3]


def test_what_is_over_the_retention_bytes_goes_when_a_segment_is_rolled(log: Log) -> None:
    """Without a worker: whoever rolls does it, so a directory stays bounded."""
    partition = topic(log, retention_bytes=8000)
    fill(log, partition, 40)
    log.sync(partition).result()
    assert partition.log_start >= 28
    assert offsets(log, partition) == list(range(partition.log_start, 40))
    assert sum(path.stat().st_size for path in partition.directory.glob("*.log")) < 8000 + 2 * 4096


@pytest.mark.parametrize(("hold_bytes", "start"), [(-1, 4), (8000, 8)])
def test_retention_waits_for_readers_up_to_the_hold_bytes(log: Log, hold_bytes: int, start: int) -> None:
    partition = topic(log, retention_bytes=0, hold_bytes=hold_bytes)
    partition.set_hold(5)
    fill(log, partition, 17)
    assert partition.retain() == start
    partition.set_hold(17)
    assert partition.retain() == 16


def test_nothing_is_kept_forever_by_default_and_everything_with_minus_one(log: Log, clock: ManualClock) -> None:
    partition = topic(log, retention_ms=-1)
    fill(log, partition, 9)
    clock.ms += 1000 * DAY_MS
    assert partition.retain() == 0
    assert offsets(log, partition) == list(range(9))


def test_a_segment_is_rolled_when_it_has_been_open_for_segment_ms(log: Log, clock: ManualClock) -> None:
    partition = topic(log, segment_ms=1000)
    fill(log, partition, 2)
    clock.ms += 1000
    fill(log, partition, 1)
    assert [segment.base_offset for segment in partition.segments()] == [0, 2]


def test_a_reader_of_another_process_that_is_overtaken_by_retention_is_told_the_range(
    log: Log, tmp_path: Path, clock: ManualClock
) -> None:
    """It finishes the segment it has open; then the next one is gone."""
    partition = topic(log, retention_ms=DAY_MS)
    fill(log, partition, 12)
    child = Partition(log._place, partition.topic, 0)  # What another process knows: nothing is shared but the files.
    reader = log.reader(child, 0)
    assert len(reader.read(100).batches) == 1
    clock.ms += DAY_MS + 2000
    fill(log, partition, 6)
    assert partition.retain() == 12
    with pytest.raises(OffsetOutOfRange, match=r"t-0 has no offset \d+: log start is 12, log end is 18"):
        all(reader.read(100).batches for _ in range(12))
    reader.seek(12)
    assert reader.read(100).batches[0][0].base_offset == 12


def test_records_before_an_offset_can_be_deleted_inside_a_segment(log: Log) -> None:
    partition = topic(log)
    fill(log, partition, 10)
    assert partition.delete_records(6) == 6
    assert stems(partition) == {f"{base:020}" for base in (4, 8)}
    with pytest.raises(OffsetOutOfRange, match="t-0 has no offset 5: log start is 6, log end is 10"):
        log.reader(partition, 5).read()
    assert log.reader(partition, 6).read().batches
    assert partition.delete_records(2) == 6
    with pytest.raises(OffsetOutOfRange, match="t-0 ends at 10, its start cannot be 11"):
        partition.delete_records(11)


def test_retention_survives_a_restart_and_so_do_the_files_it_left(tmp_path: Path, clock: ManualClock) -> None:
    with Log(tmp_path / "data", create=True, clock=clock) as log:
        partition = topic(log)
        fill(log, partition, 10)
        partition.delete_records(9)
    with Log(tmp_path / "data", clock=clock) as log:
        partition = log.partition(log.topic("t"), 0)
        assert (partition.log_start, offsets(log, partition)) == (9, [9])


# Topics.


def test_altered_settings_hold_for_partitions_that_are_open_already(log: Log) -> None:
    partition = topic(log)
    other = Partition(log._place, partition.topic, 0)
    fill(log, other, 1)
    log.alter_topic("t", TopicSettings(segment_bytes=8192))
    fill(log, other, 8)
    assert [segment.base_offset for segment in other.segments()] == [0, 8]


def test_settings_are_altered_one_change_after_the_other(log: Log) -> None:
    """Whoever makes new settings of old ones has to do with what another thread has made of them."""
    topic(log)
    before, rounds = log.topic("t").settings.retention_ms, 20

    def alter() -> None:
        for _ in range(rounds):
            log.alter_topic("t", lambda now: replace(now, retention_ms=now.retention_ms + 1))
            log.alter_topic("t", partitions=2)

    with ThreadPoolExecutor(3) as threads:
        for done in [threads.submit(alter) for _ in range(3)]:
            done.result(60)
    assert (log.topic("t").settings.retention_ms, log.topic("t").partitions) == (before + 3 * rounds, 2)


def test_partitions_can_be_added_and_not_taken_away(log: Log) -> None:
    topic(log)
    assert log.alter_topic("t", partitions=3).partitions == 3
    fill(log, log.partition(log.topic("t"), 2), 1)
    with pytest.raises(InvalidSetting, match="topic 't' has 3 partitions and cannot have 2"):
        log.alter_topic("t", partitions=2)


def test_a_topic_is_deleted_by_its_id_and_not_another_of_its_name(log: Log) -> None:
    old = topic(log).topic.id
    log.delete_topic("t", topic_id=old)
    new = topic(log)
    with pytest.raises(UnknownTopic, match="topic 't' is another one now"):
        log.delete_topic("t", topic_id=old)
    fill(log, new, 1)
    assert log.topic("t").id == new.topic.id


def test_a_deleted_topic_takes_no_appends_and_no_reads_by_those_who_have_it_open(log: Log) -> None:
    """F9: also not once there is a new one of its name, whose offsets and records are its own."""
    old = topic(log)
    other = Partition(log._place, old.topic, 0)
    fill(log, other, 5)
    log.delete_topic("t")
    assert not old.directory.exists()
    for partition in (old, other):
        with pytest.raises(UnknownTopic, match="topic 't' has been deleted"):
            fill(log, partition, 1)
        with pytest.raises(UnknownTopic, match="topic 't' has been deleted"):
            log.reader(partition, 0).read()
    with pytest.raises(UnknownTopic):
        log.topic("t")
    new = topic(log)
    assert new.slot not in old.topic.slots
    fill(log, new, 1)
    assert offsets(log, new) == [0]
    with pytest.raises(UnknownTopic, match="has been deleted"):
        fill(log, other, 1)


def test_a_segment_whose_append_times_are_lost_is_not_taken_for_old(log: Log) -> None:
    """A power cut may take the entry and leave the batch."""
    partition = topic(log, retention_ms=DAY_MS)
    fill(log, partition, 9)
    first = partition.segments()[0].appended_path
    first.write_bytes(first.read_bytes()[:8])
    assert partition.retain() == 0
