"""A task that handles many records of its partition at once: for functions that wait for something outside.

Each record has effects of its own, which join the task's when it is finished and are undone alone when it fails.
Records of one key follow each other, and a record touches only rows of its own key, so no two see each other's half. A
commit says the oldest offset that is not finished *and* the finished ones above it, which a restart leaves out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from framework.clock import Timer, Waker
from framework.commit import CommitLoop
from framework.dead_letter import bury, describe
from framework.effects import current
from framework.errors import AgentFailed, DecodeError
from framework.fetch import Fetch
from framework.finished import FinishedEffects, RecordEffects
from framework.log import StoredRecord
from framework.record import Record
from framework.replay import Replay
from framework.state import rows
from framework.state.store import Commit
from framework.status import Counts, Doing
from framework.supervision import MIN_STALLED_WAIT_S

if TYPE_CHECKING:
    from framework.agent import Agent
    from framework.topic import Topic

MAX_IN_FLIGHT = 1024
"""The most records between the oldest that is not finished and the newest that was begun."""
logger = logging.getLogger("framework.agent")


class ConcurrentTask:
    """One agent with `concurrency` above 1 on one partition; what the worker knows as a `framework.task.Task`."""

    begun = True
    """It is no loop, so it is known from the start what it reads."""

    def __init__(
        self,
        agent: Agent[Any, Any],
        dead_letters: Topic[Any, Any],
        fetch: Fetch,
        commits: CommitLoop,
        partitions: int,
        *,
        is_new: bool,
        now_ms: Callable[[], int],
        timer: Timer,
        replay: Replay | None = None,
    ) -> None:
        """As `Task`; *fetch* stands at the oldest offset that is not finished."""
        self.agent, self.fetch, self._commits = agent, fetch, commits
        self._dead_letters, self._retry = dead_letters, agent.on_error
        partition = fetch.partition
        self.name = f"{agent.name}[{partition.number}]"
        self.effects = FinishedEffects(agent.name, commits.store, partition.number, partitions)
        self.effects.now_ms, self.effects.on_soft_limit = now_ms, commits.request
        self._is_new, self._replay = is_new, replay
        self.offset = self.committed = self.durable = fetch.offset
        self._above = set(commits.store.finished(agent.name, partition.topic, partition.number))
        """Finished offsets above `offset`."""
        self._committed_above = frozenset(self._above)
        self._in_flight: dict[int, asyncio.Event] = {}
        """By offset, oldest first; the event is set when the record is finished or left."""
        self._tails: dict[bytes, int] = {}
        """The newest record in flight of each key."""
        self._slots = asyncio.Semaphore(agent.concurrency)
        self._suspects: dict[int, asyncio.Future[bool]] = {}
        self._active = 0
        """How many in flight wait for no other record."""
        self.stalled = False
        self._encode_error: Exception | None = None
        self.handled = self.failures = self.buried = self.skipped = 0
        self.busy_s = 0.0
        self.last_error: str | None = None
        self.attempt = 0
        self.stopping = self.idle = False
        self.begun = True
        """Whether it is known what it reads."""
        self.wake = Waker(timer)
        self._pauses: set[Waker] = set()

    # Running.

    async def run(self) -> None:
        """Begin upon one record after the other until the task is told to stop, then finish those in hand.

        Raises:
            AgentFailed: A record failed for good, and the agent's `on_error` says stop.
        """
        try:
            async with asyncio.TaskGroup() as group:
                while await self._await_record():
                    record = self._next()
                    if record is not None:
                        before = self._before(record)
                        group.create_task(self._handle(record, before), name=f"{self.name}@{record.offset}")
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from failures

    async def _await_record(self) -> bool:
        """Wait until another record may be begun upon; False when the task is to stop."""
        while not self.stopping:
            if self._encode_error is not None:
                raise self._encode_error
            self.wake.clear()
            full = self.fetch.offset - self.offset >= MAX_IN_FLIGHT
            if not self.stalled and not full and self.fetch.fill():
                return True
            if not self._active and not self.stalled:
                self._decide(give_up=True)  # Nothing that is waiting behind them could tell more.
            if self.changed:
                self._commits.request()
            self.idle = not self._in_flight
            if self.stalled or full or not self.fetch.ready(self.fetch.offset):
                await self.wake.wait()
            self.idle = False
            self._commits.awake.set()
        return False

    def _next(self) -> StoredRecord | None:
        """The next record, unless there is nothing to be done for it."""
        [index] = self.fetch.take(1)
        record = self.fetch.buffer.record(index)
        self._in_flight[record.offset] = asyncio.Event()
        if record.offset in self._above or (record.value is None and not self.agent.as_records):
            self._finish(record)
            return None
        return record

    def _before(self, record: StoredRecord) -> int | None:
        """The offset of the record in flight that *record* comes behind."""
        if record.key is None:
            return None
        before = self._tails.get(record.key)
        self._tails[record.key] = record.offset
        return before

    async def _handle(self, record: StoredRecord, before: int | None) -> None:
        """One record, from its first attempt to its end, when the one *before* it of its key has come to its own."""
        if before in self._in_flight:
            await self._in_flight[before].wait()
            if before in self._in_flight:
                return  # It was left when the task was stopped.
        self._active += 1
        attempt = 0
        while not self.stopping:
            attempt += 1
            error: Exception | None = None
            async with self._slots:
                if self.stopping:
                    break
                error = await self._attempt(record)
            if error is None:
                self._succeeded(record)
                break
            self._note(record, attempt, error)
            final = isinstance(error, DecodeError) or not self._retry.again(error, attempt)
            if final and await self._is_given_up(record, error):
                self._give_up(record, error)
                self._finish(record)
                break
            wait_s = self._retry.wait_s(attempt)
            await self._pause(max(wait_s, MIN_STALLED_WAIT_S) if self.stalled else wait_s)
        self._active -= 1
        self.wake.set()
        if record.offset in self._in_flight:
            self._in_flight[record.offset].set()

    async def _attempt(self, record: StoredRecord) -> Exception | None:
        """Call the agent's function; what it raised."""
        effects, loop = RecordEffects(self.effects, record), asyncio.get_running_loop()
        started_s = loop.time()
        if self._replay is not None and record.offset < self._replay.until:
            effects.redirect = self._replay
        current.set(effects)
        limit = asyncio.timeout(self.agent.timeout_s)
        try:
            value = self._value(record)
            async with limit:
                result = await self.agent.call(value)
            if result is not None and self.agent.sink is not None:
                self.agent.sink.send(result)
            effects.finish()
        except TimeoutError as error:
            if limit.expired():
                return TimeoutError(f"the record was in hand for more than {self.agent.timeout_s:g} s")
            return error
        except Exception as error:  # the one place where the agent's errors are supervised
            return error
        finally:
            self.busy_s += loop.time() - started_s
            effects.close()
            current.set(None)
        return None

    def _value(self, stored: StoredRecord) -> Any:
        source = self.agent.source
        value = None if stored.value is None else source.value_serde.decode(stored.value)
        return Record(source, self.fetch.partition.number, stored, value) if self.agent.as_records else value

    def _finish(self, record: StoredRecord) -> None:
        """Nothing is left to be done for *record*."""
        self._in_flight.pop(record.offset).set()
        if record.key is not None and self._tails.get(record.key) == record.offset:
            del self._tails[record.key]
        self._above.add(record.offset)
        # They were begun in the order of their offsets.
        self.offset = next(iter(self._in_flight), self.fetch.offset)
        self.wake.set()

    async def _pause(self, seconds: float) -> None:
        if seconds and not self.stopping:
            pause = Waker(self.wake.timer)
            self._pauses.add(pause)
            try:
                await pause.pause(seconds)
            finally:
                self._pauses.discard(pause)

    @property
    def in_hand(self) -> int | None:
        """The offset of the oldest record in flight."""
        return next(iter(self._in_flight), None)

    @property
    def doing(self) -> Doing:
        """What it is at."""
        if self.stalled:
            return "stalled"
        return "handling" if self._in_flight else "idle"

    @property
    def unfinished(self) -> bool:
        """Whether it has anything to do before a record comes or the clock moves."""
        return bool(self._in_flight) or not self.wake.asleep or self.fetch.ready(self.fetch.offset) or self.changed

    @property
    def pause_until(self) -> float | None:
        """When the first pause before another attempt ends, by its timer; None if a record is being handled."""
        ends = [pause.until for pause in self._pauses if pause.asleep and pause.until is not None]
        return min(ends) if ends and len(ends) == self._active else None

    def place(self, offset: int) -> str:
        """How *offset* is named in logs."""
        return f"{self.fetch.partition.name}@{offset}"

    @property
    def counts(self) -> Counts:
        """What it has done."""
        done = (self.handled, self.failures, self.buried, self.skipped)
        return Counts(*done, self.busy_s, self.attempt, self.last_error)

    def ring(self) -> None:
        """Look whether what the task waits for has come."""
        if self.fetch.ready(self.fetch.offset):
            self.wake.set()

    def stop(self) -> None:
        """End when the records in hand are finished; what waits for another attempt is left for the next start."""
        self.stopping = True
        for pause in self._pauses:
            pause.set()
        self._decide(give_up=False)
        self.wake.set()

    # Failing.

    def _succeeded(self, record: StoredRecord) -> None:
        if self.stalled:
            self.stalled = False
            logger.warning("%s: handles records again, the outage is over", self.name)
        self._decide(give_up=True)  # It was each suspect's own fault.
        self.handled += 1
        self._finish(record)

    async def _is_given_up(self, record: StoredRecord, error: Exception) -> bool:
        """Whether *record*, which has failed for good, is to blame; known when another one succeeds or fails.

        Raises:
            AgentFailed: The worker is to stop.
        """
        if self._retry.then == "stop":
            raise AgentFailed(
                f"agent {self.agent.name!r} failed at {self.place(record.offset)}, and its on_error says stop: "
                f"{describe(error)}"
            ) from error
        if isinstance(error, DecodeError) or self.stalled:
            return not self.stalled
        decision: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._suspects[record.offset] = decision
        if len(self._suspects) == self._retry.outage_after:
            self.stalled = True
            logger.error(
                "%s: %d different records in a row have failed: stalled, they are tried until one succeeds: %s",
                self.name,
                len(self._suspects),
                describe(error),
            )
            self._decide(give_up=False)
        self._active -= 1
        self.wake.set()
        try:
            return await decision
        finally:
            self._active += 1

    def _decide(self, *, give_up: bool) -> None:
        """Tell the suspects what becomes of them."""
        suspects, self._suspects = self._suspects, {}
        for decision in suspects.values():
            decision.set_result(give_up)

    def _give_up(self, record: StoredRecord, error: Exception) -> None:
        if self._retry.then == "skip":
            self.skipped += 1
            logger.error("%s: %s is skipped: %s", self.agent.name, self.place(record.offset), describe(error))
        else:
            self.buried += 1
            bury(self.effects, self._dead_letters, self.fetch.partition, record, error)

    def _note(self, record: StoredRecord, attempt: int, error: Exception) -> None:
        self.failures, self.attempt, self.last_error = self.failures + 1, attempt, describe(error)
        if self.stalled and attempt > self._retry.times + 1:
            return
        which = "first attempt" if attempt == 1 else f"retry {attempt - 1} of {self._retry.times}"
        trace, place = error if attempt == 1 else None, self.place(record.offset)
        logger.warning("%s: %s failed, %s: %s", self.name, place, which, describe(error), exc_info=trace)

    # Committing.

    @property
    def committable(self) -> bool:
        """Always: what is not finished has effects of its own."""
        return True

    @property
    def changed(self) -> bool:
        """Whether a commit now would say anything new."""
        return self._is_new or bool(self._above - self._committed_above) or self.effects.pending

    def contribute(self, commit: Commit) -> None:
        """Put what is finished into *commit*."""
        try:
            self.effects.take(commit)
        except Exception as error:  # what `finish` has checked, and something changed since
            self._encode_error = error
            self.wake.set()
            return
        if self._replay is not None and self._replay.end(commit, self.offset):
            self._replay = None
        self._above = {offset for offset in self._above if offset >= self.offset}
        self._committed_above = frozenset(self._above)
        partition = self.fetch.partition
        key = rows.offset_key(self.agent.name, partition.topic.id, partition.number)
        commit.changes.append((key, rows.pack_offset(self.offset, sorted(self._above))))
        commit.inputs.append(partition)
        self.committed, self._is_new = self.offset, False

    def settled(self) -> None:
        """What was contributed last is committed."""
        self.effects.settled()
        self.durable = self.committed

    def commit_soon(self) -> None:
        """A commit is due; there is nothing to wait for."""
