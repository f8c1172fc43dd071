"""Workers that are ended at a callback of the event loop or at a write of their state, and an app to compare."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import timedelta

from framework import App, Retry, Stream, Table
from framework.retry import Then
from framework.state.database import Database
from framework.state.rows import Change
from framework.worker import Worker
from tests.faults.crash_files import Killed
from tests.faults.still_loop import CountingLoop
from tests.framework.conftest import Shop

PARTITIONS = 2
LIMIT_S = 10.0
SCALE = 1000
"""A record is its number times this plus its amount, so that no two are equal."""


def key_of(value: int) -> str:
    """The key of a record: one of three, by its amount."""
    return "abc"[value % SCALE % 3]


class MortalDatabase(Database):
    """A real RocksDB that dies before or after one of the writes and syncs of all the databases of a worker."""

    left: int | None = None
    """How many operations there are before the one at which it dies; None lives."""
    after = False
    dead = False

    def write(self, changes: Sequence[Change]) -> None:
        self._at_point(lambda: Database.write(self, changes))

    def sync(self) -> None:
        if not self.dead:  # Closing it syncs, too.
            self._at_point(lambda: Database.sync(self))

    def _at_point(self, act: Callable[[], None]) -> None:
        mortal = type(self)
        if mortal.dead:
            raise Killed
        mortal.dead = mortal.left == 0
        if mortal.left is not None:
            mortal.left -= 1
        if not mortal.dead or mortal.after:
            act()
        if mortal.dead:
            raise Killed


class Book:
    """An app whose agent adds each record to tables, waits, sends it on and counts it; some of them fail."""

    def __init__(self, shop: Shop, loop: Callable[[], CountingLoop] = CountingLoop, then: Then = "dead-letter") -> None:
        """Its workers run in a new *loop* each; *then* says what becomes of a record that always fails."""
        self.shop, self.loop, self.then = shop, loop, then
        self.failing: set[int] = set()
        """They always fail."""
        self.failing_once: set[int] = set()
        """They fail when they are handled first."""
        self.build()

    def build(self) -> App:
        """The app anew, as after a restart."""
        self.app = app = self.shop.app(on_error=Retry(wait=timedelta(0), outage_after=0, then=self.then))
        self.source = app.topic("source", int, key=key_of, partitions=PARTITIONS)
        self.out = app.topic("out", int, key=key_of, partitions=3)
        self.totals, self.counts = app.table("totals", int), app.table("counts", int)
        self.lists: Table[list[int]] = app.table("lists", list)

        @app.agent(self.source)
        async def add(stream: Stream[int]) -> None:
            async for value in stream:
                self.totals[key_of(value)] += value % SCALE
                self.lists[key_of(value)].append(value)
                await asyncio.sleep(0)
                self.out.send(value)
                if value in self.failing or value in self.failing_once:
                    self.failing_once.discard(value)
                    raise ValueError(value)
                self.counts[key_of(value)] += 1

        return app

    def run(self) -> None:
        """A new worker handles everything there is."""
        with asyncio.Runner(loop_factory=self.loop) as runner:
            runner.run(self.shop.run(self.build()))

    def run_until(self, *ends: tuple[int, str]) -> int:
        """A new worker, which is ended by `cancel` or `kill` at those callbacks; returns how many there were."""
        worker = Worker(self.build())
        running: list[asyncio.Task[None]] = []

        def cancel() -> None:
            running[0].cancel()

        acts: dict[int, Callable[[], object]] = {n: {"cancel": cancel, "kill": worker.kill}[how] for n, how in ends}

        async def main() -> int:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, CountingLoop)
            loop.scheduled, loop.acts = 0, acts
            # A worker that is cancelled ends its task only, and not the group.
            async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
                running.append(group.create_task(worker.run(until_idle=True)))
            loop.acts = {}
            return loop.scheduled

        with asyncio.Runner(loop_factory=self.loop) as runner:
            return runner.run(main())

    def run_until_write(self, number: int, *, after: bool) -> bool:
        """A new worker, killed before or *after* a write or sync of its state; whether it came that far."""

        class Mortal(MortalDatabase):
            left = number

        Mortal.after = after
        worker = Worker(self.build(), open_database=Mortal)
        with asyncio.Runner(loop_factory=self.loop) as runner:
            try:
                runner.run(worker.run(until_idle=True))
            except Killed:
                return True
        return False

    def check(self, letters: Counter[int] | None = None) -> None:
        """Tables, outputs and dead letters are those of a fold over the source."""
        with self.build().opened():
            handled = [record.value for record in self.source.read().records()]
            sent = list(self.out.read())
        good = [value for value in handled if value is not None and value not in self.failing]
        rows: Counter[str] = Counter()
        for value in good:
            rows[key_of(value)] += value % SCALE
        assert self.shop.rows(self.totals) == rows
        assert self.shop.rows(self.lists) == by_key(good)
        assert self.shop.rows(self.counts) == Counter(key_of(value) for value in good)
        assert by_key(sent) == by_key(good)
        self.app.dead_letters("add", self.source)
        self.app.close()
        found = Counter(int(letter.value) for letter in self.shop.dead(self.app, "add"))
        assert found == (Counter(self.failing) if letters is None else letters)


def by_key(values: list[int]) -> dict[str, list[int]]:
    """The values of each key, in their order."""
    found = defaultdict(list)
    for value in values:
        found[key_of(value)].append(value)
    return dict(found)
