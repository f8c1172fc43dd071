"""The clock that a test moves, and waiting by it."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta

import pytest

from framework import ManualClock
from framework.clock import START, Waker, after, sleep, timer_of
from framework.log import SystemClock

SECOND = timedelta(seconds=1)


async def turns(count: int = 3) -> None:
    """Let others run."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_it_shows_what_it_was_moved_to() -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    clock.advance(timedelta(days=1, microseconds=1500))
    assert clock.now == datetime(2026, 1, 2, 0, 0, 0, 1500, tzinfo=UTC)
    assert clock.now_ms() == 1_767_312_000_001
    assert clock.time() == 86_400.001


def test_it_does_not_go_back() -> None:
    clock = ManualClock()
    with pytest.raises(ValueError, match=r"advance\(-1 day, 23:59:59\): the clock does not go back"):
        clock.advance(-SECOND)
    assert clock.now == START


def test_its_monotonic_time_goes_on_by_itself_and_with_the_clock() -> None:
    """Or whoever waits for another process with a limit would wait for ever."""
    clock = ManualClock()
    first = clock.monotonic()
    assert any(clock.monotonic() > first for _ in range(1_000_000))
    clock.advance(timedelta(hours=1))
    assert 3600 < clock.monotonic() - first < 3660


async def test_calls_come_when_they_are_due_in_their_order() -> None:
    clock, called = ManualClock(), list[str]()
    clock.call_at(2, lambda: called.append("second"))
    clock.call_at(1, lambda: called.append("first"))
    clock.call_at(1, lambda: called.append("never")).cancel()
    clock.call_at(3, lambda: called.append("third"))
    clock.call_at(0, lambda: called.append("now"))
    await turns()
    assert called == ["now"]
    clock.advance(2 * SECOND)
    assert called == ["now"]
    await turns()
    assert called == ["now", "first", "second"]


async def test_a_call_that_was_cancelled_on_its_way_does_not_come() -> None:
    clock, called = ManualClock(), list[int]()
    call = clock.call_at(1, lambda: called.append(1))
    clock.advance(SECOND)
    call.cancel()
    await turns()
    assert called == []


async def test_a_thread_can_move_it() -> None:
    clock = ManualClock()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(sleep(clock, 60))
        await turns()
        thread = threading.Thread(target=clock.advance, args=(60 * SECOND,))
        thread.start()
        thread.join()


def test_it_outlives_a_loop_that_somebody_waited_in() -> None:
    clock = ManualClock()

    async def wait() -> None:
        clock.call_at(1, lambda: None)

    asyncio.run(wait())
    clock.advance(SECOND)


@pytest.mark.parametrize("seconds", [0.1, 0.2, 0.3, 0.7, 1.1, 2.3])
async def test_as_many_steps_as_it_takes_are_enough(seconds: float) -> None:
    """Though 0.1 + 0.2 is more than 0.3."""
    clock = ManualClock()
    for _ in range(50):
        until = after(clock.time(), seconds)
        clock.advance(timedelta(seconds=seconds))
        assert clock.time() >= until


async def test_sleeping_by_the_system_clock_takes_its_time() -> None:
    loop = asyncio.get_running_loop()
    assert timer_of(SystemClock()) is loop
    started = loop.time()
    await sleep(loop, 0.01)
    assert loop.time() - started > 0.009


async def test_a_waker_is_asleep_until_it_is_woken_or_its_time_has_come() -> None:
    """At once: who looks before the sleeper has run does not take it for idle."""
    clock = ManualClock()
    waker = Waker(clock)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for wake in (waker.set, lambda: clock.advance(SECOND)):
            assert not waker.asleep
            waker.clear()
            waiting = group.create_task(waker.wait(after(clock.time(), 1)))
            await turns()
            assert waker.asleep
            wake()
            assert not waker.asleep
            await waiting
