"""Functions that are due now and then and read nothing: `@app.timer` and `@app.crontab`.

They are due as jobs are, by the same schedules and with the same care of missed times. What one sends, and what it
does to tables, is committed with the note that it was called for that time: killed in between, it is called again and
what it did the first time is nowhere.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol, get_args

from framework.dead_letter import describe
from framework.effects import Effects, current
from framework.errors import DeclarationError, StaleTask
from framework.jobs.alarm import Alarm
from framework.jobs.attempt import start_thread
from framework.jobs.due import DueStates
from framework.jobs.fires import Busy, Fire, due_fire
from framework.jobs.job import Catchup
from framework.jobs.planning import now_of
from framework.schedule import Schedule
from framework.state.errors import StateBehind, StateFailed
from framework.state.store import Commit, Store

if TYPE_CHECKING:
    from framework.app import App

logger = logging.getLogger("framework.timer")


class Timer:
    """A declared timer, or crontab."""

    kind = "timer"

    def __init__(self, name: str, function: Callable[[], Any], schedule: Schedule, catchup: Catchup) -> None:
        """Use `App.timer` or `App.crontab`.

        Raises:
            DeclarationError: The function has parameters, or there is no such way to catch up.
        """
        self.name, self.function, self.schedule, self.catchup = name, function, schedule, catchup
        required = [each for each in inspect.signature(function).parameters.values() if each.default is each.empty]
        if required:
            raise DeclarationError(
                f"timer {name!r} is called without arguments, and has a parameter {required[0].name!r}: to be given "
                "records, declare it as a job of a topic"
            )
        if catchup not in get_args(Catchup):
            raise DeclarationError(
                f"timer {name!r}: catchup is {catchup!r}, it must be one of {', '.join(get_args(Catchup))}"
            )

    def __repr__(self) -> str:
        return f"<Timer {self.name!r}, {self.schedule}>"


class DecorateTimer(Protocol):
    """What `App.timer` and `App.crontab` return."""

    def __call__(self, function: Callable[[], Coroutine[Any, Any, None] | None], /) -> Timer:
        """Declare *function* as the timer."""


class Timers:
    """The timers of one app in one process."""

    def __init__(self, app: App, store: Store, states: DueStates, alarm: Alarm) -> None:
        """*store* is that of the jobs."""
        self._app, self._store, self._states, self._alarm = app, store, states, alarm
        self._at_work: dict[str, Effects] = {}

    def unfinished(self) -> list[str]:
        """The timers that are due, or at work."""
        now = now_of(self._app)
        return [
            timer.name
            for timer in self._app.timers.values()
            if timer.name in self._at_work or self._states.of(timer).last < timer.schedule.previous_at_or_before(now)
        ]

    def revoke(self) -> None:
        """Refuse what those at work may want to do from now on."""
        for effects in self._at_work.values():
            self._close(effects)

    def _close(self, effects: Effects) -> None:
        """Refuse; a commit of them that is being made is made before."""
        with self._store.lock:
            effects.close()

    async def serve(self, timer: Timer, committed: Callable[[], None] = lambda: None) -> None:
        """Call *timer* whenever it is due; until cancelled. *committed* is told after each time.

        Raises:
            StateFailed: The disk takes no commits.
        """
        await asyncio.to_thread(self._states.settle, [timer])
        busy: Busy | None = None
        while True:
            now = now_of(self._app)
            last = self._states.last(timer, now)
            fire = due_fire(timer.schedule, last, now, timer.catchup, busy=busy)
            if fire is None:
                busy = None
                await self._alarm.until(timer.schedule.next_after(last))
                continue
            self._states.of(timer).fired(fire.nominal)
            await self._take(timer, fire)
            committed()
            if fire.action == "run":
                busy = (busy[0] if busy else now, now_of(self._app))

    async def _take(self, timer: Timer, fire: Fire) -> None:
        effects = Effects(timer.name, self._store, 0, 0)
        effects.now_ms = effects.time.latest_ms = self._app.clock.now_ms
        effects.time.kept = any(table.ttl_ms for table in self._app.tables.values())
        self._at_work[timer.name] = effects
        try:
            if fire.action == "skip":
                logger.warning("%s is not called: %s", timer.name, fire.covers)
            else:
                await self._call(timer, effects)
            await asyncio.to_thread(self._commit, timer, effects)
        except (StateFailed, StateBehind):
            raise
        except (Exception, asyncio.CancelledError) as error:  # whatever a user's function raises
            task = asyncio.current_task()
            if effects.views.closed or (isinstance(error, asyncio.CancelledError) and task and task.cancelling()):
                raise  # The worker ends. Of anything else the next time is due all the same.
            logger.error("%s failed: %s", timer.name, describe(error), exc_info=error)
            self._at_work[timer.name] = effects = effects.discard()
            await asyncio.to_thread(self._commit, timer, effects)
        finally:
            self._close(effects)
            del self._at_work[timer.name]

    async def _call(self, timer: Timer, effects: Effects) -> None:
        if inspect.iscoroutinefunction(timer.function):
            token = current.set(effects)
            try:
                await timer.function()
            finally:
                current.reset(token)
            return

        def call() -> None:
            current.set(effects)
            timer.function()

        await start_thread(call, timer.name)

    def _commit(self, timer: Timer, effects: Effects) -> None:
        with self._store.lock:
            if effects.views.closed:
                raise StaleTask(f"timer {timer.name!r} was stopped; it is called again")
            commit = Commit([self._states.change(timer)])
            effects.take(commit)
            self._store.commit(commit)
            effects.settled()
