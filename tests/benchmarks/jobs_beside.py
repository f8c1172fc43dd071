"""Jobs beside what else a worker does: an agent that goes on while one computes, and a thousand that are not due."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from framework import App, Batch, Stream
from framework.worker import Worker
from tests.benchmarks import processes, thousand_jobs_app
from tests.benchmarks.agents import POLL_S, fill
from tests.benchmarks.peers.work import values
from tests.benchmarks.rows import Bench, Pairs, Result, Row, Side, samples

APP = Path(thousand_jobs_app.__file__)
ROUNDS = 20
"""How much the job computes of each record."""


class Beside:
    """An agent that sums over a topic, exactly once, and a job that computes over the same topic for as long."""

    def __init__(self, place: Path, records: int) -> None:
        """The topic is filled already."""
        self._place, self._records = place, records
        self._runs = iter(range(1_000))
        self.job_rates: list[float] = []

    def agent(self, *, beside: bool) -> Side:
        """The rate of the agent, *beside* the job or alone."""
        return lambda: self._run(beside=beside)

    def _run(self, *, beside: bool) -> float:
        name, over = f"sum-{next(self._runs)}", False
        app = App(name, data=self._place)
        topic, sums, computed = app.topic("input", dict), app.table(name, int), 0

        @app.agent(topic, name=name)
        async def add(stream: Stream[dict[str, Any]]) -> None:
            async for value in stream:
                sums[value["key"]] += value["amount"]

        @app.job(topic, schedule="@weekly", name=f"{name}-job")
        def compute(batch: Batch[dict[str, Any]]) -> None:
            nonlocal computed
            while not over:
                for value in batch:
                    computed += work(value)
                    if over:
                        break

        async def race() -> float:
            nonlocal over
            async with Worker(app).running() as worker, asyncio.TaskGroup() as group:
                assert worker.jobs is not None
                if beside:
                    group.create_task(worker.jobs.run(compute, worker.jobs.now()))
                started = time.perf_counter()
                while busy(worker):  # noqa: ASYNC110  # idle is many things, and no event
                    await asyncio.sleep(POLL_S)
                seconds = time.perf_counter() - started
                if beside:
                    self.job_rates.append(computed / seconds / 1e6)
                over = True
            return seconds

        return self._records / asyncio.run(race()) / 1e6

    def alone(self) -> float:
        """The rate of the job without the agent."""
        app = App("alone", data=self._place)
        topic, started = app.topic("input", dict), time.perf_counter()
        with app.opened():
            computed = sum(map(work, topic.read()))
        return computed / (time.perf_counter() - started) / 1e6


def busy(worker: Worker) -> bool:
    """Whether its agents have something to read."""
    return not all(task.idle and not task.fetch.ready(task.offset) for task in worker.tasks)


def work(value: dict[str, Any]) -> int:
    """Compute something about a record, which takes about a microsecond; returns 1."""
    amount = value["amount"]
    for each in range(ROUNDS):
        amount = (amount * 31 + each) % 1_000_003
    return 1


def measure_beside(bench: Bench) -> Iterator[Result]:
    """The rate of an agent beside a job over its rate alone; and what the job gets on meanwhile."""
    records = bench.scale.records
    with bench.place() as place:
        fill(place, values(records))
        beside = Beside(place, records)
        pairs = Pairs(beside.agent(beside=True), beside.agent(beside=False), bench.scale.pairs, "M/s")
        yield pairs.ratio("job-beside", 0.5)
        alone = beside.alone()
        yield samples("job-beside's own share", [rate / alone for rate in beside.job_rates], "", at_least=0.1)


def measure_idle(bench: Bench) -> Iterator[Result]:
    """A worker with a thousand jobs that are due once a day: its start, and its share of a core until then."""
    os.environ[thousand_jobs_app.COUNT] = str(bench.scale.idle_tasks)
    try:
        with bench.place() as place:
            started = time.perf_counter()
            with processes.worker(place / "data", APP) as pid:
                yield samples("jobs start", [time.perf_counter() - started], "s", below=2)
                time.sleep(bench.scale.idle_s / 4)  # What a thousand new jobs write down first is no idleness.
                before, started = processes.cpu_seconds(pid), time.perf_counter()
                time.sleep(bench.scale.idle_s)
                used = (processes.cpu_seconds(pid) - before) / (time.perf_counter() - started)
                yield samples("jobs idle", [used * 100], "%", below=1)
            started = time.perf_counter()
            with processes.worker(place / "data", APP):
                yield samples("jobs start again", [time.perf_counter() - started], "s", below=2)
    finally:
        del os.environ[thousand_jobs_app.COUNT]


ROWS = [Row("job-beside", measure_beside), Row("jobs-idle", measure_idle)]
