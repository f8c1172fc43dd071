"""Following a topic in the log: records as they come, from whoever, and partitions that are added later."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from framework.log import Follower, Log, Partition, TopicSettings
from framework.log.errors import OffsetOutOfRange, UnknownTopic
from tests.log.compacted_log import fill, keyed, make, open_quiet, put, scratch
from tests.log.conftest import Child


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where the data directory of a test is, in memory if that can be: no disk is under test."""
    with scratch() as path:
        yield path


@pytest.fixture
def log(directory: Path) -> Iterator[Log]:
    """A log that nothing is removed from by itself."""
    with open_quiet(directory) as log:
        yield log


@pytest.fixture(params=[False, True], ids=["inotify", "polling"])
def _watching(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a doorbell that rings, and where there is none to have."""
    if request.param:
        monkeypatch.setattr("framework.log.doorbell.inotify", lambda path: -1)


def topic(log: Log, partitions: int = 1) -> list[Partition]:
    """The partitions of a new topic."""
    info = log.create_topic("t", partitions)
    return [log.partition(info, number) for number in range(partitions)]


def offsets(pairs: Any) -> list[tuple[int, int]]:
    """(partition, offset) of each record."""
    return [(partition.number, record.offset) for partition, record in pairs]


@pytest.mark.usefixtures("_watching")
def test_records_of_another_process_come_as_they_are_appended(
    log: Log, directory: Path, child: Callable[..., Child]
) -> None:
    topic(log)
    other = child(
        """
        log = Log(Path(sys.argv[1]))
        partition = log.partition(log.topic("t"), 0)
        while True:
            log.append(partition, batches(hear().encode())).result()
        """,
        directory,
    )
    with log.follow("t") as follower:
        records = iter(follower)
        for text in ("first", "second", "third"):
            other.say(text)
            assert next(records)[1].value == text.encode()


@pytest.mark.usefixtures("_watching")
def test_it_begins_where_it_is_told_and_goes_on(log: Log) -> None:
    [partition] = topic(log)
    for at in range(5):
        put(log, partition, keyed(b"%d" % at))
    for start, expected in (("beginning", [0, 1, 2, 3, 4]), ("end", []), (3, [3, 4]), (-1, [4]), (9, [])):
        with log.follow("t", start, timeout_s=0.01) as follower:  # type: ignore[arg-type]
            assert [at for _, at in offsets(follower)] == expected
    with log.follow("t", 3, timeout_s=0.05) as follower:
        assert offsets(follower.take_nowait()) == [(0, 3), (0, 4)]
        assert follower.take_nowait() == []
        put(log, partition, keyed(b"5"))
        assert offsets(follower) == [(0, 5)]


@pytest.mark.usefixtures("_watching")
def test_it_ends_when_there_was_no_record_for_the_timeout_whatever_else_rings(log: Log) -> None:
    """Appends to other topics ring the same bell."""
    topic(log)
    noisy = log.partition(log.create_topic("noise", 1, TopicSettings(durability="os")), 0)
    quiet, stop = monotonic(), threading.Event()

    def make_noise() -> None:
        while not stop.is_set():
            put(log, noisy, keyed(b"ring"))

    thread = threading.Thread(target=make_noise)
    thread.start()
    try:
        with log.follow("t", timeout_s=0.1) as follower:
            assert list(follower) == []
        assert 0.1 <= monotonic() - quiet < 5
    finally:
        stop.set()
        thread.join()


def test_iterating_again_goes_on_behind_the_record_that_was_given_last(log: Log) -> None:
    """Several are read at once; those that were not given yet are not lost."""
    [partition] = topic(log)
    put(log, partition, *[keyed(b"%d" % at) for at in range(6)])
    with log.follow("t", "beginning", timeout_s=0.01) as follower:
        for _, record in follower:
            if record.offset == 1:
                break
        assert offsets(next(iter(follower)) for _ in range(2)) == [(0, 2), (0, 3)]
        assert offsets(follower) == [(0, 4), (0, 5)]


def test_partitions_that_are_added_later_join_from_their_beginning(log: Log) -> None:
    [first] = topic(log)
    put(log, first, keyed(b"before"))
    with log.follow("t", "end") as all_of_it, log.follow("t", "end", partitions=[0]) as only_this:
        more = log.alter_topic("t", partitions=3)
        for number in range(3):
            put(log, log.partition(more, number), keyed(b"after"))
        assert offsets(all_of_it.take_nowait()) == [(0, 1), (1, 0), (2, 0)]
        assert offsets(only_this.take_nowait()) == [(0, 1)] or only_this.take_nowait() == []
        log.alter_topic("t", partitions=4)
        put(log, log.partition(log.topic("t"), 3), keyed(b"after"))
        assert offsets(all_of_it.take_nowait()) == [(3, 0)]


def test_a_partition_that_is_added_while_a_follower_is_made_joins_too(log: Log) -> None:
    """Between looking the topic up and looking at the catalogue's version."""
    topic(log)
    known = log.topic("t")
    more = log.alter_topic("t", partitions=2)
    with Follower(log, known, {0: 0}, timeout_s=0.01) as follower:
        put(log, log.partition(more, 1), keyed(b"of the new one"))
        assert offsets(follower) == [(1, 0)]


@pytest.mark.usefixtures("_watching")
def test_a_topic_that_is_deleted_ends_it_with_an_error(log: Log) -> None:
    [partition] = topic(log)
    put(log, partition, keyed(b"k"))
    with log.follow("t", "beginning") as follower:
        assert offsets(follower.take_nowait()) == [(0, 0)]
        log.delete_topic("t")
        with pytest.raises(UnknownTopic):
            next(iter(follower))


def test_a_topic_that_is_deleted_and_made_anew_ends_it_with_an_error_too(log: Log) -> None:
    """The new one has its name and is another: its records are not what was asked for, and waiting is in vain."""
    [partition] = topic(log)
    put(log, partition, keyed(b"k"))
    with log.follow("t", "end", timeout_s=0.01) as follower:
        log.delete_topic("t")
        [again] = topic(log)
        put(log, again, keyed(b"of the new one"))
        with pytest.raises(UnknownTopic, match="topic 't' has been deleted"):
            list(follower)


def test_retention_that_is_faster_is_said_with_the_range(log: Log) -> None:
    [partition] = topic(log)
    with log.follow("t", "beginning") as follower:
        for at in range(5):
            put(log, partition, keyed(b"%d" % at))
        partition.delete_records(3)
        with pytest.raises(OffsetOutOfRange, match="t-0 has no offset 0: log start is 3, log end is 5"):
            next(iter(follower))


def test_one_that_follows_a_topic_that_is_compacted_misses_no_last_record(log: Log) -> None:
    partition = make(log)
    with log.follow("t", "beginning", timeout_s=0.01) as follower:
        state, seen = dict[bytes | None, int](), 0
        for _ in range(4):
            fill(log, partition, 10)
            log.compact("t")
            for _, record in follower:
                state[record.key] = record.offset
                seen += 1
        assert sorted(state.values()) == sorted({record.key: record.offset for _, record in log.read("t")}.values())
        assert seen < 40


def test_closing_closes_every_file_and_may_be_done_twice(log: Log) -> None:
    partitions = topic(log, 3)
    for partition in partitions:
        put(log, partition, keyed(b"k"))
    before = len(os.listdir("/proc/self/fd"))
    follower = log.follow("t", "beginning")
    assert len(follower.take_nowait()) == 3
    assert len(os.listdir("/proc/self/fd")) == before + 4
    follower.close()
    follower.close()
    assert len(os.listdir("/proc/self/fd")) == before
