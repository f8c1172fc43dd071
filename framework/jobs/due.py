"""What is remembered between runs: the time that was taken care of last, and whether somebody has paused it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from framework.jobs.planning import now_of
from framework.jobs.runs import MICROSECOND, DueState, due_key, iso
from framework.log.clock import EPOCH
from framework.schedule import Schedule
from framework.state import rows
from framework.state.store import Commit, Store

if TYPE_CHECKING:
    from framework.app import App

MAX_AHEAD = timedelta(days=1)
"""How far the time that was taken care of last may lie ahead of the clock: by more, the clock was wrong then."""
logger = logging.getLogger("framework.job")


class Scheduled(Protocol):
    """What is due now and then: a job, or a timer."""

    kind: str
    name: str
    schedule: Schedule


class DueStates:
    """The states of one app's jobs and timers, as they are stored."""

    def __init__(self, app: App, store: Store) -> None:
        """*store* is that of the jobs."""
        self._app, self._store = app, store
        self._known: dict[tuple[str, str], DueState] = {}

    def of(self, thing: Scheduled) -> DueState:
        """The state of *thing*, which was first seen now if nothing is stored."""
        known = self._known.get((thing.kind, thing.name))
        if known is None:
            stored = self._store.database.get(due_key(thing.kind, thing.name))
            known = self._new(thing) if stored is None else DueState.load(stored)
            self._known[thing.kind, thing.name] = known
        return known

    def settle(self, things: Iterable[Scheduled]) -> None:
        """Store the states of *things* that are new, and bring the others up to the schedules of today; one commit.

        What an earlier schedule has missed is not run: only what is due by the present one, from now on.
        """
        changes = [self.change(thing) for thing in things if self._settled(thing)]
        if changes:
            self._store.commit(Commit(changes))

    def _settled(self, thing: Scheduled) -> bool:
        """Bring the state up to today; whether it has to be stored."""
        known, text = self.of(thing), str(thing.schedule)
        if known.schedule == text:
            return self._store.database.get(due_key(thing.kind, thing.name)) is None
        known.schedule = text
        known.fired(max(known.last, now_of(self._app)))
        return True

    def last(self, thing: Scheduled, now: datetime) -> datetime:
        """Up to when *thing* is taken care of; from *now* on, if the clock has shown a time years from now.

        Else nothing would be due until then. A clock that is set back by less makes nothing due again.
        """
        known = self.of(thing)
        if known.last - now > MAX_AHEAD:
            logger.warning(
                "%s was due last at %s, and now is %s: the clock was wrong then, or is now. It is due from now on",
                thing.name,
                iso(known.last.timestamp()),
                iso(now.timestamp()),
            )
            known.fired(now)
        return known.last

    def pause(self, thing: Scheduled, *, by: str, why: str) -> None:
        """Let nothing of *thing* be due until it is resumed; not stored yet."""
        self.of(thing).paused = {"at": iso(now_of(self._app).timestamp()), "by": by, "why": why}

    def change(self, thing: Scheduled) -> rows.Change:
        """The row of *thing* as a commit writes it."""
        return due_key(thing.kind, thing.name), self.of(thing).pack()

    def forget(self, thing: Scheduled) -> None:
        """Read the state of *thing* anew when it is asked for."""
        self._known.pop((thing.kind, thing.name), None)

    def _new(self, thing: Scheduled) -> DueState:
        return DueState((now_of(self._app) - EPOCH) // MICROSECOND, str(thing.schedule))
