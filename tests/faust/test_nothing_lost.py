"""A hundred thousand records forwarded by workers that are killed: each arrives, at least once."""

from __future__ import annotations

import random
from collections.abc import Callable

import orjson
import pytest

from tests.faust.stage import Stage, Watched, Worker

RECORDS, PARTITIONS, KILLS = 100_000, 4, 4
SLOW = {"PRODUCER_LINGER": "1.0"}
"""What is sent waits for company, if nobody asks for it: much longer than from one commit to the next."""

pytestmark = pytest.mark.slow


def test_of_100_000_records_none_is_lost_through_kills(stage: Stage, seed: int, report: Callable[[str], None]) -> None:
    draw = random.Random(seed)
    for topic in ("numbers", "copies"):
        stage.topic(topic, PARTITIONS)
    for partition in range(PARTITIONS):
        stage.send("numbers", range(partition, RECORDS, PARTITIONS), partition=partition)
    copies = stage.watch("copies")
    workers = [stage.start("forward", name, **SLOW) for name in ("ada-0", "grace-0")]
    kills = []
    for number, count in enumerate(sorted(draw.sample(range(5_000, RECORDS - 10_000), KILLS)), 1):
        copies.until(f"{count} copies", lambda count=count: len(copies.different) >= count)  # type: ignore[misc]
        victim = _drawn(stage, workers, draw)
        kills.append(f"{'the host' if victim.pid == stage.host() else 'another'} at {count}")
        stage.kill(victim)
        check_all_that_is_committed_is_there(stage, copies)
        workers.remove(victim)
        workers.append(stage.start("forward", f"{victim.name.partition('-')[0]}-{number}", **SLOW))
    copies.until("all copies", lambda: len(copies.different) == RECORDS)
    stage.until_committed("forward", "numbers")
    for worker in workers:
        stage.stop(worker)
    copies.now()
    assert copies.different == {orjson.dumps(number) for number in range(RECORDS)}
    again = len(copies.records) - RECORDS
    report(f"{RECORDS} records, killed {', '.join(kills)}; {again} forwarded once more")


def _drawn(stage: Stage, workers: list[Worker], draw: random.Random) -> Worker:
    """The one that serves the group, or another."""
    serves = draw.random() < 0.5
    return next((worker for worker in workers if (worker.pid == stage.host()) == serves), workers[0])


def check_all_that_is_committed_is_there(stage: Stage, copies: Watched) -> None:
    """Whoever goes on at the committed offset passes over nothing that was not forwarded."""
    committed = stage.committed("forward", "numbers")
    copies.now()
    passed = {
        orjson.dumps(offset * PARTITIONS + partition) for partition, end in committed.items() for offset in range(end)
    }
    lost = passed - copies.different
    assert not lost, f"{len(lost)} records before the committed offsets {committed} were not forwarded, {min(lost)!r}"
