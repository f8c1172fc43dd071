"""What becomes of the outputs of records that are handled again: sent, dropped, or elsewhere, exactly once."""

from __future__ import annotations

from datetime import timedelta

import pytest

from framework import Stream
from framework.log import Log
from framework.replay import Outputs
from framework.rewind import Rewind, ToCheckpoint, ToPlace
from framework.state.shards import Shards
from framework.task import Task
from framework.worker import Worker
from tests.framework.conftest import Shop
from tests.framework.till import Till, sums_of


@pytest.fixture
def till(shop: Shop) -> Till:
    return Till(shop)


async def test_dropping_ends_where_the_agent_was(till: Till) -> None:
    """Also with records that came meanwhile, in the same batch of work."""
    await till.handle(*range(1, 30))
    till.rewind(ToPlace("beginning", empty=True), "drop")
    till.shop.send(till.numbers, range(30, 60))
    await till.handle(*range(60, 90))
    assert till.sent == list(range(1, 90))
    assert not any(key.startswith(b"p") for rows in till.everything().values() for key in rows)


async def test_dropping_survives_a_restart_in_the_middle_of_it(till: Till) -> None:
    await till.handle(*range(1, 200))
    till.rewind(ToPlace("beginning", empty=True), "drop")
    app, worker = till.build(), Worker(till.app)
    async with worker.running():
        for task in worker.tasks:
            assert isinstance(task, Task)
            task.feed.size = 5
        await till.shop.until(lambda: any(task.committed > 0 for task in worker.tasks))
        for task in worker.tasks:
            task.stop()
    assert app is till.app
    await till.handle(*range(200, 220))
    assert till.sent == list(range(1, 220))
    assert till.rows == sums_of(list(range(1, 220)))


@pytest.mark.parametrize("outputs", ["send", "drop"])
async def test_a_list_with_one_record_that_was_never_handled_is_sent(shop: Shop, outputs: str) -> None:
    """Lists of two over three records that were handled and one that was not: better twice than never."""
    app = shop.app()
    numbers, pairs = app.topic("numbers", int), app.topic("pairs", list)

    @app.agent(numbers)
    async def gather(stream: Stream[int]) -> None:
        async for taken in stream.take(size, timedelta(hours=1)):
            pairs.send(taken)

    size = 3
    shop.send(numbers, range(3))
    await shop.run(app)
    assert shop.values(pairs) == [[0, 1, 2]]
    with Log(shop.data) as log:
        shards = Shards(log)
        shards.own_all()
        Rewind(log, "gather", ToPlace("beginning", empty=True), outputs).execute(shards)
        shards.close()
    size = 2
    shop.send(numbers, [3])
    await shop.run(app)
    assert shop.values(pairs)[1:] == ([[0, 1], [2, 3]] if outputs == "send" else [[2, 3]])


async def test_a_list_whose_time_is_up_is_dropped_if_all_of_it_was_handled(shop: Shop) -> None:
    """It is given out between two slices, when nothing more has come."""
    app = shop.app()
    numbers, lists = app.topic("numbers", int), app.topic("lists", list)

    @app.agent(numbers)
    async def gather(stream: Stream[int]) -> None:
        async for taken in stream.take(size, timedelta(milliseconds=30)):
            lists.send(taken)

    size = 2
    shop.send(numbers, range(2))
    await shop.run(app)
    with Log(shop.data) as log:
        shards = Shards(log)
        shards.own_all()
        Rewind(log, "gather", ToPlace("beginning", empty=True), "drop").execute(shards)
        shards.close()
    size = 3
    await shop.run(app)
    assert shop.values(lists) == [[0, 1]]


async def test_dropping_ends_with_the_commit_that_reaches_where_the_agent_was(till: Till) -> None:
    """What comes when the worker has been idle there is sent."""
    await till.handle(*range(1, 30))
    till.rewind(ToPlace("beginning", empty=True), "drop")
    worker = Worker(till.build())
    async with worker.running():
        await till.shop.until(lambda: worker.idle)
        await till.numbers.send_many(range(30, 60))
        await till.shop.until(lambda: worker.idle and worker.progress.lag == 0)
    assert till.sent == list(range(1, 60))


async def test_what_fails_when_it_is_handled_again_is_a_dead_letter_though_outputs_are_dropped(till: Till) -> None:
    await till.handle(*range(1, 30))
    till.rewind(ToPlace("beginning", empty=True), "drop")
    await till.handle(fails_at=17)
    assert [record.value for record in till.shop.dead(till.app, "add")] == [b"17"]
    assert till.sent == list(range(1, 30))


async def test_a_record_that_fails_behind_the_end_of_dropping_is_not_dropped_with_the_others(till: Till) -> None:
    """The task goes back to below the end, where its commit was, and comes to it again."""
    await till.handle(*range(1, 30))
    till.rewind(ToPlace("beginning", empty=True), "drop")
    till.shop.send(till.numbers, range(30, 60))
    await till.handle(fails_at=45)
    assert till.sent == [number for number in range(1, 60) if number != 45]


async def test_a_second_rewind_within_the_first_remembers_what_was_sent(till: Till) -> None:
    """Its agent has not come to where it was: above its offset, but below the old one, all was sent before."""
    await till.handle(*range(1, 60))
    time = till.checkpoint()
    await till.handle(*range(60, 90))
    till.rewind(ToPlace("beginning", empty=True), "send")
    till.rewind(ToCheckpoint(time), "drop")
    await till.handle(*range(90, 95))
    assert till.sent == list(range(1, 95))


async def test_going_forward_drops_nothing(till: Till) -> None:
    await till.handle(*range(1, 30))
    till.shop.send(till.numbers, range(30, 60))
    steps = till.rewind(ToPlace("end", empty=False), "drop")
    assert not any(step.replays for step in steps)
    await till.handle(*range(60, 70))
    assert till.sent == [*range(1, 30), *range(60, 70)]


async def test_who_has_sent_is_known(till: Till) -> None:
    await till.handle(1)
    with Log(till.shop.data) as log:
        for agent, sends in (("add", True), ("count", False)):
            rewind = Rewind(log, agent, ToPlace("beginning", empty=True))
            rewind.plan()
            assert rewind.has_sent is sends


@pytest.mark.parametrize("policy", ["send", "drop", "a-topic", "t", "s", "d"])
def test_what_becomes_of_outputs_is_read_as_it_was_written(policy: str) -> None:
    assert Outputs.unpack(Outputs(7, policy).pack()) == Outputs(7, policy)
