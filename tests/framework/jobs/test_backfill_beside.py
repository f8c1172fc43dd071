"""Backfills during live traffic: agents, the job, and whoever reads what they send see nothing of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from framework import Batch, Stream
from framework.jobs.backfill import Backfill
from framework.jobs.commands import Commands
from framework.jobs.runs import RunRow
from framework.log.keys import partition_of
from framework.worker import Worker
from tests.framework.jobs.yard import DAY, START, Yard
from tests.until import until

HOUR, OLD_DAYS, LIVE_HOURS = timedelta(hours=1), 3, 5
CUT = START - OLD_DAYS * DAY
NAMES = [next(name for name in "abcdefgh" if partition_of(name.encode(), 2) == number) for number in range(2)]
"""A key of each partition."""


class Traffic(Yard):
    """A yard with old records, an agent, and a job that is due each hour and reads a table of the agent's."""

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        self.doubled, self.counts = self.app.topic("doubled", int), self.app.table("counts", int)
        app, sums, counts, out = self.app, self.sums, self.counts, self.out

        @app.agent(self.numbers, sink=self.doubled)
        async def count(stream: Stream[int]) -> AsyncGenerator[int, None]:
            async for number in stream:
                counts[NAMES[number % 2]] += 1
                yield 2 * number

        @app.job(self.numbers, schedule=HOUR, name="hourly")
        def hourly(batch: Batch[int]) -> None:
            for chunk in batch.chunks(7):
                for number in chunk:
                    sums[str(number % 3)] += number
                    assert counts[NAMES[number % 2]] > 0
                    out.send(number)

        self.job = hourly

    def fill_old(self) -> None:
        """Records of days that are long past."""
        for number in range(OLD_DAYS * 20):
            self.append(CUT + number * DAY / 20, number, partition=number % 2)

    def runs(self, worker: Worker, *, live: bool) -> list[RunRow]:
        """The runs of the job's own, or those of backfills."""
        assert worker.jobs is not None
        return [row for row in worker.jobs.history(self.job) if row.is_detached != live]

    async def pass_hour(self, worker: Worker, hour: int) -> None:
        """New records come in, an hour is over, and the job is due and runs."""
        for number in range(10):
            self.append(START + hour * HOUR, 1000 * hour + number, partition=number % 2)
        await until(lambda: all(task.idle for task in worker.tasks))
        known = len(self.runs(worker, live=True))
        self.clock.ms += HOUR // timedelta(milliseconds=1)
        assert worker.jobs is not None
        worker.jobs.changed(self.job).set()
        await until(lambda: self._served(worker))
        assert [row.state for row in self.runs(worker, live=True)[known:]] == ["succeeded"]

    def _served(self, worker: Worker) -> bool:
        """Whether what is due has been run; asked without a look at the disk."""
        runner = worker.jobs
        assert runner is not None
        rows = [*runner.active.values(), *runner.waiting_rows.values()]
        busy = self.job.name in runner._planning or any(not row.is_detached for row in rows)
        return runner.next_look(self.job) > runner.now() and not busy

    def seen(self, worker: Worker) -> dict[str, Any]:
        """All that is live: tables, positions, runs of the job, and the records of every topic."""
        assert worker.jobs is not None
        live = (b"t", b"w", b"mjob")
        rows = [pair for kind in live for pair in worker.jobs.store.database.scan(kind) if b"@" not in pair[0]]
        topics = {
            name: sorted((part.number, record.value or b"") for part, record in self.app.log.read(name))
            for name in ("numbers", "out", "doubled")
        }
        runs = [(row.id, row.plan, row.state, row.records, row.chunk) for row in self.runs(worker, live=True)]
        places = [(part.number, offset) for part, offset in worker.jobs.positions()]
        return {"rows": rows, "counts": dict(self.counts.items()), "topics": topics, "runs": runs, "places": places}


@asynccontextmanager
async def backfills(traffic: Traffic, worker: Worker, *splits: timedelta) -> AsyncIterator[None]:
    """Backfills of all that is old, one after the other, beside the body; all done at its end."""
    assert worker.jobs is not None
    commands = Commands(worker.jobs)
    for split in splits:
        await commands.plan_backfill("hourly", Backfill(CUT, START + DAY, split))
    yield
    await until(lambda: not any(row.unfinished for row in traffic.runs(worker, live=False)))


async def story(data: Path, *splits: timedelta) -> tuple[dict[str, Any], list[RunRow]]:
    """Hours of live traffic, with backfills by *splits* beside it or without; what is seen then, and their runs."""
    traffic = Traffic(data)
    traffic.app.open(create=True)
    traffic.fill_old()
    async with AsyncExitStack() as exits:
        worker = await exits.enter_async_context(Worker(traffic.app).running())
        await traffic.pass_hour(worker, 0)
        async with backfills(traffic, worker, *splits):
            for hour in range(1, LIVE_HOURS):
                await traffic.pass_hour(worker, hour)
        traffic.app.refresh()
        seen, detached = traffic.seen(worker), traffic.runs(worker, live=False)
    traffic.app.close()
    return seen, detached


@pytest.mark.slow
async def test_live_traffic_is_the_same_with_backfills_beside_it(tmp_path: Path) -> None:
    """Compared with a run without: cursor, tables, outputs, agents, and when the job was due and what it read."""
    alone, none = await story(tmp_path / "alone")
    beside, runs = await story(tmp_path / "beside", 2 * HOUR, DAY)
    assert beside == alone
    assert (none, {row.state for row in runs}) == ([], {"succeeded", "empty"})
    assert len({row.backfill for row in runs}) == 2
    assert sum(row.records for row in runs) > 2 * OLD_DAYS * 20
    assert len({row.ended for row in runs}) > 1  # By the clock of the traffic: it went on meanwhile.
