"""A task: one agent on one partition; it feeds the agent, and knows which records its effects come from.

Records reach the agent in slices of a few hundred, which is what makes a loop fast: within a slice nothing is
awaited and nothing counted. Which record is being handled follows from how far the slice's iterator has
come. Between two slices the task stands at a record boundary, where it can be committed; a commit that falls
due while the agent waits for something cuts the slice short, so that the boundary comes soon.

When the agent raises, `framework.supervision` decides what comes next.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any

import orjson

from framework.agent import Agent
from framework.clock import Timer, Waker
from framework.commit import CommitLoop
from framework.effects import Effects, current
from framework.errors import AgentEnded, AgentFailed, DeclarationError, DecodeError
from framework.feed import MAX_SLICE, Feed
from framework.fetch import Fetch
from framework.log import StoredRecord
from framework.record import Record
from framework.replay import Replay
from framework.slice import Slice
from framework.state import rows
from framework.state.store import Commit
from framework.status import Counts, Doing
from framework.stream import Stage
from framework.supervision import Supervisor
from framework.topic import Topic
from framework.watch import within


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
        timer: Timer,
        replay: Replay | None = None,
    ) -> None:
        """*fetch* stands at the committed offset, or *is_new*, where the agent begins.

        *partitions* is the count of the agent's topic, *now_ms* the time of what it does before its first record,
        *timer* what it waits by.
        """
        self.agent, self.feed, self._commits = agent, Feed(fetch), commits
        self.failing = Supervisor(self, agent.on_error, dead_letters)
        self.name = f"{agent.name}[{fetch.partition.number}]"
        self.effects = Effects(agent.name, commits.store, fetch.partition.number, partitions)
        self._is_new, self._now_ms, self._replay = is_new, now_ms, replay
        self._wire(self.effects)
        self.effects.time.kept = agent.source.keeps_time
        self.effects.time.latest_ms = lambda: self.feed.slice.latest_ms
        self.offset = self.committed = self.durable = fetch.offset
        self.handled = self._uncounted = 0
        self.busy_s = 0.0
        self.at_boundary, self.stopping, self.idle, self._waiting = True, False, False, False
        self._due = False
        self.wake = Waker(timer)
        self._encode_error: Exception | None = None
        self.held: int | None = None
        """The offset at which a list begins that is being gathered or handled; no commit passes it."""
        self._held_effects = self._between_lists = False
        self._released_in = -1
        self._skipped = False
        self.begun = False
        """Whether the agent has begun to read: from then on it is known what."""
        self.stages: Callable[[Task, Sequence[Stage]], None] = lambda *_: None

    # Running.

    async def run(self) -> None:
        """Run the agent until the task is told to stop, through all its exceptions.

        Raises:
            AgentEnded: The agent's loop ended by itself.
            AgentFailed: A record failed for good, and the agent's `on_error` says stop.
            DeclarationError: The agent cannot work, whatever the record.
        """
        while not self.stopping:
            current.set(self.effects)
            try:
                await within(self.agent.timeout_s, lambda: self.in_hand, self.agent.run(self))
            except (AgentFailed, DeclarationError):
                raise
            except Exception as error:  # the one place where an agent's errors are supervised
                await self.failing.recover(error)
            else:
                if not self.stopping:
                    raise AgentEnded(
                        f"agent {self.agent.name!r} left its loop at {self.place(self.feed.end)}, but its stream "
                        "goes on: remove the break or return"
                    )
        self.at_boundary = True

    async def slices(
        self, *, as_records: bool, deadline: Callable[[], float | None], checked: bool = True
    ) -> AsyncGenerator[Iterator[Any], None]:
        """The records as iterators over a few values each; see `framework.source.Source`."""
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
            if not self.feed.slice:
                continue
            started = loop.time()
            self.at_boundary = False
            yield values
            self.busy_s += self.feed.adapt(loop.time() - started)

    def grouped(self, stages: Sequence[Stage]) -> None:
        """A loop begins; see `framework.source.Source`."""
        if not self.stopping:
            self.stages(self, stages)
            self.begun = True

    def read_from(self, agent: Agent[Any, Any], fetch: Fetch, *, is_new: bool) -> None:
        """Before the first record: the agent reads another topic than it was declared with; *agent* says so."""
        assert not self.begun
        self.fetch.close()
        self.agent, self.feed, self._is_new = agent, Feed(fetch), is_new
        self.offset = self.committed = self.durable = fetch.offset

    @property
    def kind(self) -> type | None:
        """The one type that values may be of, None if that takes more than a look."""
        return self.agent.source.value_serde.kind

    def now(self) -> float:
        """Seconds on the clock that the task waits by."""
        return self.wake.timer.time()

    def hold(self, *, effects: bool) -> bool:
        """Let no commit pass the record being handled; see `framework.source.Source`."""
        self.held, self._held_effects = self.feed.slice.offset, effects
        return self.held != self._released_in

    def release(self) -> None:
        """The list that `hold` began has been handled."""
        # The record in hand may go on in the next list.
        self.held, self._released_in = None, self.feed.in_hand.offset
        self.failing.released()
        if self._held_effects:
            # What was done for this list can be committed only between it and the next.
            self._between_lists = True
            self.cut()

    def skip_undecodable(self) -> bool:
        """Whether the record in hand has no value to give; the slice then ends behind it."""
        record = self.feed.slice.record
        if record.value is None and self.feed.slice.whole:
            return False
        if record.value is None:
            self.feed.tombstones = True
        else:
            try:
                self.agent.source.value_serde.decode(record.value)
            except DecodeError as error:
                self.failing.undecodable(record, error, in_list=self.held is not None)
            else:
                return False
        self._skipped = True
        self.cut()
        return True

    @property
    def taken(self) -> Slice:
        """The slice whose values `slices` gave last."""
        return self.feed.slice

    @property
    def isolating(self) -> bool:
        """Whether records come one by one, to find the one that fails."""
        return self.failing.isolated is not None

    # Slices.

    def _finish_slice(self) -> None:
        if self.effects.time.kept:
            self.effects.time.now_ms()  # It looks at the slice, which is about to be let go.
        self._uncounted += len(self.feed.slice)
        self.at_boundary = True
        if self.feed.slice:
            if self.held is None and not self._skipped:
                self.failing.succeeded()
            self.feed.finish()
            self._skipped = False
        self._settle_offset()
        # Tasks that the agent started for these records, and that still run, hold the old ones.
        self.effects = self.effects.renew()
        current.set(self.effects)

    def _settle_offset(self) -> None:
        """What a commit may say now: behind all that was handled, but for what is held."""
        failed = self.failing.held_offset
        self.offset = failed if failed is not None else self.feed.end if self.held is None else self.held

    async def _boundary(self) -> None:
        """Between two slices: let others run, commit where that cannot wait."""
        isolated = self.failing.isolated
        if isolated is not None and (self.feed.end == isolated[0] or isolated[0] < self.feed.end):
            await self._commits.commit()
            self.failing.reached(self.feed.end)
            self._settle_offset()
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
        behind = self.fetch.partition.high_watermark - self.feed.end
        return between and self.changed and (self._due or behind < MAX_SLICE)

    async def _await_records(self, deadline: float | None) -> bool:
        """Wait until there are records, or until *deadline*: then False."""
        while not self.fetch.fill():
            if self.stopping:
                return False
            if self.failing.give_up_suspects():  # Nothing is waiting behind them that could tell more.
                self._settle_offset()
            if self.changed:
                self._commits.request()
            self.wake.clear()
            if self.fetch.ready(self.feed.end):
                continue
            self._waiting, self.idle = True, self.held is None
            await self.wake.wait(deadline)
            self._waiting = self.idle = False
            self._commits.awake.set()
            if self._encode_error is not None or (deadline is not None and self.now() >= deadline):
                return False
        return True

    def _begin_slice(self, as_records: bool, checked: bool) -> Iterator[Any]:
        """Take the next records; an iterator that decodes them one by one."""
        until = None if self._replay is None else self._replay.begin(self.effects, self.feed.end, None)
        records = self.feed.begin(self.failing.isolated, until, as_records=as_records).iterator
        decode = self.agent.source.value_serde.parse if checked else orjson.loads
        return map(self._as_record if as_records else decode, records)

    def _as_record(self, stored: StoredRecord) -> Record[Any, Any]:
        topic, number = self.agent.source, self.fetch.partition.number
        value = None if stored.value is None else topic.value_serde.parse(stored.value)
        return Record(topic, number, stored, value)

    def cut(self) -> None:
        """End the slice behind the record being handled, so that the task comes to a boundary soon."""
        if not self.at_boundary:
            self.feed.cut()

    def commit_soon(self) -> None:
        """A commit is due: come to a boundary, and ask for it there."""
        self._due = True
        self.cut()

    @property
    def fetch(self) -> Fetch:
        """Where its records come from."""
        return self.feed.fetch

    @property
    def in_hand(self) -> int | None:
        """The offset of the record that is being handled, or waits to be tried again; None between records."""
        if self.failing.waiting_at is not None:
            return self.failing.waiting_at
        return None if self.at_boundary or not self.feed.slice else self.feed.slice.offset

    @property
    def doing(self) -> Doing:
        """What it is at."""
        return self.failing.doing or ("idle" if self.at_boundary else "handling")

    @property
    def unfinished(self) -> bool:
        """Whether it has anything to do before a record comes or the clock moves."""
        if self.wake.pausing or not self.wake.asleep or self.fetch.ready(self.fetch.offset):
            return True
        return self.changed and self.committable

    @property
    def pause_until(self) -> float | None:
        """When the pause before another attempt ends, by its timer; None if it is in none."""
        return self.wake.until if self.wake.pausing and self.wake.asleep else None

    @property
    def counts(self) -> Counts:
        """What it has done."""
        return self.failing.counts(self.handled, self.busy_s)

    def ring(self) -> None:
        """Look whether what the task waits for has come."""
        if self._waiting and self.fetch.ready(self.feed.end):
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
        return self.at_boundary and (self.held is None or not self._held_effects)

    @property
    def changed(self) -> bool:
        """Whether a commit now would say anything new."""
        return (self._is_new and self.begun) or self.offset != self.committed or self.effects.pending

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
        if self.begun:  # Before, it is not known of which topic the offset would be.
            key = rows.offset_key(self.agent.name, self.fetch.partition.topic.id, self.fetch.partition.number)
            commit.changes.append((key, rows.pack_u64(self.offset)))
            commit.inputs.append(self.fetch.partition)
            if self._replay is not None and self._replay.end(commit, self.offset):
                self._replay = self.effects.redirect = None
        self.committed, self._due, self._is_new = self.offset, False, self._is_new and not self.begun
        self.failing.committed(self.offset)
        self.handled, self._uncounted = self.handled + self._uncounted, 0

    def settled(self) -> None:
        """What was contributed last is committed."""
        self.effects.settled()
        self.durable = self.committed

    def _wire(self, effects: Effects) -> None:
        effects.now_ms = self._timestamp_in_hand
        effects.on_soft_limit = self.cut

    # Failing.

    def _timestamp_in_hand(self) -> int:
        in_hand = self.feed.in_hand
        return in_hand.timestamp if in_hand else self._now_ms()

    async def discard(self, resume: int | None) -> None:
        """Forget what is uncommitted and go back to offset *resume*, or else to the committed one."""
        self.effects = self.effects.discard()
        self.feed.slice, self.held, self._uncounted, self._skipped = Slice(), None, 0, False
        self.at_boundary = False
        await self._commits.commit()  # The one under way, of which the replay must see the rows.
        self.feed.back_to(self.committed if resume is None else resume)
        self._settle_offset()
        self.at_boundary = True

    async def pause(self, seconds: float) -> None:
        """Wait *seconds*, or until the task is told to stop."""
        if seconds and not self.stopping:
            # A test does not wait until an outage is over.
            await self.wake.pause(seconds, counts=not self.failing.stalled)

    def place(self, offset: int) -> str:
        """How *offset* is named in logs."""
        return f"{self.fetch.partition.name}@{offset}"
