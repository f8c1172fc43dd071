"""Tables go on where they were: after a stop, after a kill, and with nothing left of them but their changelogs."""

from __future__ import annotations

import random
import shutil
from collections import defaultdict
from typing import Any

import pytest

from tests.faust.stage import Stage, Worker

PARTITIONS, MINUTE_MS = 2, 60_000
CUSTOMERS, CITIES = [f"customer {number}" for number in range(20)], ["Oslo", "Porto", "Quito"]
POLICIES = {"balances": "compact", "minutes": "compact,delete", "cities": "compact", "paid": "compact"}
"""Of the changelogs: those of windows expire."""

pytestmark = pytest.mark.slow


class Payments:
    """Payments that are drawn, and the sums that come of them when each is handled once."""

    def __init__(self, stage: Stage, seed: int, store: str) -> None:
        """None yet; makes the topics."""
        for topic, partitions in [
            ("payments", PARTITIONS),
            ("questions", 1),
            ("sums", 1),
            ("totals", 1),
            ("answers", 1),
        ]:
            stage.topic(topic, partitions)
        self._stage, self._store, self._draw = stage, store, random.Random(seed)
        self.sums, self.totals, self._answers = (stage.watch(topic) for topic in ("sums", "totals", "answers"))
        now_ms = stage.log.clock.now_ms()
        self._minute_ms = now_ms - now_ms % MINUTE_MS - 10 * MINUTE_MS
        self.paid = dict[str, int]()
        self.balances, self.cities = defaultdict[str, int](int), defaultdict[str, int](int)
        self._minutes = defaultdict[tuple[str, int], int](int)
        self.expected: list[list[Any]] = []
        """What `sums` shows of each payment, in the order of their numbers."""

    def start(self) -> Worker:
        """A worker, which finds the tables of the one before."""
        return self._stage.start("payments", "ada", APP_STORE=self._store, TOPIC_PARTITIONS=str(PARTITIONS))

    def send(self, count: int) -> None:
        """So many more, within three minutes."""
        for number in range(len(self.paid), len(self.paid) + count):
            customer, city = self._draw.choice(CUSTOMERS), self._draw.choice(CITIES)
            cents, minute = self._draw.randrange(1, 1_000), self._draw.randrange(3)
            self.paid[f"{customer} {number}"] = cents
            self.balances[customer] += cents
            self.cities[city] += cents
            self._minutes[customer, minute] += cents
            self.expected.append([number, customer, self.balances[customer], self._minutes[customer, minute]])
            payment = {"number": number, "customer": customer, "city": city, "cents": cents}
            stamp = self._minute_ms + minute * MINUTE_MS + self._draw.randrange(MINUTE_MS)
            self._stage.send("payments", [payment], key=customer.encode(), timestamp=stamp)

    def until_handled(self) -> None:
        """Until both agents have handled all that was sent."""
        what, numbers = f"{len(self.paid)} payments", set(range(len(self.paid)))
        self.sums.until(f"sums of {what}", lambda: {value[0] for value in self.sums.values()} == numbers)
        self.totals.until(f"totals of {what}", lambda: {value[0] for value in self.totals.values()} == numbers)

    def known(self, question: str) -> dict[str, int]:
        """The payments that the app's table has, as its agent answers."""
        self._stage.send("questions", [question])

        def answered() -> list[dict[str, int]]:
            return [rows for asked, rows in self._answers.values() if asked == question]

        self._answers.until(f"an answer to {question}", lambda: bool(answered()))
        return answered()[0]


@pytest.mark.parametrize(("store", "lost"), [("memory://", False), ("rocksdb://", False), ("rocksdb://", True)])
def test_tables_go_on_where_they_were_when_the_worker_was_stopped(
    stage: Stage, seed: int, store: str, *, lost: bool
) -> None:
    """With a store on the disk also when that is *lost*: the changelogs have all of it."""
    payments = Payments(stage, seed, store)
    for _ in range(2):
        worker = payments.start()
        payments.send(150)
        payments.until_handled()
        stage.stop(worker)
        if lost:
            shutil.rmtree(stage.folder / "tables-ada")
    payments.sums.now()
    assert sorted(payments.sums.values()) == payments.expected
    cities = sorted(payments.totals.values(), key=lambda value: int(value[2]))
    assert len(cities) == len(payments.paid)
    assert {city: cents for _, city, cents in cities} == payments.cities
    changelogs = {table: stage.log.topic(f"payments-{table}-changelog") for table in POLICIES}
    assert {table: topic.settings.cleanup_policy for table, topic in changelogs.items()} == POLICIES
    assert {topic.partitions for topic in changelogs.values()} == {PARTITIONS}
    assert changelogs["minutes"].settings.retention_ms == 24 * 60 * MINUTE_MS


@pytest.mark.parametrize("store", ["memory://", "rocksdb://"])
def test_tables_miss_nothing_when_the_worker_was_killed(stage: Stage, seed: int, store: str) -> None:
    """What was not committed is counted once more, as Faust does it."""
    payments = Payments(stage, seed, store)
    worker = payments.start()
    payments.send(300)
    payments.sums.until("some sums", lambda: len(payments.sums.records) >= 100)
    stage.kill(worker)
    worker = payments.start()
    payments.until_handled()
    assert payments.known("after the kill") == payments.paid
    sums = {customer: cents for _, customer, cents, _ in payments.sums.values()}
    assert all(sums[customer] >= cents for customer, cents in payments.balances.items())
    stage.stop(worker)
