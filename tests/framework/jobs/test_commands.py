"""What people do with jobs: pause, cancel, run and rewind, whatever the job is at just then."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from framework import Batch, Retry
from framework.alongside import alongside
from framework.jobs.fires import Fire
from framework.jobs.job import Job
from framework.jobs.serving import Serving
from framework.log.errors import Conflict, NotFound, UnknownPartition, UsageError
from framework.state.errors import StateFailed
from tests.framework.jobs.yard import DAY, START, Yard, summing
from tests.until import until

LIMIT_S = 10.0


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    """A yard; closed after the test."""
    yard = Yard(tmp_path / "data")
    yield yard
    yard.stop()


# Pause and resume.


async def test_a_pause_outlives_the_worker_and_says_who_and_why(yard: Yard) -> None:
    job = summing(yard)
    yard.start()
    yard.runner.settle()
    await yard.commands.pause("total", by="ann", why="new disk")
    yard.kill()
    assert yard.runner.states.of(job).paused == {"at": "2024-03-08T00:00:00Z", "by": "ann", "why": "new disk"}
    again = await yard.commands.pause("total", by="bob", why="")
    assert again.text == "job 'total' has been paused since 2024-03-08T00:00:00Z, by ann"
    yard.append(START, 1)
    yard.clock.ms += 2 * DAY // timedelta(milliseconds=1)
    async with alongside(Serving(yard.runner).run()):
        await asyncio.to_thread(lambda: None)
        assert yard.runner.history(job) == []
        await yard.commands.resume("total")
        await until(lambda: [row.state for row in yard.runner.history(job)] == ["succeeded"])
    assert (await yard.commands.resume("total")).text == "job 'total' is not paused"


async def test_a_job_that_has_seen_a_pause_which_the_disk_refused_goes_on(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, waits, has_seen = summing(yard), asyncio.Event(), asyncio.Event()
    yard.start()
    yard.append(START, 1)
    wait, commit = Serving._wait, yard.runner.commit

    async def wait_for_change(serving: Serving, its: Job) -> None:
        (has_seen if yard.runner.states.of(its).paused else waits).set()
        await wait(serving, its)

    async def refuse(changes: object) -> None:
        yard.clock.ms += 2 * DAY // timedelta(milliseconds=1)
        yard.runner.changed(job).set()
        await has_seen.wait()
        monkeypatch.setattr(yard.runner, "commit", commit)
        raise StateFailed("no room")

    monkeypatch.setattr(Serving, "_wait", wait_for_change)
    async with alongside(Serving(yard.runner).run()):
        await waits.wait()
        monkeypatch.setattr(yard.runner, "commit", refuse)
        with pytest.raises(StateFailed, match="no room"):
            await yard.commands.pause("total", by="ann", why="")
        await until(lambda: [row.state for row in yard.runner.history(job)] == ["succeeded"], LIMIT_S)


async def test_who_asks_for_a_job_that_is_not_there_is_told_which_are(yard: Yard) -> None:
    summing(yard)
    yard.start()
    with pytest.raises(NotFound, match="app 'yard' declares no job 'totl'; it declares total"):
        await yard.commands.pause("totl", by="ann", why="")


# Cancel.


async def test_cancel_stops_a_run_at_work_at_its_next_record(yard: Yard) -> None:
    """What its chunks have committed stays, and the rest is for the next run."""
    reached, go = threading.Event(), threading.Event()

    @yard.app.job(yard.numbers, schedule="@daily")
    def slow(batch: Batch[int]) -> None:
        for chunk in batch.chunks(1):
            for number in chunk:
                yard.out.send(number)
                if number == 2:
                    reached.set()
                    go.wait(60)

    yard.start()
    yard.append(START, 1, 2, 3)
    row = await yard.commands.plan_run("slow")

    async def cancel() -> None:
        await asyncio.to_thread(reached.wait, 60)
        done = await yard.commands.cancel("slow", row.id, by="ann")
        assert done.text == f"told to stop at the next record: {row.id}"
        go.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(cancel())
        group.create_task(yard.commands.finish(row))
    assert (row.state, row.error, row.records) == ("cancelled", "by ann", 2)
    assert yard.sent("out") == Counter([1, 2])
    await yard.runner.run(slow, START)
    assert yard.sent("out") == Counter([1, 2, 3])


async def test_cancel_reaches_a_run_that_is_just_being_begun(yard: Yard) -> None:
    """It is written down that it is begun, and its handler is not called any more."""
    called: list[int] = []

    @yard.app.job(yard.numbers, schedule="@daily")
    def note(batch: Batch[int]) -> None:
        called.append(len(batch))

    yard.start()
    yard.append(START, 1)
    row = await yard.commands.plan_run("note")

    async def cancel() -> None:
        assert row.id in yard.runner.active
        await yard.commands.cancel("note", None, by="ann")

    async with asyncio.TaskGroup() as group:
        group.create_task(yard.commands.finish(row))
        group.create_task(cancel())
    assert (row.state, row.error, called) == ("cancelled", "by ann", [])
    [stored] = yard.runner.history(note)
    assert (stored.state, stored.error) == ("cancelled", "by ann")


async def test_cancel_ends_the_wait_between_two_attempts(yard: Yard) -> None:
    job = summing(yard, retries=Retry(3, wait=DAY, max_wait=DAY))
    yard.start()
    yard.append(START, 13)
    row = await yard.commands.plan_run("total")

    async def cancel() -> None:
        await until(lambda: yard.runner.pause_until is not None)
        await yard.commands.cancel("total", None, by="ann")

    async with asyncio.TaskGroup() as group:
        group.create_task(cancel())
        group.create_task(yard.commands.finish(row))
    [stored] = yard.runner.history(job)
    assert (stored.state, stored.error, stored.attempt) == ("cancelled", "by ann", 1)


async def test_cancel_forgets_a_run_that_is_planned_or_was_interrupted(yard: Yard) -> None:
    job = summing(yard)
    yard.start()
    yard.append(START, 1)
    planned = await yard.commands.plan_run("total")
    yard.kill()
    with pytest.raises(NotFound, match="job 'total' has no run 'total-1' that is not finished"):
        await yard.commands.cancel("total", "total-1", by="ann")
    done = await yard.commands.cancel("total", planned.id, by="ann")
    assert done.text == f"cancelled: {planned.id}"
    assert [row.state for row in yard.runner.history(job)] == ["cancelled"]
    with pytest.raises(NotFound, match="job 'total' is not running"):
        await yard.commands.cancel("total", None, by="ann")


# Run.


async def test_no_two_runs_are_planned_over_the_same_records(yard: Yard) -> None:
    """By a command and by the schedule, in the same moment: one has them, and the other comes after it."""
    job = summing(yard)
    yard.start()
    yard.runner.settle()
    yard.append(START, 1, 2)
    serving = Serving(yard.runner)
    async with asyncio.TaskGroup() as group:
        manual = group.create_task(yard.commands.plan_run("total"))
        due = group.create_task(serving._run_due(job, Fire(START, "run")))
    assert due.result() is None
    assert [row.id for row in yard.runner.history(job)] == [manual.result().id]
    await yard.runner.resume(job)
    assert yard.sent("out") == Counter([1, 2])


async def test_a_run_is_refused_while_another_is_not_finished_or_just_planned(yard: Yard) -> None:
    job = summing(yard)
    yard.start()
    yard.append(START, 1)
    async with yard.runner.turn(job):
        with pytest.raises(Conflict, match="just being planned, or a backfill writes its tables: wait for it"):
            await yard.commands.plan_run("total")
    row = await yard.commands.plan_run("total")
    with pytest.raises(Conflict, match=f"run {row.id} of job 'total' is not finished: wait for it, or cancel it"):
        await yard.commands.plan_run("total")


# Rewind.


def holds(yard: Yard) -> list[int | None]:
    """Up to where retention may go in each partition."""
    info = yard.app.topic_info(yard.numbers)
    return [yard.app.log.shared.hold(yard.app.log.partition(info, number).slot) for number in range(2)]


async def moved(yard: Yard, job: Job) -> None:
    """The job has handled three records of one partition and one of the other, and retention knows."""
    yard.append(START, 1, 2, 3)
    yard.append(START, 4, partition=1)
    await yard.runner.run(job, START)
    for partition, offset in yard.runner.positions():
        partition.set_hold(offset)


async def test_a_rewound_job_reads_on_there_and_retention_waits_for_it(yard: Yard) -> None:
    job = summing(yard)
    yard.start()
    await moved(yard, job)
    assert holds(yard) == [3, 1]
    done = await yard.commands.rewind("total", {0: 1}, empty=False)
    assert done.text == "job 'total' reads on from 0@1"
    assert holds(yard) == [1, 1]
    assert sorted(offset for _, offset in yard.runner.positions()) == [1, 1]
    await yard.runner.run(job, START)
    assert yard.sent("out") == Counter([1, 2, 3, 4, 2, 3])
    assert list(yard.rows(b"t").values()) == [b"15"]


async def test_the_tables_are_emptied_with_the_move(yard: Yard) -> None:
    """In one commit: killed before or behind it, nothing is counted twice or forgotten."""
    job = summing(yard)
    yard.start()
    await moved(yard, job)
    sequence = yard.runner.store.database.sequence
    await yard.commands.rewind("total", {0: 0, 1: 0}, empty=True)
    assert yard.runner.store.database.sequence - sequence == 3 + 1
    assert yard.rows(b"t") == {}
    yard.kill()
    await yard.runner.run(job, START)
    assert list(yard.rows(b"t").values()) == [b"10"]


async def test_a_job_is_not_rewound_under_a_run(yard: Yard) -> None:
    job = summing(yard)
    yard.start()
    yard.append(START, 1)
    row = await yard.commands.plan_run("total")
    with pytest.raises(Conflict, match=f"run {row.id} of job 'total' is not finished: .* then rewind it"):
        await yard.commands.rewind("total", {0: 0}, empty=False)
    await yard.commands.cancel("total", None, by="ann")
    async with yard.runner.turn(job):
        with pytest.raises(Conflict):
            await yard.commands.rewind("total", {0: 0}, empty=False)
    await yard.commands.rewind("total", {0: 0}, empty=False)


async def test_a_place_that_is_not_there_is_refused(yard: Yard) -> None:
    summing(yard)
    yard.start()
    yard.append(START, 1)
    for offset in (-1, 2):
        with pytest.raises(
            UsageError, match=rf"numbers-0 has offsets 0 to 1: job 'total' cannot read on from {offset}"
        ):
            await yard.commands.rewind("total", {0: offset}, empty=False)
    with pytest.raises(UnknownPartition):
        await yard.commands.rewind("total", {2: 0}, empty=False)
