"""What happens to a task when its agent raises: back to the last commit, then the failing record by itself.

Everything uncommitted is discarded. The records before the failing one are replayed and committed, then it is tried
alone, as its `Retry` says. A record that failed for good is a *suspect* until the next one succeeds: only then, or
when nothing is waiting behind it, is it known that the record is to blame and not something they all need, and it is
given up. Until then the committed offset stays in front of the first suspect.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from framework.dead_letter import bury, describe
from framework.errors import AgentFailed, DecodeError
from framework.log import StoredRecord
from framework.retry import Retry
from framework.status import Counts, Doing

if TYPE_CHECKING:
    from framework.task import Task
    from framework.topic import Topic

MIN_STALLED_WAIT_S = 0.05
STALLED_LOG_INTERVAL_S = 30.0
logger = logging.getLogger("framework.agent")


class Supervisor:
    """The failures of one task."""

    def __init__(self, task: Task, retry: Retry, dead_letters: Topic[Any, Any]) -> None:
        """Nothing has failed yet."""
        self._task, self._retry, self._dead_letters = task, retry, dead_letters
        self.isolated: tuple[int, int] | None = None
        """The offsets of which one has failed; its records come one by one, each committed by itself."""
        self.stalled = False
        """Whether one record after the other has failed, so that the first of them is tried until it succeeds."""
        self.failures = self.buried = self.skipped = 0
        self.last_error: str | None = None
        self.attempt = 0
        """How often the record that failed last has failed."""
        self.waiting_at: int | None = None
        """The offset of the record that waits to be tried again."""
        self._attempts: dict[int, int] = {}
        self._given_up: tuple[StoredRecord, Exception] | None = None
        self._suspects: list[tuple[StoredRecord, Exception]] = []
        self._in_list: list[tuple[StoredRecord, Exception]] = []
        self._logged_s = 0.0

    # What the task tells.

    async def recover(self, error: Exception) -> None:
        """Discard what is uncommitted and arrange for the failing record to be tried alone.

        Raises:
            Exception: *error*, if the agent fails again and again before it takes a record.
        """
        task = self._task
        failed = task.feed.failed_range(task.held, task.committed)
        record = task.feed.failed_record(failed)
        self._in_list = []
        await task.discard(self._suspects[-1][0].offset + 1 if self._suspects else None)
        start = task.offset if failed is None else failed[0]
        attempt = self.attempt = self._attempts[start] = self._attempts.get(start, 0) + 1
        self.failures, self.last_error = self.failures + 1, describe(error)
        self._log_attempt(start, attempt, error)
        if failed is None and attempt > self._retry.times:
            raise error  # No record is to blame.
        if record is not None and not self.stalled and not self._retry.again(error, attempt):
            self._given_up = (record, error)
            self.isolated = (record.offset, record.offset + 1)
            return
        if failed is not None and (self.isolated is None or not self.isolated[0] <= start < self.isolated[1]):
            self.isolated = failed
        wait_s = self._retry.wait_s(attempt)
        self.waiting_at = start
        await task.pause(max(wait_s, MIN_STALLED_WAIT_S) if self.stalled else wait_s)
        self.waiting_at = None

    def reached(self, offset: int) -> None:
        """The task stands at *offset*, and everything before it but the suspects is committed.

        Raises:
            AgentFailed: The record there is given up, and the worker is to stop then.
        """
        if self._given_up is not None and self._given_up[0].offset == offset:
            (record, error), self._given_up = self._given_up, None
            self._suspect(record, error)
        elif self.isolated is not None and offset >= self.isolated[1]:
            # One at a time while it is open who is to blame: the next one decides, and is committed with them.
            self.isolated = (offset, offset + 1) if self._suspects else None

    def succeeded(self) -> None:
        """The agent has handled a record, so it was each suspect's own fault."""
        if self.stalled:
            self.stalled = False
            logger.warning("%s: handles records again, the outage is over", self._task.name)
        self.give_up_suspects()

    def give_up_suspects(self) -> bool:
        """Do what is done with records that failed for good; whether there were any."""
        suspects, self._suspects = self._suspects, []
        for record, error in suspects:
            self._give_up(record, error)
        return bool(suspects)

    def undecodable(self, record: StoredRecord, error: DecodeError, *, in_list: bool) -> None:
        """*record* has no value to give, which trying again would not change.

        *in_list*: inside a list that is not handled yet; it comes again if the list does.

        Raises:
            AgentFailed: The worker is to stop then.
        """
        self.last_error = describe(error)
        if self._retry.then == "stop":
            raise self._failed(record, error) from error
        if in_list:
            self._in_list.append((record, error))
        elif self._suspects:
            self._suspects.append((record, error))  # Behind the others, in their order.
        else:
            self._give_up(record, error)

    def released(self) -> None:
        """The list has been handled."""
        for record, error in self._in_list:
            self._give_up(record, error)
        self._in_list = []

    def committed(self, offset: int) -> None:
        """Everything below *offset* is in a commit."""
        if self._attempts:
            self._attempts = {start: count for start, count in self._attempts.items() if start >= offset}

    @property
    def doing(self) -> Doing | None:
        """What the task does about a failure, None if there is none."""
        return "stalled" if self.stalled else None if self.isolated is None else "retrying"

    def counts(self, handled: int, busy_s: float) -> Counts:
        """What the task has done."""
        done = (handled, self.failures, self.buried, self.skipped)
        return Counts(*done, busy_s, self.attempt, self.last_error)

    @property
    def held_offset(self) -> int | None:
        """The first suspect, which no commit may pass."""
        return self._suspects[0][0].offset if self._suspects else None

    # Giving up.

    def _suspect(self, record: StoredRecord, error: Exception) -> None:
        task = self._task
        if self._retry.then == "stop":
            raise self._failed(record, error) from error
        self._suspects.append((record, error))
        failed = sum(not isinstance(error, DecodeError) for _, error in self._suspects)
        if failed != self._retry.outage_after:
            self.isolated = (record.offset + 1, record.offset + 2)
            task.feed.back_to(record.offset + 1)
            return
        first = self._suspects[0][0].offset
        self._suspects, self.stalled, self.isolated = [], True, (first, first + 1)
        task.feed.back_to(first)
        logger.error(
            "%s: %d different records in a row have failed: stalled at %s, which is tried until it succeeds: %s",
            task.name,
            failed,
            task.place(first),
            describe(error),
        )

    def _failed(self, record: StoredRecord, error: Exception) -> AgentFailed:
        return AgentFailed(
            f"agent {self._task.agent.name!r} failed at {self._task.place(record.offset)}, and its on_error says stop: "
            f"{describe(error)}"
        )

    def _give_up(self, record: StoredRecord, error: Exception) -> None:
        task = self._task
        if self._retry.then == "skip":
            self.skipped += 1
            logger.error("%s: %s is skipped: %s", task.agent.name, task.place(record.offset), describe(error))
            return
        self.buried += 1
        bury(task.effects, self._dead_letters, task.fetch.partition, record, error)

    def _log_attempt(self, start: int, attempt: int, error: Exception) -> None:
        task = self._task
        if self.stalled:
            now = asyncio.get_running_loop().time()
            if now - self._logged_s < STALLED_LOG_INTERVAL_S:
                return
            self._logged_s = now
        which = "first attempt" if attempt == 1 else f"retry {attempt - 1} of {self._retry.times}"
        if self.stalled:
            which = f"stalled, attempt {attempt}"
        trace = error if attempt == 1 else None
        logger.warning("%s: %s failed, %s: %s", task.name, task.place(start), which, describe(error), exc_info=trace)
