"""`Topic.follow`: values as they come, for programs with an event loop and without one."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from contextlib import aclosing, closing, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from framework import Topic
from framework.errors import DecodeError
from framework.log.errors import NoDataDirectory, OffsetOutOfRange, UnknownTopic
from tests.until import until

if TYPE_CHECKING:
    from tests.framework.conftest import Shop

SHORT, LIMIT_S = timedelta(milliseconds=30), 10.0


@pytest.fixture(params=[False, True], ids=["inotify", "polling"])
def _watching(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a doorbell that rings, and where there is none to have."""
    if request.param:
        monkeypatch.setattr("framework.log.doorbell.inotify", lambda path: -1)


def numbers(shop: Shop, **options: Any) -> Topic[int]:
    """A topic of numbers."""
    return shop.app().topic("numbers", int, **options)


async def all_of(values: Any) -> list[Any]:
    """What an iteration gives until it ends."""
    async with asyncio.timeout(LIMIT_S):
        return [value async for value in values]


def open_files() -> int:
    """How many segments and doorbells this process has open; what others left to be collected is not counted."""
    gc.collect()
    found = list[str]()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sum(name.endswith((".log", "inotify")) for name in found)


def opened(topic: Topic[Any]) -> Any:
    """An iteration from the beginning, which can be closed."""
    return topic.follow("beginning").__aiter__()


@pytest.mark.usefixtures("_watching")
def test_for_gives_what_is_there_and_what_comes_and_ends_at_the_timeout(shop: Shop) -> None:
    topic = numbers(shop)
    with topic._app.opened():
        topic.send_many([1, 2]).result()
        found = list[int]()
        for value in topic.follow("beginning", timeout=SHORT):
            found.append(value)
            if value < 5:
                topic.send(value + 2).result()
        assert found == [1, 2, 3, 4, 5, 6]
        assert list(topic.follow(timeout=SHORT)) == []


@pytest.mark.usefixtures("_watching")
async def test_async_for_gives_what_is_there_and_what_comes_and_ends_at_the_timeout(shop: Shop) -> None:
    topic = numbers(shop)
    async with topic._app:
        await topic.send_many([1, 2])
        found = list[int]()
        async with asyncio.timeout(LIMIT_S):
            async for value in topic.follow("beginning", timeout=SHORT):
                found.append(value)
                if value < 5:
                    await topic.send(value + 2)
        assert found == [1, 2, 3, 4, 5, 6]
        assert await all_of(topic.follow(timeout=SHORT)) == []


@pytest.mark.usefixtures("_watching")
async def test_async_for_ends_at_its_timeout_whatever_else_is_appended(shop: Shop) -> None:
    """Appends to other topics ring the same bell."""
    topic = numbers(shop)
    noise = topic._app.topic("noise", int, durability="os")
    async with topic._app:
        await topic.send(1)
        stop = asyncio.Event()

        async def make_noise() -> None:
            while not stop.is_set():
                await noise.send(0)

        async with asyncio.TaskGroup() as group:
            group.create_task(make_noise())
            try:
                assert await all_of(topic.follow("beginning", timeout=SHORT)) == [1]
            finally:
                stop.set()


@pytest.mark.usefixtures("_watching")
async def test_a_loop_goes_on_beside_one_that_waits(shop: Shop) -> None:
    topic = numbers(shop)
    async with topic._app:
        await topic.send(0)
        found = list[int]()

        async def follow(last: int) -> None:
            async for value in topic.follow("beginning"):
                found.append(value)
                if value == last:
                    return

        for last in (3, 6):  # The second one may have the descriptors of the first.
            found.clear()
            async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
                group.create_task(follow(last))
                for value in range(last - 2, last + 1):
                    await until(lambda value=value: found == list(range(value)))  # type: ignore[misc]
                    await topic.send(value)
            assert found == list(range(last + 1))


async def test_records_have_keys_offsets_and_tombstones_and_values_do_not(shop: Shop) -> None:
    topic = numbers(shop)
    shop.send(topic, [1], key="a")
    shop.send_raw(topic, None, key=b"a")
    shop.send(topic, [2], key="b")
    async with topic._app:
        follow = topic.follow("beginning", timeout=SHORT)
        told = [(record.key, record.value, record.offset, record.partition) for record in follow.records()]
        assert told == [("a", 1, 0, 0), ("a", None, 1, 0), ("b", 2, 2, 0)]
        assert [record.offset for record in await all_of(follow.records())] == [0, 1, 2]
        assert (list(follow), await all_of(follow), list(follow)) == ([1, 2], [1, 2], [1, 2])


