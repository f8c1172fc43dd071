"""The store of the jobs: what it holds of a run whose worker is killed, or whose commit or log fails it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from framework import App, Batch, Retry, Table
from framework.errors import JobFailed
from framework.jobs.job import Job
from framework.jobs.runner import JobRunner
from framework.jobs.runs import DueState, RunRow, due_key
from framework.log import Log, NewRecord, TopicInfo, encode
from framework.log.errors import OffsetOutOfRange
from framework.state import rows
from framework.state.database import Database
from framework.state.errors import StateAhead, StateFailed
from framework.state.shards import Shards
from framework.state.view import StateView
from tests.log.conftest import Child

DAY_MS = 86_400_000
FRIDAY_MS = int(datetime(2024, 3, 8, 12, tzinfo=UTC).timestamp() * 1000)
PARTITIONS = 3
WORKER = """
import asyncio
from framework import App
from framework.worker import Worker
from tests.log.conftest import ManualClock

clock = ManualClock()
clock.ms = int(sys.argv[2])
app = App("killed", data=sys.argv[1], clock=clock)
numbers, out = app.topic("numbers", int, partitions=3), app.topic("out", int)
sums, lists = app.table("sums", int), app.table("lists", list)

@app.job(numbers, schedule="@daily")
def fold(batch):
    say("run", batch.run.id, batch.run.attempt, len(batch))
    hear()
    for chunk in batch.chunks(10):
        for number in chunk:
            sums["all"] += number
            lists["all"].append(number)
            out.send(number)
        say("chunk", chunk.number, *chunk)
        hear()
    out.send(-1)
    say("returns")

