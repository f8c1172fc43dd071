"""Deadlines by key."""

from __future__ import annotations

from framework.log.broker.timers import Timers


def test_deadlines_come_up_in_their_order_however_often_they_were_moved() -> None:
    timers: Timers[str] = Timers()
    for at_ms in (50, 30, 70):
        timers.set("moved", at_ms)
    timers.set("early", 20)
    timers.set("gone", 10)
    timers.cancel("gone")
    assert [timers.pop(60), timers.pop(60)] == ["early", None]
    assert [timers.pop(70), timers.pop(70), timers.next_ms] == ["moved", None, None]


def test_deadlines_that_were_cancelled_take_no_room() -> None:
    timers: Timers[int] = Timers()
    for number in range(10_000):
        timers.set(number, 1_000_000)
        timers.cancel(number)
    timers.set(-1, 5)
    assert (len(timers), len(timers._heap) < 200, timers.next_ms) == (1, True, 5)
