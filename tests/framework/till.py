"""A shop whose agent is taken back, and what a test does to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from framework import App, Stream
from framework.log import Log
from framework.rewind import Rewind, Step, Target
from framework.state.checkpoints import Checkpoints
from framework.state.shards import Shards
from tests.framework.conftest import Shop
from tests.log.conftest import ManualClock

HOUR_MS = 3_600_000
PARTITIONS = 3


class Till:
    """A shop whose agent sums numbers by key into a table, and sends each sum; and another that only counts."""

    def __init__(self, shop: Shop) -> None:
        self.shop, self.clock = shop, ManualClock()
        self.build()

    def build(self, fails_at: int | None = None) -> App:
        """The app anew, as after a restart; its agent raises at the number *fails_at*."""
        self.app = app = self.shop.app(clock=self.clock)
        self.numbers = app.topic("numbers", int, key=lambda number: f"k{number % 7}", partitions=PARTITIONS)
        self.sums_topic = app.topic("sums-topic", int, partitions=2)
        self.elsewhere = app.topic("elsewhere", int, partitions=1)
        self.sums, self.counts = app.table("sums", int), app.table("counts", int)

        @app.agent(self.numbers, sink=self.sums_topic)
        async def add(stream: Stream[int]) -> AsyncGenerator[int, None]:
            async for number in stream:
                if number == fails_at:
                    raise ValueError(number)
                self.sums[f"k{number % 7}"] += number
                yield number

        @app.agent(self.numbers)
        async def count(stream: Stream[int]) -> None:
            async for number in stream:
                self.counts[f"k{number % 7}"] += 1

        return app

    async def handle(self, *numbers: int, **options: Any) -> None:
        """Send *numbers* and let a new worker handle them."""
        app = self.build(**options)
        with app.opened():
            app.topic_info(self.elsewhere)
        self.shop.send(self.numbers, numbers)
        await self.shop.run(app)

    def checkpoint(self) -> int:
        """Make a checkpoint of every shard now; returns the time, which then goes on by an hour."""
        now = self.clock.ms
        with Log(self.shop.data, clock=self.clock) as log:
            shards = Shards(log)
            shards.own_all()
            made = Checkpoints(log, keep=24)
            for number in range(PARTITIONS):
                made.make(shards.of_partition(number))
            shards.close()
        self.clock.ms += HOUR_MS
        return now

    def rewind(self, target: Target, outputs: str = "send", agent: str = "add") -> list[Step]:
        """Do it."""
        with Log(self.shop.data, clock=self.clock) as log:
            shards = Shards(log)
            shards.own_all()
            try:
                return Rewind(log, agent, target, outputs).execute(shards)
            finally:
                shards.close()

    def plan(self, target: Target, agent: str = "add") -> list[Step]:
        """What it would do."""
        with Log(self.shop.data, clock=self.clock) as log:
            return Rewind(log, agent, target).plan()

    @property
    def sent(self) -> list[int]:
        return sorted(self.shop.values(self.sums_topic))

    @property
    def rows(self) -> dict[str, int]:
        return self.shop.rows(self.sums)

    def everything(self) -> dict[str, dict[bytes, bytes]]:
        """All rows of all shards, but for the one that RocksDB's own files are in."""
        found = {}
        with Log(self.shop.data) as log:
            shards = Shards(log)
            for number in range(PARTITIONS):
                found[str(number)] = dict(shards.of_partition(number).database.scan(b""))
                found[str(number)].pop(b"mmanifest", None)
            shards.close()
        return found


def sums_of(numbers: list[int]) -> dict[str, int]:
    """The reference."""
    return {f"k{rest}": total for rest in range(7) if (total := sum(n for n in numbers if n % 7 == rest))}