asyncio.run(Worker(app).run())
"""


def append(log: Log, topic: TopicInfo, values: Sequence[int], partition: int = 0) -> None:
    """Append *values*, durably."""
    batches = encode([NewRecord(None, b"%d" % value, 0) for value in values], max_batch_bytes=1 << 20)
    log.append(log.partition(topic, partition), batches).result(60)


def wait_for(log: Log, topic: TopicInfo, count: int) -> None:
    """Return when another process has put *count* records into partition 0."""
    doorbell, partition = log.doorbell(), log.partition(topic, 0)
    try:
        while partition.high_watermark < count:
            doorbell.wait(1.0)
    finally:
        doorbell.close()


def history(log: Log) -> list[RunRow]:
    """The runs of the job, as everybody sees them."""
    view = StateView(log)
    try:
        return [RunRow.load(value) for _, value in view.job_rows(rows.run_prefix("fold"))]
    finally:
        view.close()


# Kills.


@pytest.fixture
def numbers(log: Log) -> TopicInfo:
    """A topic of three partitions with 45 records, and its job, first seen on Friday."""
    topic = log.create_topic("numbers", PARTITIONS)
    for partition in range(PARTITIONS):
        append(log, topic, range(15 * partition, 15 * partition + 15), partition)
    shards = Shards(log)
    state = DueState(FRIDAY_MS * 1000, "@daily UTC")
    shards.of_jobs().database.write([(due_key("job", "fold"), state.pack())])
    shards.close()
    return topic


@pytest.mark.slow
def test_a_run_whose_worker_is_killed_goes_on_at_its_first_uncommitted_chunk(
    data: Path, log: Log, numbers: TopicInfo, child: Any
) -> None:
    """Killed before its first record and in its chunks; the plan never moves, whatever is appended meanwhile."""
    said: list[str] = []

    def work(chunks: int, day: int) -> Child:
        """A worker that has said so many chunks of its run, the last of which it has not committed."""
        worker: Child = child(WORKER, data, FRIDAY_MS + day * DAY_MS)
        for number in range(1 + chunks):
            said.append(worker.hear())
            if number < chunks:
                worker.say()
        return worker

    for day, chunks in enumerate([0, 1, 3, 1], 1):
        work(chunks, day).kill()
        append(log, numbers, [1000 + day])
        [row] = history(log)
        assert (row.state, row.attempt) == ("running", day)
        assert [part[:3] for part in row.plan] == [[partition, 0, 15] for partition in range(PARTITIONS)]
    finisher = work(3, 5)
    finisher.say()
    assert finisher.hear() == "returns"
    wait_for(log, log.topic("out"), 46)
    finisher.kill()

    run = "run fold-20240309T000000Z"
    whole = [f"chunk {number} {' '.join(map(str, range(45)[10 * number : 10 * number + 10]))}" for number in range(5)]
    assert said == [
        *(f"{run} 1 45", f"{run} 2 45", whole[0]),
        *(f"{run} 3 45", whole[0], whole[1], whole[2]),
        *(f"{run} 4 25", whole[2]),
        *(f"{run} 5 25", whole[2], whole[3], whole[4]),
    ]
    check_end(data, log)


def check_end(data: Path, log: Log) -> None:
    """Every record of the plan counts once, in the tables and in the outputs; what came later waits."""
    app = App("killed", data=data)
    sums: Table[int] = app.table("sums", int)
    lists: Table[list[int]] = app.table("lists", list)
    with app.opened(create=False):
        assert list(app.topic("out", int).read()) == [*range(45), -1]
        assert (dict(sums.items()), dict(lists.items())) == ({"all": sum(range(45))}, {"all": list(range(45))})
    row, *later = history(log)
    assert (row.state, row.records, row.chunk) == ("succeeded", 45, 5)
    assert [part[3] for part in row.plan] == [15, 15, 15]
    # The finisher's clock stands behind more fires, which are one run, over what came since.
    assert [(each.id, each.plan) for each in later if each.state not in ("planned", "running")] == []
    assert [(each.id, each.plan[0][1:3]) for each in later] in ([], [("fold-20240313T000000Z", [15, 19])])


# Two jobs.


def test_two_jobs_of_one_topic_share_the_store_and_do_not_know_of_each_other(start: Any) -> None:
    """Beside each other, too: their outputs take the sequence numbers of one producer."""
    app, runner = start()
    numbers, out = app.topic("numbers", int), app.topic("out", int)
    append(app.log, app.log.create_topic("numbers", 1), range(100))

    def forward(batch: Batch[int]) -> None:
        for chunk in batch.chunks(7):
            out.send_many(chunk)

    async def forward_later(batch: Batch[int]) -> None:
        for chunk in batch.chunks(9):
            out.send_many([100 + number for number in chunk])
            await asyncio.sleep(0)

    one = app.job(numbers, schedule="@daily", name="one")(forward)
    two = app.job(numbers, schedule="@daily", name="two")(forward_later)

    async def both() -> None:
        await runner.run(one, datetime.now(UTC), trigger="manual")
        append(app.log, app.log.topic("numbers"), range(100, 200))
        async with asyncio.TaskGroup() as group:
            group.create_task(runner.run(one, datetime.now(UTC), trigger="manual"))
            group.create_task(runner.run(two, datetime.now(UTC), trigger="manual"))

    asyncio.run(both())
    assert sorted(out.read()) == sorted([*range(200), *range(100, 300)])
    assert [[row.records for row in runner.history(job)] for job in (one, two)] == [[100, 100], [200]]


# Failures.


class Full(Database):
    """A database whose disk is full for one write, when it is told so."""

    full = False

    def write(self, changes: Sequence[Any]) -> None:
        if self.full:
            self.full = False
            raise StateFailed("the disk is full")
        super().write(changes)


@pytest.fixture
def start(data: Path) -> Iterator[Callable[[], tuple[App, JobRunner]]]:
    """Closes what was open and starts an app with jobs, as after a restart."""
    opened: list[tuple[Shards, App]] = []

    def stop() -> None:
        for shards, app in opened:
            shards.close()
            app.close()
        opened.clear()

    def start_it() -> tuple[App, JobRunner]:
        stop()
        app = App("failing", data=data)
        shards = Shards(app.open(create=True), open_database=Full)
        opened.append((shards, app))
        return app, JobRunner(app, shards.of_jobs())

    yield start_it
    stop()


def forwarding(app: App, runner: JobRunner, fail: Callable[[int], None]) -> Job:
    """A job that forwards numbers in chunks of two, and calls *fail* inside each."""

    @app.job(app.topic("numbers", int), schedule="@daily", retries=Retry(0))
    def fold(batch: Batch[int]) -> None:
        for chunk in batch.chunks(2):
            app.topic("out", int).send_many(chunk)
            fail(chunk.number)

    return fold


async def resumed(runner: JobRunner, job: Job) -> None:
    """Finish what was interrupted."""
    await runner.resume(job)


def test_a_commit_that_fails_is_no_failure_of_the_handler(start: Any) -> None:
    """The store has to be opened anew, so the worker ends; the next one resumes the run, and nothing is missing."""
    app, runner = start()
    append(app.log, app.log.create_topic("numbers", 1), range(5))

    def fill(chunk: int) -> None:
        runner.store.database.full = chunk == 1

    with pytest.raises(StateFailed, match="the disk is full"):
        asyncio.run(runner.run(forwarding(app, runner, fill), datetime.now(UTC), trigger="manual"))
    app, runner = start()
    job = forwarding(app, runner, lambda chunk: None)
    asyncio.run(resumed(runner, job))
    assert [(row.state, row.attempt) for row in runner.history(job)] == [("succeeded", 2)]
    assert list(app.topic("out", int).read()) == [0, 1, 2, 3, 4]


def test_a_handler_that_fails_leaves_the_store_as_it_was(start: Any) -> None:
    """Its sends were never numbered, so the next run's follow without a gap."""
    app, runner = start()
    append(app.log, app.log.create_topic("numbers", 1), range(5))
    calls = []

    def fail(chunk: int) -> None:
        calls.append(chunk)
        assert len(calls) != 2, "no luck"

    job = forwarding(app, runner, fail)
    with pytest.raises(JobFailed, match="no luck"):
        asyncio.run(runner.run(job, datetime.now(UTC), trigger="manual"))
    asyncio.run(runner.run(job, datetime.now(UTC), trigger="manual"))
    assert list(app.topic("out", int).read()) == [0, 1, 2, 3, 4]


