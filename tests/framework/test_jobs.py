"""Jobs: when they run, over which records, and that a crash in the middle neither loses nor repeats one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from framework import App, Batch, Retry, Stream
from framework.errors import JobFailed
from framework.jobs.job import Job
from framework.jobs.runner import JobRunner
from framework.jobs.runs import RunRow
from framework.jobs.serving import Serving
from framework.log import NewRecord, encode
from framework.state.shards import Shards
from framework.worker import Worker
from tests.log.conftest import ManualClock

START = datetime(2024, 3, 8, 12, tzinfo=UTC)
DAY = timedelta(days=1)
ONCE = Retry(0)


class Arrived(Exception):
    """The time that a test waited for has come."""


class Site:
    """An app with a topic of numbers, an output and a table, whose jobs a test starts, stops and starts again."""

    def __init__(self, data: Path) -> None:
        self.clock = ManualClock()
        self.now = START
        self.app = App("site", data=data, clock=self.clock)
        self.numbers, self.out = self.app.topic("numbers", int, partitions=2), self.app.topic("out", int)
        self.sums = self.app.table("sums", int)
        self._shards: Shards | None = None

    @property
    def now(self) -> datetime:
        """The time, which stands still."""
        return datetime.fromtimestamp(self.clock.ms / 1000, UTC)

    @now.setter
    def now(self, when: datetime) -> None:
        self.clock.ms = int(when.timestamp() * 1000)

    def start(self) -> None:
        """Open everything, and own the jobs."""
        self._shards = Shards(self.app.open(create=True))
        self._shards.own_jobs()
        self.runner = JobRunner(self.app, self._shards.of_jobs())

    def stop(self) -> None:
        """Close everything."""
        if self._shards is not None:
            self._shards.close()
        self._shards = None
        self.app.close()

    def append(self, *values: int | bytes, partition: int = 0) -> None:
        """Append *values*, whoever is running."""
        info = self.app.topic_info(self.numbers)
        records = [NewRecord(None, value if isinstance(value, bytes) else b"%d" % value, 0) for value in values]
        batches = encode(records, max_batch_bytes=1 << 20)
        self.app.log.append(self.app.log.partition(info, partition), batches).result(60)

    async def run(self, job: Job) -> RunRow:
        """Run *job* now, as `framework jobs run` does."""
        return await self.runner.run(job, self.now, trigger="manual")

    async def pass_time(self, job: Job, until: datetime) -> list[RunRow]:
        """Serve *job* while the clock jumps from one due moment to the next; the runs there were."""
        known = len(self.runner.history(job))

        async def jump(waiting: Job) -> None:
            when = waiting.schedule.next_after(self.runner.states.of(waiting).last)
            assert when > self.now
            self.now = min(when, until)
            if when > until:
                raise Arrived

        serving = Serving(self.runner)
        serving._wait = jump  # type: ignore[method-assign, assignment]
        with pytest.raises(Arrived):
            await serving.serve(job)
        return self.runner.history(job)[known:]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site; closed after the test."""
    site = Site(tmp_path / "data")
    yield site
    site.stop()


# Which records.


async def test_a_run_covers_what_came_since_the_last_one_and_before_its_start(site: Site) -> None:
    """What is appended while it runs belongs to the next."""
    seen: list[tuple[int, list[int], list[int]]] = []

    @site.app.job(site.numbers, schedule="@daily")
    def collect(batch: Batch[int]) -> None:
        site.append(90 + len(seen), partition=1)
        seen.append((len(batch), list(batch), list(batch)))
        site.append(80 + len(seen))

    site.start()
    site.append(1, 2)
    site.append(3, partition=1)
    for _ in range(3):
        assert (await site.run(collect)).state == "succeeded"
    assert seen == [(3, [1, 2, 3], [1, 2, 3]), (2, [81, 90], [81, 90]), (2, [82, 91], [82, 91])]


async def test_the_plan_is_stored_before_the_first_record_is_read(site: Site) -> None:
    stored = []

    @site.app.job(site.numbers, schedule="@daily")
    def look(batch: Batch[int]) -> None:
        stored.extend(site.runner.history(look))
        list(batch)

    site.start()
    site.append(1, 2)
    site.append(3, partition=1)
    await site.run(look)
    [row] = stored
    assert (row.state, row.attempt, row.plan) == ("running", 1, [[0, 0, 2, 0], [1, 0, 1, 0]])
    [row] = site.runner.history(look)
    assert (row.state, row.records, row.plan) == ("succeeded", 3, [[0, 0, 2, 2], [1, 0, 1, 1]])


async def test_without_chunks_a_run_commits_when_it_returns(site: Site) -> None:
    visible = []

    @site.app.job(site.numbers, schedule="@daily")
    def total(batch: Batch[int]) -> None:
        for number in batch:
            site.sums["all"] += number
            site.out.send(number)
        visible.append(len(site.out.read()))

    site.start()
    site.append(1, 2, 3)
    await site.run(total)
    assert visible == [0]
    assert (list(site.out.read()), dict(site.sums.items())) == ([1, 2, 3], {"all": 6})