async def test_it_begins_at_any_place_and_each_iteration_there_anew(shop: Shop) -> None:
    topic = numbers(shop)
    async with topic._app:
        await topic.send_many(range(5))
        for start, expected in ((3, [3, 4]), (-1, [4]), ("end", []), (timedelta(days=1), [0, 1, 2, 3, 4])):
            follow = topic.follow(start, timeout=SHORT)  # type: ignore[arg-type]
            assert (list(follow), await all_of(follow)) == (expected, expected)


async def test_what_cannot_be_decoded_is_told_with_its_place(shop: Shop) -> None:
    topic = numbers(shop)
    shop.send(topic, [1])
    shop.send_raw(topic, b"?")
    with topic._app.opened():
        before = open_files()
        with pytest.raises(DecodeError, match="numbers-0@1: not a valid int: "):
            list(topic.follow("beginning"))
        with pytest.raises(DecodeError, match="numbers-0@1: not a valid int: "):
            await all_of(topic.follow("beginning"))
        assert open_files() == before


async def test_what_is_not_there_is_refused(shop: Shop) -> None:
    topic = numbers(shop)
    with pytest.raises(NoDataDirectory):
        topic.follow()
    with topic._app.opened():
        with pytest.raises(UnknownTopic, match="there is no topic 'numbers'"):
            list(topic.follow(timeout=SHORT))
        with pytest.raises(UnknownTopic, match="there is no topic 'numbers'"):
            await all_of(topic.follow(timeout=SHORT))
        topic.send_many([1, 2, 3]).result()
        topic._app.log.partition(topic._app.log.topic("numbers"), 0).delete_records(2)
        with pytest.raises(OffsetOutOfRange, match="numbers-0 has no offset 1: log start is 2, log end is 3"):
            list(topic.follow(1, timeout=SHORT))


async def test_a_topic_that_is_deleted_meanwhile_ends_it_with_an_error(shop: Shop) -> None:
    topic = numbers(shop)
    async with topic._app:
        await topic.send(1)
        async with asyncio.timeout(LIMIT_S), aclosing(opened(topic)) as values:
            assert await anext(values) == 1
            topic._app.log.delete_topic("numbers")
            with pytest.raises(UnknownTopic):
                await anext(values)


# Ending.


@pytest.mark.usefixtures("_watching")
async def test_a_task_that_is_cancelled_while_it_follows_leaves_no_file_open(shop: Shop) -> None:
    topic = numbers(shop)
    async with topic._app:
        await topic.send(1)
        before, found = open_files(), list[int]()

        async def follow() -> None:
            async for value in topic.follow("beginning"):
                found.append(value)

        for _ in range(3):
            async with asyncio.TaskGroup() as group:
                task = group.create_task(follow())
                await until(lambda: len(found) > 0)
                await asyncio.sleep(0)
                assert open_files() > before
                task.cancel()
            found.clear()
            assert open_files() == before


async def test_an_iteration_that_is_closed_or_left_leaves_no_file_open(shop: Shop) -> None:
    topic = numbers(shop)
    async with topic._app:
        await topic.send_many([1, 2, 3])
        before = open_files()
        async with aclosing(opened(topic)) as values:
            assert await anext(values) == 1
            assert open_files() == before + 2
        assert open_files() == before, "closed when it is told to, not when it is collected"
        async for _ in topic.follow("beginning"):
            break
        await until(lambda: open_files() == before)
        with closing(iter(topic.follow("beginning").records())) as records:  # type: ignore[type-var]
            assert next(records).value == 1
        for _ in topic.follow("beginning"):
            break
        assert open_files() == before


def test_following_in_a_thread_ends_with_its_timeout_while_another_sends(shop: Shop) -> None:
    topic = numbers(shop, partitions=3)
    with topic._app.opened():
        topic.send(0).result()
        found = list[int]()
        thread = threading.Thread(
            target=lambda: found.extend(topic.follow("beginning", timeout=timedelta(seconds=0.3)))
        )
        thread.start()
        for value in range(1, 50):
            topic.send(value).result()
        thread.join()
        assert sorted(found) == list(range(50))
