"""Several workers on one directory: they share the partitions, and others take those of one that is killed or joins."""

from __future__ import annotations

import orjson
import pytest

from tests.faust.stage import Stage, Worker

PARTITIONS = 4

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

    def _round(self) -> set[str]:
        number, known = len(self.sent) // PARTITIONS, len(self._copies.records)
        values = [[number, partition] for partition in range(PARTITIONS)]
        for partition, value in enumerate(values):
            self._stage.send("numbers", [value], partition=partition)
        self.sent += values
        left = {orjson.dumps(value) for value in values}
        self._copies.until(f"round {number}", lambda: left <= self._copies.different)
        return {
            (dict(record.headers)["worker"] or b"").decode()
            for record in self._copies.records[known:]
            if record.value in left
        }


def test_partitions_of_killed_workers_go_to_the_others_and_some_to_one_that_joins(stage: Stage) -> None:
    rounds = Rounds(stage)
    ada, grace = stage.start("forward", "ada"), stage.start("forward", "grace")
    rounds.until_handled_by(ada, grace)

    # With the one that serves the group its members and generations are gone, not what was committed.
    serving, other = (ada, grace) if stage.host() == ada.pid else (grace, ada)
    assert stage.host() == serving.pid
    stage.kill(serving)
    rounds.until_handled_by(other)
    assert stage.host() == other.pid
    rounds.until_led_by_one_of(other)

    edith = stage.start("forward", "edith")
    rounds.until_handled_by(other, edith)
    rounds.until_led_by_one_of(other, edith)

    # One that does not serve is missed when its session is over.
    stage.kill(edith)
    rounds.until_handled_by(other)
    assert stage.host() == other.pid

    joan = stage.start("forward", "joan")
    rounds.until_handled_by(other, joan)
    stage.stop(other)
    rounds.until_handled_by(joan)
    assert rounds.until_led_by_one_of(joan) == "joan"
    stage.until_committed("forward", "numbers")
    stage.stop(joan)
    rounds.check_nothing_is_lost()
