"""Backfills: old records handled again, in runs of their own, beside the job and what it has done."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from framework import Batch
from framework.alongside import alongside
from framework.jobs.backfill import Backfill
from framework.jobs.runner import MAX_CRASHES
from framework.jobs.runs import RunRow
from framework.jobs.serving import Serving
from framework.log.errors import Conflict, NotFound
from tests.framework.jobs.yard import DAY, START, Yard, summing
from tests.until import until

LATER = START + DAY


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    """A yard; closed after the test."""
    yard = Yard(tmp_path / "data")
    yield yard
    yard.stop()


def states(rows: list[RunRow]) -> list[tuple[str, int]]:
    """State and records of each."""
    return [(row.state, row.records) for row in rows]


# Where what it does goes.


async def test_a_scratch_backfill_leaves_everything_live_alone(yard: Yard) -> None:
    """Position, table and output are as they were, and so is when the job is due."""
    job = summing(yard)
    yard.start()
    yard.append(START, 1, 2, 3)
    await yard.runner.run(job, START)
    yard.append(LATER, 4)
    before, sent = yard.live(), yard.sent("out")
    planned = await yard.backfill(job, START, LATER + DAY, split="day")
    assert states(planned) == [("succeeded", 3), ("succeeded", 1)]
    assert (yard.live(), yard.sent("out")) == (before, sent)
    called = planned[0].backfill
    assert yard.sent(f"out.backfill-{called}") == Counter([1, 2, 3, 4])
    assert [value for key, value in yard.rows(b"t").items() if f"sums@{called}".encode() in key] == [b"10"]
    await yard.runner.run(job, START)
    assert yard.sent("out") == sent + Counter([4])


async def test_a_live_backfill_writes_the_live_table_and_output_and_moves_nothing(yard: Yard) -> None:
    job = summing(yard)
    yard.start()
    yard.append(START, 1, 2, 3)
    await yard.runner.run(job, START)
    position = yard.rows(b"o")
    await yard.backfill(job, START, LATER, tables="live")
    assert (yard.rows(b"o"), yard.sent("out")) == (position, Counter([1, 2, 3] * 2))
    assert list(yard.rows(b"t").values()) == [b"12"]


async def test_two_backfills_have_nothing_in_common_whatever_jobs_they_are_of(yard: Yard) -> None:
    """Planned in the same second, for the clock stands still."""
    first, second = summing(yard, "first"), summing(yard, "second")
    yard.start()
    yard.append(START, 1)
    backfills = [await yard.backfill(job, START, LATER) for job in (first, first, second)]
    names = [planned[0].backfill for planned in backfills]
    assert len(set(names)) == 3
    assert [yard.sent(f"out.backfill-{name}") for name in names] == [Counter([1])] * 3


async def test_dead_letters_of_a_backfill_do_not_go_to_the_live_ones(yard: Yard) -> None:
    job = summing(yard)
    yard.start()
    yard.append(START, 1, b"nonsense", 2)
    [row] = await yard.backfill(job, START, LATER)
    assert (row.state, yard.sent(f"out.backfill-{row.backfill}")) == ("succeeded", Counter([1, 2]))
    letters = {name: info for name, info in yard.app.log.topics().items() if "dead-letter" in name}
    counts = {name: len(list(yard.app.log.read(name))) for name in letters}
    assert counts == {"yard.total.dead-letter": 0, f"yard.total.dead-letter.backfill-{row.backfill}": 1}


async def test_a_part_has_the_records_of_its_time_whenever_they_were_appended(yard: Yard) -> None:
    seen: dict[str, list[int]] = {}

    @yard.app.job(yard.numbers, schedule="@daily")
    def look(batch: Batch[int]) -> None:
        assert batch.run is not None
        seen[batch.run.id[-1]] = sorted(batch)

    yard.start()
    yard.append_stamped([(LATER, 1), (START, 2), (LATER + DAY, 3), (START - DAY, 4)])
    yard.append(START, 5, partition=1)
    yard.append(LATER, 6)
    planned = await yard.backfill(look, START, LATER + DAY, split=DAY)
    assert [(row.records, row.size) for row in planned] == [(2, 2), (2, 5)]
    assert seen == {"1": [2, 5], "2": [1, 6]}


# Side by side.


async def test_runs_that_write_no_table_may_be_side_by_side(yard: Yard) -> None:
    """All three are in the handler at the same time, or the barrier breaks."""
    meet = threading.Barrier(3)

    @yard.app.job(yard.numbers, schedule="@daily")
    def forward(batch: Batch[int]) -> None:
        meet.wait(60)
        for number in batch:
            yard.out.send(number)

    yard.start()
    for day in range(3):
        yard.append(START + day * DAY, day)
    planned = await yard.backfill(forward, START, START + 3 * DAY, split=DAY, max_active=3)
    assert [row.state for row in planned] == ["succeeded"] * 3
    assert yard.sent(f"out.backfill-{planned[0].backfill}") == Counter(range(3))


async def test_runs_side_by_side_may_write_no_table(yard: Yard) -> None:
    job = summing(yard)
    yard.start()
    yard.append(START, 1)
    yard.append(LATER, 2)
    planned = await yard.backfill(job, START, LATER + DAY, split=DAY, max_active=2)
    assert [row.state for row in planned] == ["failed", "failed"]
    assert "writes tables: run its backfill with --max-active 1" in planned[0].error
    assert yard.rows(b"t") == {}


async def test_a_part_that_fails_does_not_keep_the_others(yard: Yard) -> None:
    job = summing(yard)
    yard.start()
    for day, number in enumerate([1, 13, 3]):
        yard.append(START + day * DAY, number)
    planned = await yard.backfill(job, START, START + 3 * DAY, split=DAY)
    assert [row.state for row in planned] == ["succeeded", "failed", "succeeded"]
    assert [row.error for row in planned if row.error] == ["ValueError: thirteen"]
    assert yard.runner.states.of(job).paused is None


# Ends before the end.


class Halting:
    """A job that forwards numbers one by one, and stands still before one of them until it is let go."""

    def __init__(self, yard: Yard, at: int) -> None:
        self.reached, self.go = asyncio.Event(), asyncio.Event()

        @yard.app.job(yard.numbers, schedule="@daily")
        async def halting(batch: Batch[int]) -> None:
            async for chunk in batch.chunks(1):
                for number in chunk:
                    yard.out.send(number)
                    if number == at:
                        self.reached.set()
                        await self.go.wait()

        self.job = halting


async def test_a_killed_backfill_is_finished_by_the_next_worker_at_its_chunk(yard: Yard) -> None:
    halting = Halting(yard, 4)
    yard.start()
    yard.append(START, 1, 2)
    yard.append(LATER, 3, 4, 5)
    _, planned = await yard.commands.plan_backfill(halting.job.name, Backfill(START, LATER + DAY, DAY))
    async with alongside(yard.commands.finish_backfill(planned)):
        await halting.reached.wait()
        yard.runner.kill()
    assert [row.state for row in yard.runner.history(halting.job)] == ["succeeded", "running"]
    yard.kill()
    halting.go.set()
    yard.commands.job(halting.job.name)
    await yard.commands.finish_backfills(halting.job)
    done = yard.runner.history(halting.job)
    assert [(row.state, row.attempt, row.records) for row in done] == [("succeeded", 1, 2), ("succeeded", 2, 3)]
    assert yard.sent(f"out.backfill-{done[0].backfill}") == Counter([1, 2, 3, 4, 5])


async def test_a_part_that_ends_its_workers_again_and_again_is_abandoned(yard: Yard) -> None:
    halting = Halting(yard, 1)
    yard.start()
    yard.append(START, 1)
    await yard.commands.plan_backfill(halting.job.name, Backfill(START, LATER))
    for _ in range(MAX_CRASHES + 1):
        yard.commands.job(halting.job.name)
        halting.reached.clear()
        async with alongside(yard.commands.finish_backfills(halting.job)):
            await halting.reached.wait()
            yard.runner.kill()
        yard.kill()
    yard.commands.job(halting.job.name)
    await yard.commands.finish_backfills(halting.job)
    [row] = yard.runner.history(halting.job)
    assert (row.state, row.error) == ("abandoned", "it has ended 6 workers in a row")
    assert yard.runner.states.of(halting.job).paused is None


async def test_what_is_at_work_is_not_taken_for_left_over_behind_an_outage(yard: Yard) -> None:
    """The loop of the job comes back from a disk that took no commits; that of its backfills has noticed nothing."""
    halting = Halting(yard, 1)
    yard.start()
    yard.append(START, 1)
    _, planned = await yard.commands.plan_backfill(halting.job.name, Backfill(START, LATER))
    async with alongside(yard.commands.finish_backfill(planned)):
        await halting.reached.wait()
        await yard.runner.reopen(halting.job)
        assert yard.runner.waiting_rows == {}
        halting.go.set()
        await until(lambda: not yard.runner.active)
    assert [row.state for row in planned] == ["succeeded"]


async def test_an_attempt_that_the_disk_ends_is_no_crash_of_a_worker(yard: Yard) -> None:
    halting = Halting(yard, 1)
    yard.start()
    yard.append(START, 1)
    await yard.commands.plan_backfill(halting.job.name, Backfill(START, LATER))
    for _ in range(MAX_CRASHES + 1):
        halting.reached.clear()
        async with alongside(yard.commands.finish_backfills(halting.job)):
            await halting.reached.wait()
            yard.runner.kill()  # It says nothing any more, as when the disk takes no commit.
        yard.runner._killed = False
        await yard.runner.reopen(halting.job)
    [row] = yard.runner.waiting_rows.values()
    assert (row.state, row.crashes) == ("waiting", 0)


async def test_cancel_ends_the_part_at_work_and_those_that_wait(yard: Yard) -> None:
    halting = Halting(yard, 1)
    yard.start()
    yard.append(START, 1)
    yard.append(LATER, 2)
    _, planned = await yard.commands.plan_backfill(halting.job.name, Backfill(START, LATER + DAY, DAY))
    async with alongside(_cancelled(yard, halting)):
        await yard.commands.finish_backfill(planned)
    assert [(row.state, row.error) for row in planned] == [("cancelled", "by ann")] * 2
    assert [row.state for row in yard.runner.history(halting.job)] == ["cancelled"] * 2


async def _cancelled(yard: Yard, halting: Halting) -> None:
    await halting.reached.wait()
    done = await yard.commands.cancel(halting.job.name, None, by="ann")
    assert done.text.startswith("told to stop at the next record: halting@")
    assert "; cancelled: halting@" in done.text
    await asyncio.get_running_loop().create_future()


async def test_dropping_a_backfill_leaves_nothing_of_it_but_its_topics(yard: Yard) -> None:
    job = summing(yard)
    yard.start()
    yard.append(START, 1, 2)
    kept = await yard.backfill(job, START, LATER)
    planned = await yard.backfill(job, START, LATER)
    called = planned[0].backfill
    with pytest.raises(NotFound):
        await yard.commands.drop_backfill("total", "2024")
    done = await yard.commands.drop_backfill("total", called)
    assert done.text == (
        f"removed 1 run and 1 scratch table (sums@{called}) of backfill {called}; remove topic out.backfill-{called} "
        "with `framework topics delete`"
    )
    assert [key for key in yard.rows(b"") if f"@{called}".encode() in key] == []
    assert [row.backfill for row in yard.runner.history(job)] == [kept[0].backfill]
    assert await yard.backfill(job, START, LATER)


async def test_a_backfill_that_is_not_finished_is_not_dropped(yard: Yard) -> None:
    job = summing(yard)
    yard.start()
    yard.append(START, 1)
    _, planned = await yard.commands.plan_backfill(job.name, Backfill(START, LATER))
    with pytest.raises(Conflict, match="is not finished: wait for it, or cancel it"):
        await yard.commands.drop_backfill(job.name, planned[0].backfill)


# Beside the job.


async def test_a_worker_runs_backfills_while_the_job_goes_on_by_its_schedule(yard: Yard) -> None:
    """A part stands still; the job is due meanwhile, and runs."""
    halting = Halting(yard, 1)
    yard.start()
    yard.append(START, 1)
    await yard.commands.rewind("halting", {0: 1}, empty=False)
    yard.runner.settle()
    await yard.commands.plan_backfill("halting", Backfill(START, LATER))
    async with alongside(Serving(yard.runner).run()):
        await halting.reached.wait()
        yard.append(LATER, 2)
        yard.clock.ms += DAY // timedelta(milliseconds=1)
        yard.runner.changed(halting.job).set()
        await until(lambda: any(row.state == "succeeded" for row in yard.runner.history(halting.job)))
        done, at_work = sorted(yard.runner.history(halting.job), key=lambda row: row.trigger, reverse=True)
        assert (done.trigger, done.records, at_work.state) == ("schedule", 1, "running")
    assert yard.sent("out") == Counter([2])
