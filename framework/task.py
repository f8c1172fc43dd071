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
from operator import length_hint
from typing import Any

from framework.agent import Agent
from framework.commit import CommitLoop
from framework.dead_letter import bury, describe
from framework.effects import Effects, current
from framework.errors import AgentEnded, DecodeError
from framework.fetch import Fetch
from framework.log import StoredRecord
from framework.record import Record
from framework.state import rows
from framework.state.store import Commit
from framework.topic import Topic

RETRIES = 3
FIRST_SLICE, MAX_SLICE = 64, 4096
SLICE_S = 0.005
RETRY_WAIT_S = 0.1
logger = logging.getLogger("framework.agent")


class Task:
    """One agent on one partition, in one worker."""

    def __init__(
        self, agent: Agent[Any, Any], dead_letters: Topic[Any, Any], fetch: Fetch, commits: CommitLoop, partitions: int
    ) -> None:
        """*fetch* stands at the committed offset; *partitions* is the count of the agent's topic."""
        self.agent, self.fetch, self._commits = agent, fetch, commits
        self._dead_letters = dead_letters
        self.name = f"{agent.name}[{fetch.partition.number}]"
        self.effects = Effects(agent.name, commits.store, fetch.partition.number, partitions)
        self._wire(self.effects)
        self.offset = self.committed = fetch.offset
        self.handled = 0
        self.at_boundary, self.stopping, self.idle, self._waiting = True, False, False, False
        self.wake = asyncio.Event()
        self._encode_error: Exception | None = None
        self._slice: list[Any] = []
        self._iterator: Iterator[Any] = iter(())
        self._records: list[StoredRecord] = []
        self._slice_end = self.offset
        self._slice_size = FIRST_SLICE
        self._held: int | None = None
        self._released_in = -1
        self._last: StoredRecord | None = None
        self._alone = False
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
                        f"agent {self.agent.name!r} left its loop at {self._place(self._slice_end)}, but its stream goes "
                        "on: remove the break or return"
                    )
        self.at_boundary = True

    async def slices(
        self, *, as_records: bool, deadline: Callable[[], float | None]
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
                    yield iter(())
                continue
            if not self._fill_slice(as_records):
                continue
            started = loop.time()
            self.at_boundary = False
            yield self._iterator
            self._adapt(loop.time() - started)

    def now(self) -> float:
        """Seconds on the event loop's clock."""
        return asyncio.get_running_loop().time()

    def hold(self) -> bool:
        """Let no commit pass the record being handled; False if a part of it has been handed on already."""
        self._held = self._record_in_hand().offset
        return self._held != self._released_in

    def release(self) -> None:
        """The list that `hold` began has been handled."""
        # The record in hand may go on in the next list.
        self._held, self._released_in = None, self._record_in_hand().offset

    @property
    def isolating(self) -> bool:
        """Whether records come one by one, to find the one that fails."""
        return self._isolated is not None

    # Slices.

    def _finish_slice(self) -> None:
        self.handled += len(self._records)
        self.at_boundary = True
        if self._records:
            self._last = self._records[-1]
        self._records, self._slice, self._iterator = [], [], iter(())
        self.offset = self._slice_end if self._held is None else self._held
        if self._attempts and self._held is None:
            self._attempts = {offset: n for offset, n in self._attempts.items() if offset >= self.offset}

    async def _boundary(self) -> None:
        """Between two slices: let others run, commit where that cannot wait."""
        isolated = self._isolated
        if isolated is not None and (self.offset == isolated[0] or isolated[0] < self._slice_end):
            await self._commits.commit()
            if self.offset >= isolated[1]:
                self._isolated = None
        elif self.effects.over_soft_limit:
            await self._commits.commit()
        else:
            await asyncio.sleep(0)
        if self._encode_error is not None:
            error, self._encode_error = self._encode_error, None
            raise error

    async def _await_records(self, deadline: float | None) -> bool:
        """Wait until there are records, or until *deadline*: then False."""
        while not self.fetch.fill(self._slice_end):
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

    def _fill_slice(self, as_records: bool) -> bool:
        """Take the next records and decode them; False if there is nothing for the agent among them."""
        stop, size = None, self._slice_size
        if self._isolated is not None:
            start, end = self._isolated
            if self._slice_end < start:
                stop = start
            elif self._slice_end < end:
                size = 1
        self._alone = self._isolated is not None and size == 1
        records = self.fetch.take(size, stop)
        self._slice_end = self.fetch.offset
        topic = self.agent.source
        values = topic.value_serde.decode_many([record.value for record in records])  # type: ignore[misc]
        if values is None:
            records, values = self._decode_one_by_one(records, as_records)
        if as_records:
            number = self.fetch.partition.number
            values = [Record(topic, number, *pair) for pair in zip(records, values, strict=True)]
        self._records, self._slice = records, values
        self._iterator = iter(values)
        return bool(values)

    def _decode_one_by_one(self, records: list[StoredRecord], as_records: bool) -> tuple[list[StoredRecord], list[Any]]:
        """The records up to the first that cannot be decoded; if that is the first, it becomes a dead letter."""
        good: list[StoredRecord] = []
        values: list[Any] = []
        for record in records:
            if record.value is None:
                if as_records:
                    good.append(record)
                    values.append(None)
                continue
            try:
                values.append(self.agent.source.value_serde.decode(record.value))
            except DecodeError as error:
                if good:
                    self._give_back(record.offset)
                else:
                    self._give_back(record.offset + 1)
                    self._bury(record, error)
                break
            good.append(record)
        return good, values

    def _give_back(self, offset: int) -> None:
        """Records from *offset* on come again with the next slice."""
        self.fetch.back_to(offset)
        self._slice_end = offset

    def cut(self) -> None:
        """End the slice behind the record being handled, so that the task comes to a boundary soon."""
        left = length_hint(self._iterator)
        if self.at_boundary or left == 0:
            return
        first = len(self._records) - left
        self._give_back(self._records[first].offset)
        del self._records[first:]
        # The agent's iterator runs over this very list, and ends with it.
        del self._slice[first:]

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
    def changed(self) -> bool:
        """Whether a commit now would say anything new."""
        return self.offset != self.committed or self.effects.pending

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
        self.committed = self.offset

    def _wire(self, effects: Effects) -> None:
        effects.now_ms = lambda: self._record_in_hand().timestamp
        effects.on_soft_limit = self.cut

    # Failing.

    def _record_in_hand(self) -> StoredRecord:
        handed = len(self._slice) - length_hint(self._iterator)
        if self._records:
            return self._records[max(handed, 1) - 1]
        assert self._last is not None
        return self._last

    async def _recover(self, error: Exception) -> None:
        """Discard what is uncommitted and arrange for the failing record to be tried alone."""
        failed = self._failed_range()
        record = self._record_in_hand() if failed is not None and self._alone else None
        self.effects = self.effects.discard()
        self._records, self._slice, self._iterator, self._held = [], [], iter(()), None
        self.at_boundary = False
        await self._commits.commit()  # The one under way, of which the replay must see the rows.
        self._give_back(self.committed)
        self.offset = self.committed
        self.at_boundary = True
        start = self.offset if failed is None else failed[0]
        attempt = self._attempts[start] = self._attempts.get(start, 0) + 1
        logger.warning(
            "%s: %s failed, %s: %s", self.name, self._place(start), _ordinal(attempt), describe(error), exc_info=error
        )
        if failed is None:
            await self._wait_to_start(error, attempt)
        elif record is not None and attempt > RETRIES:
            self._give_back(record.offset + 1)
            self._bury(record, error)
            self.offset, self._isolated = self._slice_end, None
        elif self._isolated is None or not self._isolated[0] <= start < self._isolated[1]:
            self._isolated = failed

    async def _wait_to_start(self, error: Exception, attempt: int) -> None:
        """The agent failed before it took a record: no record is to blame, so wait, and in the end stop."""
        if attempt > RETRIES:
            raise error
        await asyncio.sleep(RETRY_WAIT_S * 2**attempt)

    def _failed_range(self) -> tuple[int, int] | None:
        """The offsets of which one has failed; None if the agent has taken no record since the last commit."""
        if self._records:
            offset = self._record_in_hand().offset
            return (offset if self._held is None else self._held), offset + 1
        if self._alone and self._last is not None and self._last.offset >= self.committed:
            return self._last.offset, self._last.offset + 1
        return (self.committed, self._slice_end) if self._slice_end > self.committed else None

    def _bury(self, record: StoredRecord, error: Exception) -> None:
        bury(self.effects, self._dead_letters, self.fetch.partition, record, error)

    def _place(self, offset: int) -> str:
        return f"{self.fetch.partition.name}@{offset}"


def _ordinal(attempt: int) -> str:
    return "first attempt" if attempt == 1 else f"retry {attempt - 1} of {RETRIES}"