@pytest.mark.parametrize("form", ["def", "async def"])
async def test_a_chunk_is_committed_when_the_next_is_asked_for(site: Site, form: str) -> None:
    """`def` runs in a thread, `async def` on the event loop; both are one run, in order."""
    seen, threads = [], set()

    def handle(chunk: Batch[int]) -> None:
        threads.add(threading.current_thread() is threading.main_thread())
        site.sums["all"] += sum(chunk)
        site.out.send_many(chunk)
        seen.append((chunk.number, list(chunk), len(site.out.read()), site.runner.history(job)[0].records))

    def plain(batch: Batch[int]) -> None:
        for chunk in batch.chunks(2):
            handle(chunk)

    async def coroutine(batch: Batch[int]) -> None:
        for chunk in batch.chunks(2):
            await asyncio.sleep(0)
            handle(chunk)

    declare = site.app.job(site.numbers, schedule="@daily", name="job")
    job = declare(plain if form == "def" else coroutine)
    site.start()
    site.append(1, 2, 3)
    site.append(4, 5, partition=1)
    await site.run(job)
    assert seen == [(0, [1, 2], 0, 0), (1, [3, 4], 2, 2), (2, [5], 4, 4)]
    assert (list(site.out.read()), dict(site.sums.items())) == ([1, 2, 3, 4, 5], {"all": 15})
    assert threads == {form == "async def"}


async def test_a_run_over_nothing_calls_nobody(site: Site) -> None:
    calls = []

    @site.app.job(site.numbers, schedule="@daily")
    def collect(batch: Batch[int]) -> None:
        calls.append(list(batch))

    site.start()
    rows = await site.pass_time(collect, START + 2 * DAY)
    assert [(row.state, row.records, row.ended) for row in rows] == [("empty", 0, row.nominal) for row in rows]
    site.append(1)
    [row] = await site.pass_time(collect, START + 3 * DAY)
    assert (len(rows), row.state, calls) == (2, "succeeded", [[1]])


async def test_jobs_run_beside_the_agents_of_their_topic(site: Site) -> None:
    """In one worker: the agent has each record, and so has the job, whose outputs another agent follows."""
    done = asyncio.Event()

    @site.app.agent(site.numbers)
    async def forward(stream: Stream[int]) -> None:
        async for number in stream:
            site.out.send(number)

    @site.app.agent(site.out)
    async def count(stream: Stream[int]) -> None:
        async for number in stream:
            site.sums["seen"] += number
            if site.sums["seen"] == 66:
                done.set()

    @site.app.job(site.numbers, schedule="@daily")
    def scale(batch: Batch[int]) -> None:
        site.out.send_many([10 * number for number in batch])

    site.start()
    assert await site.pass_time(scale, START) == []
    site.append(1, 2, 3)
    site.stop()
    site.now += DAY
    async with Worker(site.app).running():
        await asyncio.wait_for(done.wait(), 60)
    with site.app.opened(create=False):
        assert sorted(site.out.read()) == [1, 2, 3, 10, 20, 30]
        assert site.sums["seen"] == 66


# When.


async def test_a_job_runs_at_each_due_moment_and_not_before(site: Site) -> None:
    times = []

    @site.app.job(site.numbers, schedule=timedelta(hours=6))
    def collect(batch: Batch[int]) -> None:
        times.append((site.now, list(batch)))
        site.append(len(times))

    site.start()
    site.append(0)
    rows = await site.pass_time(collect, START + timedelta(hours=23))
    assert times == [(START + timedelta(hours=6 * (at + 1)), [at]) for at in range(3)]
    assert [datetime.fromtimestamp(row.nominal, UTC) for row in rows] == [when for when, _ in times]


async def test_fires_that_were_missed_are_one_run(site: Site) -> None:
    """The worker was down; the newest fire gives its name, and all records are there."""
    seen = []

    @site.app.job(site.numbers, schedule="0 3 * * *")
    def collect(batch: Batch[int]) -> None:
        assert batch.run is not None
        seen.append((batch.run.id, batch.run.nominal, list(batch)))

    site.start()
    assert await site.pass_time(collect, START) == []
    site.append(1, 2)
    site.stop()
    site.now = START + 5 * DAY
    site.start()
    assert len(await site.pass_time(collect, site.now)) == 1
    nominal = datetime(2024, 3, 13, 3, tzinfo=UTC)
    assert seen == [("collect-20240313T030000Z", nominal, [1, 2])]


@pytest.mark.parametrize(
    ("schedule", "start", "fires"),
    [
        ("30 2 * * *", datetime(2024, 3, 9, 12, tzinfo=UTC), ["0310T070000", "0311T063000", "0312T063000"]),
        ("30 1 * * *", datetime(2024, 11, 2, 12, tzinfo=UTC), ["1103T053000", "1104T063000", "1105T063000"]),
    ],
    ids=["spring", "autumn"],
)
async def test_a_daily_job_runs_once_on_days_the_clock_changes(
    site: Site, schedule: str, start: datetime, fires: list[str]
) -> None:
    """New York skips half past two in spring, and has half past one twice in autumn."""

    @site.app.job(site.numbers, schedule=schedule, timezone="America/New_York", name="daily")
    def daily(batch: Batch[int]) -> None:
        list(batch)

    site.now = start
    site.start()
    rows = await site.pass_time(daily, start + 3 * DAY)
    assert [row.id for row in rows] == [f"daily-2024{fire}Z" for fire in fires]


