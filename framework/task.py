"""A task: one agent on one partition; it feeds the agent, and knows which records its effects come from.

Records reach the agent in slices of a few hundred, which is what makes a loop fast: within a slice nothing is
awaited and nothing counted. Which record is being handled follows from how far the slice's iterator has
come. Between two slices the task stands at a record boundary, where it can be committed; a commit that falls
due while the agent waits for something cuts the slice short, so that the boundary comes soon.

When the agent raises, everything uncommitted is discarded. The records before the failing one are replayed and
committed, then it is tried alone, `RETRIES` times, and then sent to the dead-letter topic.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from typing import Any

import orjson

from framework.agent import Agent
from framework.commit import CommitLoop
from framework.dead_letter import bury, describe
from framework.effects import Effects, current
from framework.errors import AgentEnded, DecodeError
from framework.fetch import Fetch
from framework.log import StoredRecord
from framework.record import Record
from framework.slice import Slice
from framework.state import rows
from framework.state.store import Commit
from framework.topic import Topic

RETRIES = 3
FIRST_SLICE, MAX_SLICE = 64, 8192
SLICE_S = 0.005
RETRY_WAIT_S = 0.1
logger = logging.getLogger("framework.agent")


class Task:
    """One agent on one partition, in one worker."""

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
    ) -> None:
        """*fetch* stands at the committed offset, or *is_new*, where the agent begins.

        *partitions* is the count of the agent's topic, *now_ms* the time of what it does before its first record.
        """
        self.agent, self.fetch, self._commits = agent, fetch, commits
        self.kind = agent.source.value_serde.kind
        self._dead_letters = dead_letters
        self.name = f"{agent.name}[{fetch.partition.number}]"
        self.effects = Effects(agent.name, commits.store, fetch.partition.number, partitions)
        self._is_new, self._now_ms = is_new, now_ms
        self._wire(self.effects)
        self.offset = self.committed = self.durable = fetch.offset
        self.handled = self._uncounted = 0
        self.at_boundary, self.stopping, self.idle, self._waiting = True, False, False, False
        self._due = False
        self.wake = asyncio.Event()
        self._encode_error: Exception | None = None
        self._slice, self._taken = Slice(), Slice()
        """What the agent is at, and what it was at last."""
        self._slice_end = self.offset
        self._slice_size = FIRST_SLICE
        self._held: int | None = None
        self._held_effects = self._between_lists = False
        self._unburied: list[tuple[StoredRecord, DecodeError]] = []
        self._released_in = -1
        self._alone = self._tombstones = False
        self._isolated: tuple[int, int] | None = None
        self._attempts: dict[int, int] = {}

    # Running.

    async def run(self) -> None:
        """Run the agent until the task is told to stop, through all its exceptions.

        Raises:
            AgentEnded: The agent's loop ended by itself.
        """
        while not self.stopping:
            current.set(self.effects)
            try:
                await self.agent.run(self)
            except Exception as error:  # the one place where an agent's errors are supervised
                await self._recover(error)
            else:
                if not self.stopping:
                    raise AgentEnded(
                        f"agent {self.agent.name!r} left its loop at {self._place(self._slice_end)}, but its stream "
                        "goes on: remove the break or return"
                    )
        self.at_boundary = True

    async def slices(
        self, *, as_records: bool, deadline: Callable[[], float | None], checked: bool = True
    ) -> AsyncGenerator[Iterator[Any], None]:
        """The records as iterators over a few values each; see `framework.stream.Source`."""
        loop = asyncio.get_running_loop()
        while True:
            self._finish_slice()
            await self._boundary()
            if self.stopping:
                return
            if not await self._await_records(deadline()):
                if not self.stopping:
                    self.at_boundary = False
                    yield iter(())
                continue
            values = self._begin_slice(as_records, checked)
            if not self._slice:
                continue
            started = loop.time()
            self.at_boundary = False
            yield values
            self._adapt(loop.time() - started)

    def now(self) -> float:
        """Seconds on the event loop's clock."""
        return asyncio.get_running_loop().time()

    def hold(self, *, effects: bool) -> bool:
        """Let no commit pass the record being handled; see `framework.stream.Source`."""
        self._held, self._held_effects = self._slice.offset, effects
        return self._held != self._released_in

    def release(self) -> None:
        """The list that `hold` began has been handled."""
        # The record in hand may go on in the next list.
        self._held, self._released_in = None, self._in_hand.offset
        for record, error in self._unburied:
            self._bury(record, error)
        self._unburied = []
        if self._held_effects:
            # What was done for this list can be committed only between it and the next.
            self._between_lists = True
            self.cut()

    def skip_undecodable(self) -> bool:
        """Whether the record in hand has no value to give; the slice then ends behind it."""
        record = self._slice.record
        if record.value is None and self._slice.whole:
            return False
        if record.value is None:
            self._tombstones = True
        else:
            try:
                self.agent.source.value_serde.decode(record.value)
            except DecodeError as error:
                if self._held is None:
                    self._bury(record, error)
                else:
                    self._unburied.append((record, error))  # It comes again if the list does.
            else:
                return False
        self.cut()
        return True

    @property
    def isolating(self) -> bool:
        """Whether records come one by one, to find the one that fails."""
        return self._isolated is not None

    # Slices.

    def _finish_slice(self) -> None:
        self._uncounted += len(self._slice)
        self.at_boundary = True
        if self._slice:
            self._taken, self._slice = self._slice, Slice()
        self.offset = self._slice_end if self._held is None else self._held
        # Tasks that the agent started for these records, and that still run, hold the old ones.
        self.effects = self.effects.renew()
        current.set(self.effects)

    async def _boundary(self) -> None:
        """Between two slices: let others run, commit where that cannot wait."""
        isolated = self._isolated
        if isolated is not None and (self.offset == isolated[0] or isolated[0] < self._slice_end):
            await self._commits.commit()
            if self.offset >= isolated[1]:
                self._isolated = None
        elif self.effects.over_soft_limit or self._is_last_chance():
            await self._commits.commit()
        else:
            if self._due and self.changed:
                self._commits.request()
            await asyncio.sleep(0)
        if self._encode_error is not None:
            error, self._encode_error = self._encode_error, None
            raise error

    def _is_last_chance(self) -> bool:
        """Whether a commit that is not made now may have to wait for a list that takes long to fill."""
        between, self._between_lists = self._between_lists, False
        behind = self.fetch.partition.high_watermark - self._slice_end
        return between and self.changed and (self._due or behind < MAX_SLICE)

    async def _await_records(self, deadline: float | None) -> bool:
        """Wait until there are records, or until *deadline*: then False."""
        while not self.fetch.fill():
            if self.stopping:
                return False
            if self.changed:
                self._commits.request()
            self.wake.clear()
            if self.fetch.ready(self._slice_end):
                continue
            self._waiting, self.idle = True, self._held is None
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self.wake.wait()
            self._waiting = self.idle = False
            if self._encode_error is not None or (deadline is not None and self.now() >= deadline):
                return False
        return True

    def _begin_slice(self, as_records: bool, checked: bool) -> Iterator[Any]:
        """Take the next records; an iterator that decodes them one by one."""
        stop, size = None, self._slice_size
        if self._isolated is not None:
            start, end = self._isolated
            if self._slice_end < start:
                stop = start
            elif self._slice_end < end:
                size = 1
        self._alone = self._isolated is not None and size == 1
        buffer, indexes = self.fetch.buffer, self.fetch.take(size, stop)
        self._slice_end = self.fetch.offset
        if as_records:
            self._slice = Slice(buffer, indexes, whole=True)
            return map(self._as_record, self._slice.iterator)
        if self._tombstones:
            self._slice = Slice(buffer, [index for index in indexes if buffer.values[index] is not None])
        else:
            self._slice = Slice(buffer, indexes)
        return map(self.agent.source.value_serde.parse if checked else orjson.loads, self._slice.iterator)

    def _as_record(self, stored: StoredRecord) -> Record[Any, Any]:
        topic, number = self.agent.source, self.fetch.partition.number
        value = None if stored.value is None else topic.value_serde.parse(stored.value)
        return Record(topic, number, stored, value)

    def _give_back(self, offset: int) -> None:
        """Records from *offset* on come again with the next slice."""
        self.fetch.back_to(offset)
        self._slice_end = offset

    def cut(self) -> None:
        """End the slice behind the record being handled, so that the task comes to a boundary soon."""
        if not self.at_boundary:
            next_offset = self._slice.cut()
            if next_offset is not None:
                self._give_back(next_offset)

    def commit_soon(self) -> None:
        """A commit is due: come to a boundary, and ask for it there."""
        self._due = True
        self.cut()

    def _adapt(self, seconds: float) -> None:
        """Slices as long as fit between two commits without holding up the loop."""
        if seconds > 2 * SLICE_S:
            self._slice_size = max(1, self._slice_size // 2)
        elif seconds < SLICE_S:
            self._slice_size = min(MAX_SLICE, self._slice_size * 2)

    def ring(self) -> None:
        """Look whether what the task waits for has come."""
        if self._waiting and self.fetch.ready(self._slice_end):
            self.wake.set()

    def stop(self) -> None:
        """End at the next record boundary."""
        self.stopping = True
        self.cut()
        self.wake.set()

    # Committing.

    @property
    def committable(self) -> bool:
        """Whether the task stands where a commit can be made: no record is in hand, nor was one begun upon."""
        return self.at_boundary and (self._held is None or not self._held_effects)

    @property
    def changed(self) -> bool:
        """Whether a commit now would say anything new."""
        return self._is_new or self.offset != self.committed or self.effects.pending

    def contribute(self, commit: Commit) -> None:
        """Put offset and effects into *commit*; at a record boundary.

        What cannot be encoded is raised in the agent, at its next boundary.
        """
        try:
            self.effects.take(commit)
        except Exception as error:  # whatever a user's value raises when it is encoded
            self._encode_error = error
            self.wake.set()
            return
        key = rows.offset_key(self.agent.name, self.fetch.partition.topic.id, self.fetch.partition.number)
        commit.changes.append((key, rows.pack_u64(self.offset)))
        commit.inputs.append(self.fetch.partition)
        self.committed, self._due, self._is_new = self.offset, False, False
        self._attempts = {offset: count for offset, count in self._attempts.items() if offset >= self.offset}
        self.handled, self._uncounted = self.handled + self._uncounted, 0

    def settled(self) -> None:
        """What was contributed last is committed."""
        self.effects.settled()
        self.durable = self.committed

    def _wire(self, effects: Effects) -> None:
        effects.now_ms = self._timestamp_in_hand
        effects.on_soft_limit = self.cut

    # Failing.

    @property
    def _in_hand(self) -> Slice:
        """The slice that the record being handled, or handled last, is in."""
        return self._slice or self._taken

    def _timestamp_in_hand(self) -> int:
        return self._in_hand.record.timestamp if self._in_hand else self._now_ms()

    async def _recover(self, error: Exception) -> None:
        """Discard what is uncommitted and arrange for the failing record to be tried alone."""
        failed = self._failed_range()
        record = self._in_hand.record if failed is not None and self._alone else None
        self.effects = self.effects.discard()
        self._slice, self._held, self._uncounted, self._unburied = Slice(), None, 0, []
        self.at_boundary = False
        await self._commits.commit()  # The one under way, of which the replay must see the rows.
        self._give_back(self.committed)
        self.offset = self.committed
        self.at_boundary = True
        start = self.offset if failed is None else failed[0]
        attempt = self._attempts[start] = self._attempts.get(start, 0) + 1
        trace = error if attempt == 1 else None
        logger.warning(
            "%s: %s failed, %s: %s",
            self.name,
            self._place(start),
            _ordinal(attempt),
            describe(error),
            exc_info=trace,
        )
        if failed is None:
            await self._wait_to_start(error, attempt)
        elif record is not None and attempt > RETRIES:
            self._give_back(record.offset + 1)
            self._bury(record, error)
            self._uncounted = 1
            self.offset, self._isolated = self._slice_end, None
            # At once: the next failure would discard the dead letter, and begin again with its record.
            await self._commits.commit()
        elif self._isolated is None or not self._isolated[0] <= start < self._isolated[1]:
            self._isolated = failed

    async def _wait_to_start(self, error: Exception, attempt: int) -> None:
        """The agent failed before it took a record: no record is to blame, so wait, and in the end stop."""
        if attempt > RETRIES:
            raise error
        await asyncio.sleep(RETRY_WAIT_S * 2**attempt)

    def _failed_range(self) -> tuple[int, int] | None:
        """The offsets of which one has failed; None if the agent has taken no record since the last commit."""
        if self._slice:
            offset = self._slice.offset
            return (offset if self._held is None else self._held), offset + 1
        if self._alone and self._taken and self._taken.offset >= self.committed:
            return self._taken.offset, self._taken.offset + 1
        return (self.committed, self._slice_end) if self._slice_end > self.committed else None

    def _bury(self, record: StoredRecord, error: Exception) -> None:
        bury(self.effects, self._dead_letters, self.fetch.partition, record, error)

    def _place(self, offset: int) -> str:
        return f"{self.fetch.partition.name}@{offset}"


def _ordinal(attempt: int) -> str:
    return "first attempt" if attempt == 1 else f"retry {attempt - 1} of {RETRIES}"
