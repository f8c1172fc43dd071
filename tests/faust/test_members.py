"""Several workers on one directory: they share the partitions, and others take those of one that is killed or joins."""

from __future__ import annotations

import signal

import orjson
import pytest

from framework.log.codec import StoredRecord
from tests.faust.stage import Stage, Worker

PARTITIONS = 4
QUICK = {"BROKER_SESSION_TIMEOUT": "2"}
"""So soon a worker is missed that is not heard of."""

pytestmark = pytest.mark.slow


class Rounds:
    """A record to each partition, again and again, each round when the one before has been handled."""

    def __init__(self, stage: Stage) -> None:
        """Makes the topics."""
        for topic, partitions in [("numbers", PARTITIONS), ("copies", PARTITIONS), ("beats", 1)]:
            stage.topic(topic, partitions)
        self._stage, self._copies, self._beats = stage, stage.watch("copies"), stage.watch("beats")
        self.sent: list[list[int]] = []

    def until_handled_by(self, *workers: Worker) -> None:
        """Until each of *workers* handles records, and nobody else does."""
        expected, seen = {worker.name for worker in workers}, set[str]()
        deadline = self._stage.log.clock.monotonic() + 60
        while seen != expected:
            self._stage.check(f"records are handled by {expected}", f"{seen}", deadline)
            seen = self._round()

    def until_led_by_one_of(self, *workers: Worker) -> str:
        """Until the leader is among *workers* alone; its name."""
        self._beats.now()
        known, names = len(self._beats.records), {worker.name for worker in workers}

        def led() -> bool:
            return bool(names.intersection(self._beats.values()[known:]))

        self._beats.until(f"a leader among {names}", led)
        return str(self._beats.values()[-1])

    def check_nothing_is_lost(self) -> None:
        """Each record was forwarded, at least once."""
        self._copies.now()
        assert {orjson.dumps(value) for value in self.sent} <= self._copies.different

    def check_each_once(self) -> None:
        """None was forwarded again, as those are that a worker had in hand when it lost its partitions."""
        self._copies.now()
        assert len(self._copies.records) == len(self.sent)

    def owners(self) -> list[str]:
        """Who handles each partition: a round more."""
        self._round()
        handled = {record.value: worker_of(record) for record in self._copies.records}
        return [handled[orjson.dumps(value)] for value in self.sent[-PARTITIONS:]]

    def send(self, partition: int, *, key: bytes | None = None) -> bytes:
        """One record more, to one partition; its value."""
        value = [len(self.sent), partition]
        self._stage.send("numbers", [value], key=key, partition=partition)
        self.sent.append(value)
        return orjson.dumps(value)

    def until_handled(self, value: bytes) -> None:
        """Until this one is."""
        self._copies.until(f"{value!r}", lambda: value in self._copies.different)

    def is_handled(self, value: bytes) -> bool:
        """Whether it is now."""
        self._copies.now()
        return value in self._copies.different

    def _round(self) -> set[str]:
        known = len(self._copies.records)
        left = {self.send(partition) for partition in range(PARTITIONS)}
        self._copies.until("all of a round", lambda: left <= self._copies.different)
        return {worker_of(record) for record in self._copies.records[known:] if record.value in left}


def worker_of(record: StoredRecord) -> str:
    """Who forwarded it."""
    return (dict(record.headers)["worker"] or b"").decode()


@pytest.fixture
def rounds(stage: Stage) -> Rounds:
    """Topics without records."""
    return Rounds(stage)


def started(stage: Stage, rounds: Rounds, **settings: str) -> tuple[Worker, Worker]:
    """Two workers that share the partitions: the one that serves the group, and another."""
    ada, grace = stage.start("forward", "ada", **settings), stage.start("forward", "grace", **settings)
    rounds.until_handled_by(ada, grace)
    serving, other = (ada, grace) if stage.host() == ada.pid else (grace, ada)
    assert stage.host() == serving.pid
    return serving, other


def test_partitions_of_killed_workers_go_to_the_others_and_some_to_one_that_joins(stage: Stage, rounds: Rounds) -> None:
    # With the one that serves the group its members and generations are gone, not what was committed.
    serving, other = started(stage, rounds, **QUICK, BEATS="yes")
    stage.kill(serving)
    rounds.until_handled_by(other)
    assert stage.host() == other.pid
    rounds.until_led_by_one_of(other)

    edith = stage.start("forward", "edith", **QUICK, BEATS="yes")
    rounds.until_handled_by(other, edith)
    rounds.until_led_by_one_of(other, edith)

    # One that does not serve is missed when its session is over.
    stage.kill(edith)
    rounds.until_handled_by(other)
    assert stage.host() == other.pid

    joan = stage.start("forward", "joan", **QUICK, BEATS="yes")
    rounds.until_handled_by(other, joan)
    stage.stop(other)
    rounds.until_handled_by(joan)
    assert rounds.until_led_by_one_of(joan) == "joan"
    stage.until_committed("forward", "numbers")
    stage.stop(joan)
    rounds.check_nothing_is_lost()


def test_a_worker_that_stood_still_for_longer_than_its_session_joins_again(stage: Stage, rounds: Rounds) -> None:
    """What it believes of its partitions counts no more: others have gone on there, and it commits nothing."""
    serving, still = started(stage, rounds, **QUICK)
    stage.until_committed("forward", "numbers")  # While it appends it holds a lock, and others would wait for it.
    still.signal(signal.SIGSTOP)
    rounds.until_handled_by(serving)
    stage.until_committed("forward", "numbers")
    before = stage.committed("forward", "numbers")
    still.signal(signal.SIGCONT)
    rounds.until_handled_by(serving, still)
    stage.until_committed("forward", "numbers")
    after = stage.committed("forward", "numbers")
    assert all(after[number] >= offset for number, offset in before.items())
    stage.stop(still)
    stage.stop(serving)
    rounds.check_nothing_is_lost()


def test_code_that_holds_up_the_worker_that_serves_holds_up_nobody_else(stage: Stage, rounds: Rounds) -> None:
    """Nor does it cost the worker its partitions, although it takes longer than a session."""
    serving, other = started(stage, rounds, BROKER_SESSION_TIMEOUT="1", BROKER_HEARTBEAT_INTERVAL="0.3")
    owners, shares = rounds.owners(), [worker.count("on_partitions_assigned") for worker in (serving, other)]
    held = rounds.send(owners.index(serving.name), key=b"hold")
    for _ in range(50):
        rounds.until_handled(rounds.send(owners.index(other.name)))
    assert not rounds.is_handled(held)
    rounds.until_handled(held)
    assert rounds.owners() == owners
    stage.until_committed("forward", "numbers")
    assert [worker.count("on_partitions_assigned") for worker in (serving, other)] == shares
    stage.stop(other)
    stage.stop(serving)
    rounds.check_each_once()