async def test_runs_of_one_moment_have_ids_of_their_own_and_history_keeps_their_order(site: Site) -> None:
    @site.app.job(site.numbers, schedule="@daily", name="a.job_1-x")
    def job(batch: Batch[int]) -> None:
        list(batch)

    site.start()
    rows = []
    for _ in range(12):
        rows.append(await site.runner.run(job, START, trigger="manual"))
        site.now += timedelta(seconds=1)
    first = "a.job_1-x-20240308T120000Z"
    assert [row.id for row in rows] == [first, *(f"{first}-{number}" for number in range(2, 13))]
    rows.insert(0, await site.runner.run(job, START - DAY, trigger="manual"))
    assert [row.id for row in site.runner.history(job)] == [row.id for row in rows]


# Failures.


async def test_a_run_that_fails_leaves_its_rest_to_the_next(site: Site) -> None:
    """What its chunks committed stays; the chunk that failed left nothing, neither in a table nor in a topic."""
    attempts = []

    @site.app.job(site.numbers, schedule="@daily", retries=ONCE)
    def total(batch: Batch[int]) -> None:
        attempts.append(batch.run)
        for chunk in batch.chunks(2):
            for number in chunk:
                site.sums["all"] += number
                site.out.send(number)
                if number == 4 and len(attempts) == 1:
                    raise ValueError("no luck")

    site.start()
    site.append(1, 2, 3, 4, 5)
    with pytest.raises(JobFailed, match=r"^run total-20240308T120000Z failed: ValueError: no luck$"):
        await site.run(total)
    [row] = site.runner.history(total)
    assert (row.state, row.error, row.records) == ("failed", "ValueError: no luck", 2)
    assert (list(site.out.read()), dict(site.sums.items())) == ([1, 2], {"all": 3})
    site.append(6)
    site.now += DAY
    row = await site.run(total)
    assert (row.records, row.plan) == (4, [[0, 2, 6, 6], [1, 0, 0, 0]])
    assert (list(site.out.read()), dict(site.sums.items())) == ([1, 2, 3, 4, 5, 6], {"all": 21})


async def test_a_failed_run_is_not_tried_again_before_the_next_fire(site: Site) -> None:
    @site.app.job(site.numbers, schedule="@daily", retries=ONCE)
    async def broken(batch: Batch[int]) -> None:
        raise ValueError(sum(batch))

    site.start()
    site.append(1)
    rows = await site.pass_time(broken, START + 3 * DAY)
    assert [(row.state, row.attempt) for row in rows] == [("failed", 1)] * 3


@pytest.mark.parametrize("chunks", [1, 2])
async def test_returning_before_the_last_chunk_fails_the_run(site: Site, chunks: int) -> None:
    """Else the records that nobody has seen would count as done."""
    seen = []

    @site.app.job(site.numbers, schedule="@daily")
    def hasty(batch: Batch[int]) -> None:
        for chunk in batch.chunks(2):
            seen.append(list(chunk))
            if len(seen) == chunks:
                return

    site.start()
    site.append(1, 2, 3, 4, 5)
    with pytest.raises(JobFailed, match="the handler of 'hasty' returned before its last chunk"):
        await site.run(hasty)
    assert (await site.run(hasty)).state == "succeeded"
    assert sorted({number for each in seen for number in each}) == [1, 2, 3, 4, 5]


# Records that cannot be decoded.


@pytest.mark.parametrize("chunked", [False, True])
async def test_what_cannot_be_decoded_goes_to_the_dead_letter_topic(site: Site, chunked: bool) -> None:
    """Once, however often the handler reads; with its place and the reason; and with the commit of its chunk."""
    seen: list[tuple[int, list[int], list[int]]] = []

    @site.app.job(site.numbers, schedule="@daily")
    def collect(batch: Batch[int]) -> None:
        parts = batch.chunks(2) if chunked else [batch]
        seen.extend((len(part), list(part), list(part)) for part in parts)

    site.start()
    site.append(1, partition=1)
    site.append(b"nonsense", 3, partition=1)
    row = await site.run(collect)
    assert seen == ([(2, [1], [1]), (1, [3], [3])] if chunked else [(3, [1, 3], [1, 3])])
    assert (row.state, row.records) == ("succeeded", 3)
    letters = list(site.app.topics["site.collect.dead-letter"].read().records())
    assert [(letter.partition, letter.value) for letter in letters] == [(1, b"nonsense")]
    headers = letters[0].headers
    place = [headers[f"dead-letter.{name}"] for name in ("agent", "topic", "partition", "offset")]
    assert place == [b"collect", b"numbers", b"1", b"1"]
    assert headers["dead-letter.error"].startswith(b"DecodeError: not a valid int")
