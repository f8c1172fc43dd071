"""The ways in which runs of jobs are lost, doubled or done over other records.

F32  a run spans partitions, its commit must not
F33  the edge of until="fire", and after a bad clock
F34  commands while the worker has the locks
F35  a plan over what is not durable, a backfill that moves the job, ranges that are gone
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from framework import App, Batch, Retry
from framework.clock import START, ManualClock
from framework.errors import JobFailed
from framework.jobs.backfill import Backfill
from framework.jobs.commands import Commands
from framework.jobs.control import send
from framework.jobs.job import Job
from framework.jobs.planning import Planner, Wanted
from framework.jobs.runner import JobRunner
from framework.jobs.runs import RunRow
from framework.log import Log, NewRecord, Partition, TopicSettings, encode
from framework.state.database import Database
from framework.state.rows import Change
from framework.state.shards import Shards
from framework.worker import Worker

HOUR = timedelta(hours=1)
LIMIT_S = 20.0
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


class Watched(Database):
    """A real RocksDB that tells of its writes before they are made."""

    writes: list[tuple[Path, list[Change], int]]
    durable: Any = staticmethod(lambda: 0)

    def write(self, changes: Sequence[Change]) -> None:
        self.writes.append((self.path, list(changes), self.durable()))
        super().write(changes)


class Site:
    """An app with a topic of numbers, whose jobs a test runs; its clock stands still."""

    def __init__(self, data: Path, *, partitions: int = 1, **settings: Any) -> None:
        self.clock = ManualClock()
        self.app = App("site", data=data, clock=self.clock)
        self.numbers = self.app.topic("numbers", str, partitions=partitions)
        self.out = self.app.topic("out", str)
        self.sums = self.app.table("sums", int)
        Watched.writes = []
        self.log = self.app.open(create=True)
        self.log.create_topic("numbers", partitions, TopicSettings(retention_ms=-1, **settings))
        self.shards = Shards(self.log, open_database=Watched)
        self.shards.own_jobs()
        self.runner = JobRunner(self.app, self.shards.of_jobs())

    def partition(self, number: int = 0) -> Partition:
        return self.log.partition(self.log.topic("numbers"), number)

    def append(self, *values: str, partition: int = 0, log: Log | None = None, durable: bool = True) -> None:
        """Append a batch of each value."""
        log = log or self.log
        batches = [encode([NewRecord(None, value.encode(), 0)], max_batch_bytes=1 << 20)[0] for value in values]
        log.append(log.partition(log.topic("numbers"), partition), batches).result(60)

    def declare(self, function: Any, name: str = "fold", **policies: Any) -> Job:
        policies = {"retries": Retry(0), "schedule": "@hourly", **policies}
        job: Job = self.app.job(self.numbers, name=name, **policies)(function)
        return job

    async def plan(self, job: Job, nominal: datetime) -> RunRow:
        """What the run of *job* would read that was due at *nominal*."""
        wanted = Wanted(nominal, "schedule", job.policies.until)
        return await asyncio.to_thread(
            Planner(self.app, self.shards.of_jobs()).plan, job, wanted, self.runner.states.of(job)
        )

    async def run(self, job: Job) -> RunRow:
        return await self.runner.run(job, self.clock.now)

    def close(self) -> None:
        self.shards.close()
        self.app.close()


@asynccontextmanager
async def opened(data: Path, **options: Any) -> AsyncIterator[Site]:
    """A site; closed behind the body."""
    site = Site(data, **options)
    try:
        async with asyncio.timeout(LIMIT_S):
            yield site
    finally:
        site.close()


async def test_f32_a_chunk_over_several_partitions_is_one_write_to_one_database(tmp_path: Path) -> None:
    """Its positions, progress, tables, outputs and their numbers; in several, a kill between them would split it."""
    async with opened(tmp_path / "data", partitions=3) as site:

        def fold(batch: Batch[str]) -> None:
            for chunk in batch.chunks(5):
                for value in chunk:
                    site.sums["all"] += 1
                    site.out.send(value)

        for number in range(3):
            site.append("a", "b", partition=number)
        job = site.declare(fold)
        Watched.writes.clear()
        await site.run(job)
        assert {path.relative_to(tmp_path) for path, _, _ in Watched.writes} == {Path("data/state/jobs")}
        chunks = [
            {key[:1] for key, _ in changes}
            for _, changes, _ in Watched.writes
            if any(key[:1] == b"r" and RunRow.load(value or b"").chunk == 1 for key, value in changes)
        ]
        first = next(changes for _, changes, _ in Watched.writes if any(key[:1] == b"x" for key, _ in changes))
        assert chunks[0] >= {b"r", b"o", b"t", b"x", b"s"}, "run, positions, table, outbox and sequence"
        [row] = [RunRow.load(value or b"") for key, value in first if key[:1] == b"r"]
        assert row.plan == [[0, 0, 2, 2], [1, 0, 2, 2], [2, 0, 2, 1]]
        assert sum(key[:1] == b"o" for key, _ in first) == 3


async def test_f33_an_append_of_the_second_before_that_comes_late_is_of_the_next_run(tmp_path: Path) -> None:
    """By a clock that is behind: whoever plans a run of that time has the same ends, however late."""
    async with opened(tmp_path / "data") as site:
        one, two = site.declare(lambda batch: None, "one"), site.declare(lambda batch: None, "two")
        site.append("before")
        site.clock.advance(HOUR)
        first = await site.plan(one, site.clock.now)
        behind = ManualClock(START + HOUR - timedelta(seconds=1))
        with Log(tmp_path / "data", clock=behind) as log:
            site.append("late", log=log)
        second = await site.plan(two, site.clock.now)
        assert first.plan == second.plan == [[0, 0, 1, 0]]
        assert (first.notes, second.notes) == ([], [])
        site.clock.advance(HOUR)
        assert (await site.plan(two, site.clock.now)).plan == [[0, 0, 2, 0]]


async def test_f33_after_a_clock_that_was_years_ahead_runs_end_where_they_start_and_say_so(tmp_path: Path) -> None:
    """Every later append has that time: by append times no run would read anything for years."""
    async with opened(tmp_path / "data") as site:
        job = site.declare(lambda batch: None)
        ahead = ManualClock(datetime.fromtimestamp(time.time(), UTC) + timedelta(days=4 * 365))
        with Log(tmp_path / "data", clock=ahead) as log:
            site.append("of years ahead", log=log)
        for hour in range(1, 4):
            site.append(f"of hour {hour}")
            site.clock.advance(HOUR)
            row = await site.plan(job, site.clock.now)
            assert row.plan == [[0, 0, hour + 1, 0]]
            assert row.notes == ["until='start': the last append to numbers-0 is ahead of the clock"]
    done = await asyncio.to_thread(doctor, tmp_path / "data")
    [clock] = [row for row in map(json.loads, done.stdout.splitlines()) if row["name"] == "clock"]
    assert "the clock went back, or was wrong then" in clock["advice"]


def doctor(data: Path) -> subprocess.CompletedProcess[str]:
    """What `framework doctor` says."""
    command = [sys.executable, "-m", "framework", "doctor", "--json", "--data", str(data)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


async def test_f33_a_clock_that_is_a_little_behind_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "data") as site:
        job = site.declare(lambda batch: None)
        site.append("before")
        site.clock.advance(HOUR)
        await site.plan(job, site.clock.now)
        with Log(tmp_path / "data", clock=ManualClock(START + HOUR + timedelta(seconds=59))) as log:
            site.append("ahead", log=log)
        row = await site.plan(job, site.clock.now)
        assert (row.plan, row.notes) == ([[0, 0, 1, 0]], [])


async def test_f34_a_command_beside_a_worker_is_done_by_it(tmp_path: Path) -> None:
    """It has the locks, and knows what it does; whoever gives the command hears what came of it."""
    app = App("commanded", data=tmp_path / "data")
    app.job(app.topic("numbers", int), schedule="@hourly", name="fold")(lambda batch: None)
    async with asyncio.timeout(LIMIT_S), Worker(app).running():
        with Log(tmp_path / "data") as log:

            def give(command: str, **arguments: Any) -> Any:
                return asyncio.to_thread(send, log, command, "fold", arguments)

            assert (
                await give("pause", why="to see")
            ).text == "job 'fold' is paused; its records stay for when it is resumed"
            refused = await give("cancel", run=None)
            assert (refused.ok, refused.text) == (False, "job 'fold' is not running")
            assert (await give("resume")).ok


async def test_f35_the_end_of_a_plan_is_durable_before_the_plan_is(tmp_path: Path) -> None:
    """Or a power cut could leave a plan over offsets that other records get."""
    async with opened(tmp_path / "data", durability="os") as site:
        partition = site.partition()
        Watched.durable = staticmethod(lambda: site.log.shared.durable_offset(partition.slot))
        jobs = [site.declare(lambda batch: None, until, until=until) for until in ("fire", "start")]
        for job in jobs:
            site.append("not synced")
            assert not partition.is_synced
            site.clock.advance(HOUR)
            row = await site.plan(job, site.clock.now)
            _, _, durable = Watched.writes[-1]
            assert durable == row.plan[0][2] == partition.log_end
    Watched.durable = staticmethod(lambda: 0)


async def test_f35_reading_all_begins_at_the_log_start_of_the_plan(tmp_path: Path) -> None:
    async with opened(tmp_path / "data") as site:
        job = site.declare(lambda batch: None, reads="all", until="start")
        site.append(*"abcdef")
        site.partition().delete_records(2)
        assert (await site.run(job)).plan == [[0, 2, 6, 6]]
        site.append("g")
        site.partition().delete_records(4)
        assert (await site.run(job)).plan == [[0, 4, 7, 7]]


@pytest.mark.parametrize("tables", ["scratch", "live"])
async def test_f35_a_backfill_leaves_the_position_of_its_job_alone(tmp_path: Path, tables: Any) -> None:
    """Its runs read what they are for, and the next run of the job begins where the last one ended."""
    async with opened(tmp_path / "data") as site:
        seen = list[tuple[bool, str]]()
        job = site.declare(
            lambda batch: seen.extend((batch.run.id.startswith("fold-2024"), value) for value in batch), until="start"
        )
        site.append("a", "b")
        await site.run(job)
        site.append("c")
        commands = Commands(site.runner)
        since = datetime(1970, 1, 1, tzinfo=UTC)
        _, planned = await commands.plan_backfill("fold", Backfill(since, since + HOUR, None, tables, 1))
        await commands.finish_backfill(planned)
        assert [row.state for row in planned] == ["succeeded"]
        assert sorted(value for _, value in seen) == ["a", "a", "b", "b", "c"]
        assert (await site.run(job)).plan == [[0, 2, 3, 3]]


# Records that are removed while a run reads them.


def by_chunks(site: Site, lose_at: int, before: int) -> Any:
    """Send on what is in the chunks of one record; in chunk *lose_at* those below *before* are removed."""

    def fold(batch: Batch[str]) -> None:
        for chunk in batch.chunks(1):
            for value in chunk:
                site.out.send(value[:1])
            if chunk.number == lose_at:
                site.partition().delete_records(before)

    return fold


@pytest.mark.parametrize(
    ("before", "kept", "lost"), [(4, "abef", "2 to 3"), (6, "ab", "2 to 5"), (7, "ab", "2 to 5")], ids=str
)
async def test_f35_a_run_goes_on_with_the_earliest_that_is_kept(
    tmp_path: Path, before: int, kept: str, lost: str
) -> None:
    """Behind the records that were removed, to the end that was planned; its row says which they were."""
    async with opened(tmp_path / "data", segment_bytes=4096) as site:
        job = site.declare(by_chunks(site, 1, before), on_gap="earliest", until="start")
        site.append(*(letter * 3000 for letter in "abcdef"))
        row = await site.plan(job, site.clock.now)
        site.append(*(letter * 3000 for letter in "gh"))
        await site.runner.finish(job, row)
        assert (row.state, row.plan, row.records) == ("succeeded", [[0, 0, 6, 6]], len(kept))
        assert row.notes == [f"numbers-0 offsets {lost} were removed before run {row.id} read them"]
        assert "".join(site.out.read()) == kept
        later = await site.run(job)
        assert "".join(site.out.read()) == kept + ("gh" if before < 7 else "h")
        assert later.plan[0][1:3] == [6, 8]


async def test_f35_a_run_fails_at_a_gap_and_keeps_what_its_chunks_did(tmp_path: Path) -> None:
    """Every later run does, until somebody says that the job goes on behind it."""
    async with opened(tmp_path / "data", segment_bytes=4096) as site:
        job = site.declare(by_chunks(site, 1, 4), until="start", retries=Retry(3))
        site.append(*(letter * 3000 for letter in "abcdef"))
        for _ in range(2):
            with pytest.raises(JobFailed, match=r"numbers-0 offsets 2 to 3 were removed .*on_gap='earliest'"):
                await site.run(job)
            assert "".join(site.out.read()) == "ab"
        first, second = site.runner.history(job)
        assert (first.state, first.attempt, first.chunk, first.plan) == ("failed", 1, 2, [[0, 0, 6, 2]])
        assert (second.state, second.plan) == ("failed", [[0, 2, 6, 2]])
        await Commands(site.runner).rewind("fold", {0: site.partition().log_start}, empty=False)
        assert (await site.run(job)).state == "succeeded"
        assert "".join(site.out.read()) == "abef"
