"""Workers that are ended at a callback of the event loop, and the app whose figures must be right nevertheless."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from contextvars import Context
from typing import TypeVarTuple

from framework import App, Stream
from framework.worker import Worker
from tests.framework.conftest import Shop

Ts = TypeVarTuple("Ts")
PARTITIONS = 2
LIMIT_S = 10.0
SCALE = 1000
"""A record is its number times this plus its amount, so that no two are equal."""


def key_of(value: int) -> str:
    """The key of a record: one of three, by its amount."""
    return "abc"[value % SCALE % 3]


class CountingLoop(asyncio.SelectorEventLoop):
    """Calls `act` between two callbacks, when as many as the keys of it say have been scheduled."""

    def __init__(self, acts: dict[int, Callable[[], object]]) -> None:
        super().__init__()
        self.scheduled, self.acts = 0, acts

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Count it."""
        self.scheduled += 1
        act = self.acts.pop(self.scheduled, None)
        if act is not None:
            super().call_soon(act)
        return super().call_soon(callback, *args, context=context)


class Book:
    """An app whose agent adds each record to a table, waits, sends it on and counts it; some of them fail."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.failing: set[int] = set()
        """They always fail."""
        self.failing_once: set[int] = set()
        """They fail when they are handled first."""
        self.build()

    def build(self) -> App:
        """The app anew, as after a restart."""
        self.app = app = self.shop.app()
        self.source = app.topic("source", int, key=key_of, partitions=PARTITIONS)
        self.out = app.topic("out", int, key=key_of, partitions=3)
        self.totals, self.counts = app.table("totals", int), app.table("counts", int)

        @app.agent(self.source)
        async def add(stream: Stream[int]) -> None:
            async for value in stream:
                self.totals[key_of(value)] += value % SCALE
                await asyncio.sleep(0)
                self.out.send(value)
                if value in self.failing or value in self.failing_once:
                    self.failing_once.discard(value)
                    raise ValueError(value)
                self.counts[key_of(value)] += 1

        return app

    def run(self) -> None:
        """A new worker handles everything there is."""
        asyncio.run(self.shop.run(self.build()))

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

        with asyncio.Runner(loop_factory=lambda: CountingLoop({})) as runner:
            return runner.run(main())

    def check(self, letters: Counter[int] | None = None) -> None:
        """Table, outputs and dead letters are those of a fold over the source."""
        with self.build().opened():
            handled = [record.value for record in self.source.read().records()]
            sent = list(self.out.read())
        good = [value for value in handled if value is not None and value not in self.failing]
        rows: Counter[str] = Counter()
        for value in good:
            rows[key_of(value)] += value % SCALE
        assert self.shop.rows(self.totals) == rows
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