def test_a_handler_that_returns_inside_its_last_chunk_has_done_all_records(start: Any) -> None:
    """It has seen every one of them, and its row says so."""
    app, runner = start()
    append(app.log, app.log.create_topic("numbers", 1), range(6))

    def hasty(batch: Batch[int]) -> None:
        for chunk in batch.chunks(3):
            app.topic("out", int).send_many(chunk)
            if chunk.number == 1:
                return

    job = app.job(app.topic("numbers", int), schedule="@daily")(hasty)
    row = asyncio.run(runner.run(job, datetime.now(UTC), trigger="manual"))
    assert list(app.topic("out", int).read()) == [0, 1, 2, 3, 4, 5]
    assert (row.state, row.plan, row.records, row.chunk) == ("succeeded", [[0, 0, 6, 6]], 6, 2)


def test_a_dead_letter_has_room_for_the_largest_record(start: Any) -> None:
    """Headers with the reason come on top of it; refused, it would fail this run and every one behind it."""
    app, runner = start()
    numbers, partition = app.topic("numbers", int), app.log.partition(app.log.create_topic("numbers", 1), 0)
    largest = bytes((1 << 20) - 100)
    app.log.append(partition, encode([NewRecord(None, largest, 0)], max_batch_bytes=1 << 20)).result(60)
    append(app.log, app.log.topic("numbers"), [2])
    seen: list[int] = []
    job = app.job(numbers, schedule="@daily", name="collect")(seen.extend)
    asyncio.run(runner.run(job, datetime.now(UTC), trigger="manual"))
    assert seen == [2]
    assert list(app.topics["failing.collect.dead-letter"].read()) == [largest]


def test_a_run_over_records_that_the_log_does_not_hold_is_not_planned(data: Path, tmp_path: Path, start: Any) -> None:
    """An older log has been put in the place of the one that the state belongs to."""
    app, runner = start()
    append(app.log, app.log.create_topic("numbers", 1), range(3))
    app.close()
    shutil.copytree(data, tmp_path / "backup", ignore=shutil.ignore_patterns("state"))
    app, runner = start()
    append(app.log, app.log.topic("numbers"), range(3, 5))
    job = forwarding(app, runner, lambda chunk: None)
    asyncio.run(runner.run(job, datetime.now(UTC), trigger="manual"))
    start()[0].close()
    shutil.move(data / "state", tmp_path / "backup" / "state")
    shutil.rmtree(data)
    shutil.move(tmp_path / "backup", data)
    with pytest.raises((StateAhead, OffsetOutOfRange), match=r"(numbers|out)-0"):
        again(start)


def again(start: Any) -> None:
    """Start, and run the job."""
    app, runner = start()
    asyncio.run(runner.run(forwarding(app, runner, lambda chunk: None), datetime.now(UTC), trigger="manual"))
