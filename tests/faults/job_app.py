"""An app whose jobs are killed, and what must be true of their runs, tables and outputs whenever they are idle.

Each chunk sends one output that says which run, chunk and numbers it was, and adds to tables; so whatever is lost, done
twice or done by nobody shows. What the handlers do outside is noted in a file, which no commit covers.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from framework import App, Batch, Retry, Table
from framework.alongside import alongside
from framework.clock import START, ManualClock
from framework.jobs.control import CONTROL, REPLIES, topic_of
from framework.jobs.runner import JobRunner
from framework.jobs.runs import RunRow, run_key
from framework.jobs.serving import Serving
from framework.log import Files, Log, TopicSettings
from framework.state.database import Database
from framework.state.shards import Shards
from framework.worker import _first
from tests.until import until

HOUR = timedelta(hours=1)
PARTITIONS = 3
JOBS = ("chunked", "looped", "whole")
"""A plain function over chunks, one in the event loop, and one that commits when it returns."""


class Site:
    """The app, its clock, and who runs its jobs while they are served."""

    runner: JobRunner

    def __init__(self, data: Path, *, chunk: int = 7, hour: int = 0, jobs: Sequence[str] = JOBS) -> None:
        self.data, self.clock = data, ManualClock(START + hour * HOUR)
        self.app = App("killed", data=data, clock=self.clock)
        self.numbers = self.app.topic("numbers", int, partitions=PARTITIONS)
        self.done, self.ends = self.app.topic("done", dict), self.app.topic("ends", str)
        self.on_chunk: Callable[[str], None] = lambda job: None
        self.names, self._chunk = jobs, chunk
        self.sums = {name: self.app.table(f"{name}-sums", int) for name in jobs}
        self.lists: dict[str, Table[list[int]]] = {name: self.app.table(f"{name}-lists", list) for name in jobs}
        self.jobs = [self._declare(name) for name in jobs]

    def _declare(self, name: str) -> Any:
        def handle(part: Batch[int]) -> None:
            assert part.run is not None
            planned = self.runner.store.database.get(run_key(name, part.run.id)) is not None
            numbers = list(part)
            note = {"job": name, "run": part.run.id, "chunk": part.number, "numbers": numbers, "planned": planned}
            self._note(note)
            for number in numbers:
                self.sums[name][f"{number % 3}"] += number
            self.lists[name]["all"].append(len(numbers))
            self.done.send(note)
            self.on_chunk(name)

        def chunked(batch: Batch[int]) -> None:
            for chunk in batch.chunks(self._chunk):
                handle(chunk)
            self.ends.send(f"{name} {batch.run.id if batch.run else ''}")

        async def looped(batch: Batch[int]) -> None:
            async for chunk in batch.chunks(self._chunk):
                handle(chunk)
                await asyncio.sleep(0)
            self.ends.send(f"{name} {batch.run.id if batch.run else ''}")

        def whole(batch: Batch[int]) -> None:
            handle(batch)
            self.ends.send(f"{name} {batch.run.id if batch.run else ''}")

        function: Any = {"chunked": chunked, "looped": looped, "whole": whole}[name]
        retries = Retry(1000, wait=timedelta(0), max_wait=timedelta(0))
        return self.app.job(self.numbers, schedule="@hourly", name=name, retries=retries, history=100_000)(function)

    def _note(self, note: Any) -> None:
        file = os.open(self.data.with_name(f"{self.data.name}-outside"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, json.dumps(note).encode() + b"\n")
        os.close(file)

    def outside(self) -> list[Any]:
        """What the handlers have noted outside, whatever became of it."""
        path = self.data.with_name(f"{self.data.name}-outside")
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @asynccontextmanager
    async def served(
        self, files: Files | None = None, open_database: Callable[[Path], Database] = Database
    ) -> AsyncIterator[JobRunner]:
        """The jobs are run when they are due, beside the body."""
        log = Log(self.data, files=files, clock=self.clock)
        shards = Shards(self.app.open(create=False, log=log), open_database=open_database)
        try:
            shards.own_jobs()
            self.runner = JobRunner(self.app, shards.of_jobs())
            self.runner.settle()
            async with self.app.living(), alongside(Serving(self.runner).run()):
                yield self.runner
        except BaseExceptionGroup as failures:
            raise _first(failures) from None  # As a worker does.
        finally:
            shards.close()
            self.app.close()
            log.close()

    async def send(self, numbers: Sequence[int]) -> None:
        """Append to every partition."""
        for number in numbers:
            ack = self.numbers.send(number, key=f"{number}")
        await ack

    def pass_hour(self) -> None:
        """The jobs are due."""
        self.clock.advance(HOUR)

    async def idle(self) -> None:
        """Return when nothing is due or at work."""
        await until(lambda: not self.runner.unfinished())

    # What must be true.

    def plans(self) -> dict[str, list[list[int]]]:
        """Partition, start and end of every run there is."""
        rows = [row for job in self.jobs for row in self.runner.history(job)]
        return {row.id: [part[:3] for part in row.plan] for row in rows if row.plan}

    def wrong(self, plans: dict[str, list[list[int]]]) -> str | None:
        """What is not as a plain fold has it, or where the *plans* that were seen before have moved; while idle."""
        now = self.plans()
        moved = [f"{run}: {plan}, now {now.get(run)}" for run, plan in plans.items() if now.get(run) != plan]
        if moved:
            return f"plans have moved: {moved}"
        done = [note for note in self.done.read() if note["job"] in self.names]
        for job in self.jobs:
            its = [note for note in done if note["job"] == job.name]
            if fault := self._wrong_runs(self.runner.history(job), its) or self._wrong_tables(job.name, its):
                return f"{job.name}: {fault}"
        return self._wrong_outside(done)

    def _wrong_runs(self, rows: list[RunRow], done: list[Any]) -> str | None:
        """Every record is in exactly one run, and each of its chunks was done once, in order."""
        its: dict[int, list[int]] = {number: [] for number in range(PARTITIONS)}
        for partition, record in self.app.log.read("numbers"):
            its[partition.number].append(int(record.value or b""))
        reached = dict.fromkeys(its, 0)
        for row in rows:
            if row.state not in ("succeeded", "empty", "cancelled"):
                return f"run {row.id} is {row.state}: {row.error}"
            for number, start, end, at in row.plan:
                if start != reached[number] or (row.state == "succeeded" and at != end):
                    return f"run {row.id} has [{start}, {at}, {end}) of {number}, those before end at {reached[number]}"
                reached[number] = at
            numbers = [value for number, start, _, at in row.plan for value in its[number][start:at]]
            chunks = [note for note in done if note["run"] == row.id]
            if [note["chunk"] for note in chunks] != list(range(len(chunks))):
                return f"run {row.id} has chunks {[note['chunk'] for note in chunks]}"
            if [value for note in chunks for value in note["numbers"]] != numbers:
                return f"run {row.id} of {row.plan} has done {sum(len(note['numbers']) for note in chunks)}"
            if row.state != "empty" and row.records != len(numbers):
                return f"run {row.id} of {row.plan} says {row.records} records"
        ends = [text.split()[1] for text in self.ends.read() if text.startswith(f"{rows[0].job} ")] if rows else []
        if ends != [row.id for row in rows if row.state == "succeeded"]:
            return f"its ends are {ends}"
        if any(reached[number] != len(values) for number, values in its.items()):
            return f"records up to {reached} were read, of {[len(values) for values in its.values()]}"
        return None

    def _wrong_tables(self, name: str, done: list[Any]) -> str | None:
        sums = Counter[str]()
        for number in self.numbers.read():
            sums[f"{number % 3}"] += number
        if dict(self.sums[name].items()) != {key: value for key, value in sums.items() if value}:
            return f"sums {dict(self.sums[name].items())} are not {sums}"
        if list(self.lists[name]["all"]) != [len(note["numbers"]) for note in done]:
            return f"chunks of {self.lists[name]['all']}"
        return None

    def _wrong_outside(self, done: list[Any]) -> str | None:
        """What was done again after a kill was the same chunk, by number and by what is in it."""
        states = {row.id: row.state for job in self.jobs for row in self.runner.history(job)}
        known = {(note["run"], note["chunk"]): note for note in done}
        for note in self.outside():
            if note["job"] not in self.names:
                continue
            if not note["planned"]:
                return f"chunk {note['chunk']} of {note['run']} was begun before its plan was stored"
            now = known.get((note["run"], note["chunk"]))
            if note["run"] not in states or (now is None and states[note["run"]] != "cancelled"):
                return f"chunk {note['chunk']} of {note['run']} was begun, and nobody knows of it"
            if known.setdefault((note["run"], note["chunk"]), note) != note:
                return f"chunk {note['chunk']} of {note['run']} was another one before"
        return None


def make(data: Path) -> None:
    """An empty directory with the topics; segments so small that the outputs roll."""
    with Log(data, create=True) as log:
        log.create_topic("numbers", PARTITIONS, TopicSettings(retention_ms=-1))
        log.create_topic("done", 1, TopicSettings(segment_bytes=4096, retention_ms=-1))
        log.create_topic("ends", 1, TopicSettings(retention_ms=-1))
        for name in (CONTROL, REPLIES):
            topic_of(log, name)
