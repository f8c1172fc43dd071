"""Waiting for the log in an event loop: woken by what was meant, and by nothing else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from framework.log import Log, Partition
from framework.log.broker.waiting import Bell, Relay
from framework.log.doorbell import Doorbell
from tests.log.broker.client import batch_of
from tests.until import until


@pytest.fixture
def partition(log: Log) -> Partition:
    """The first of two, with nothing in it."""
    return log.partition(log.create_topic("flights", 2), 0)


@pytest.fixture(params=[False, True], ids=["watching", "polling"])
async def bell(
    log: Log, partition: Partition, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bell]:
    """A bell whose doorbell has something to watch the log with, and one without."""
    if request.param:
        monkeypatch.setattr(Doorbell, "polls", True)
    bell = Bell(log)
    yield bell
    bell.close()


def soon() -> float:
    """A time that a test waits until."""
    return asyncio.get_running_loop().time() + 0.05


def never() -> float:
    """A time that it does not."""
    return asyncio.get_running_loop().time() + 60


async def test_it_wakes_for_its_own_partition_only(log: Log, partition: Partition, bell: Bell) -> None:
    other = log.partition(log.topic("flights"), 1)
    async with asyncio.TaskGroup() as group:
        one = group.create_task(bell.wait([(partition, 0)], never()))
        two = group.create_task(bell.wait([(other, 0)], never()))
        await until(lambda: bell.waiting == 2)
        log.append(other, [batch_of(b"news")])
        assert await two
        assert not one.done()
        log.append(partition, [batch_of(b"news")])
        assert await one
    assert bell.waiting == 0


async def test_what_is_there_already_is_not_waited_for(log: Log, partition: Partition, bell: Bell) -> None:
    log.append(partition, [batch_of(b"a")]).result(30)
    assert await bell.wait([(partition, 0)], never())
    assert not await bell.wait([(partition, 1)], soon())


async def test_after_nobody_waited_it_wakes_again(log: Log, partition: Partition, bell: Bell) -> None:
    """What rings meanwhile is not listened to, and not missed."""
    for offset in range(3):
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(bell.wait([(partition, 2 * offset)], never()))
            await until(lambda: bell.waiting)
            log.append(partition, [batch_of(b"heard")])
            assert await waiting
        await asyncio.to_thread(log.append(partition, [batch_of(b"not listened to")]).result, 30)
        await until(lambda: not bell._is_listening)


async def test_a_topic_that_went_before_the_wait_ends_it(log: Log, partition: Partition, bell: Bell) -> None:
    """It returns once, so that whoever waits looks again."""
    log.delete_topic("flights")
    assert await bell.wait([(partition, 0)], never())
    assert not await bell.wait([(partition, 0)], soon())


async def test_a_topic_that_goes_wakes_all_whoever_sees_it_first(log: Log, partition: Partition, bell: Bell) -> None:
    """Who begins to wait behind the deletion, and before the doorbell is heard, is not the only one to be told."""
    other = log.partition(log.create_topic("gates", 1), 0)
    await bell.wait([(other, 0)], never())  # It is told of that topic.
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(bell.wait([(partition, 0)], never()))
        await until(lambda: bell.waiting)
        log.delete_topic("flights")
        assert await bell.wait([(other, 0)], never())
        async with asyncio.timeout(10):
            assert await waiting


async def test_when_it_ends_everybody_is_told(partition: Partition, bell: Bell) -> None:
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(bell.wait([(partition, 0)], never()))
        await until(lambda: bell.waiting)
        bell.end_waits()
        assert not await waiting
    assert not await bell.wait([(partition, 0)], never())


async def test_calls_of_other_threads_are_made_in_their_order() -> None:
    relay, made = Relay(), list[int]()

    def post() -> None:
        for number in range(1000):
            relay.post(lambda number=number: made.append(number))  # type: ignore[misc]

    thread = threading.Thread(target=post)
    thread.start()
    await until(lambda: len(made) == 1000)
    thread.join()
    assert made == list(range(1000))
