"""Records of a Faust app on their way to the log: written and synced together, and acknowledged together.

    add ... add    records gather, each partition's for itself
    go             encode, append: all that have gathered go to the disk, and what comes meanwhile gathers
    settle         durable: every future of a batch is done, in one turn of the loop

Who waits for a record has it go at the end of the turn. The others wait for company: an append costs the loop's thread
much more than a record, mostly because the interpreter changes hands a dozen times for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from faust import Topic
from faust.exceptions import ProducerSendError
from faust.tables.base import Collection
from faust.types import TP
from faust.types.tuples import RecordMetadata

from framework.log import Log, NewRecord, Partition, TopicInfo, encode
from framework.log.ack import Delivery
from framework.log.compression import check_compression
from framework.log.errors import Error

MOST_BYTES = 32 << 20
"""More than that, sent and not acknowledged yet, makes who sends wait."""
BATCH_BYTES = 256 << 10
"""So much for one partition goes at once."""
GATHER_S, QUIET_S = 0.03, 0.002
"""How far apart records go to the disk while more are coming, and for how long none has come when no more are. The
first one after a pause goes at once."""
LEAVE_S = 0.002
"""For how long the loop then leaves the interpreter to the thread that appends, once in `GATHER_S` at most. That one
needs it a dozen times, each for a moment, and would wait up to 5 ms each time. A loop that goes on in between, and
offers it several times a record without letting go of it, wastes a fifth of its own time on that."""
CREATE_TIME = 0
Then = Callable[["Sending"], object]


class Sending(asyncio.Future[RecordMetadata]):
    """A record that was sent; done when it is durable, or has failed.

    What Faust itself has called then needs neither a turn of the loop of its own nor the context of its caller, which
    would keep the record that was being handled, and much else, alive for so long.
    """

    __slots__ = ("_outgoing", "_then", "stamp")

    def __init__(self, outgoing: Outgoing, loop: asyncio.AbstractEventLoop, stamp: int) -> None:
        """*stamp* is the record's timestamp, in ms."""
        super().__init__(loop=loop)
        self._outgoing, self._then, self.stamp = outgoing, None, stamp

    _then: Then | None

    def add_done_callback(self, fn: Callable[[Any], object], *, context: Any = None) -> None:
        """As for any future."""
        if context is None and self._then is None and _is_fausts(fn) and not self.done():
            self._then = fn
        else:  # Somebody waits for it.
            self._outgoing.hurry()
            super().add_done_callback(fn, context=context)

    def remove_done_callback(self, fn: Callable[[Any], object]) -> int:
        """As for any future."""
        found = 0
        if self._then == fn:
            self._then, found = None, 1
        return found + super().remove_done_callback(fn)

    def settle(self, outcome: RecordMetadata | ProducerSendError) -> None:
        """It is durable, or is not there."""
        then, self._then = self._then, None
        if self.done():  # Somebody may have cancelled it.
            pass
        elif isinstance(outcome, RecordMetadata):
            self.set_result(outcome)
        else:
            self.set_exception(outcome)
        if then is not None:
            then(self)


@dataclass(eq=False, slots=True)
class _Batch:
    """Records for one partition, and who hears that they are durable."""

    topic: TopicInfo
    partition: Partition
    place: TP
    delivery: Delivery
    records: list[NewRecord] = field(default_factory=list)
    sendings: list[Sending] = field(default_factory=list)
    size: int = 0


class Outgoing:
    """What was sent and is not settled. Use it in one event loop."""

    def __init__(self, log: Log, *, linger_s: float = 0.0, compression: str | None = None) -> None:
        """With *linger_s* all records wait so long for company, whoever waits for them.

        Raises:
            InvalidSetting: There is no such *compression*.
        """
        self._log, self._linger_s, self._compression = log, linger_s, check_compression(compression)
        self._loop = asyncio.get_running_loop()
        self.failure: Exception | None = None
        """The first failure of something that had been taken."""
        self._gathering: dict[tuple[str, int], _Batch] = {}
        self._submitted: set[_Batch] = set()
        """On their way to the disk; the others wait for them: they could hardly be durable any sooner."""
        self._bytes = self._count = 0
        """All that is not settled, and how many records were ever added."""
        self._timer: asyncio.Handle | None = None
        self._went_s = self._left_s = 0.0
        self._is_hurried = False
        self._settled = asyncio.Event()

    @property
    def has_room(self) -> bool:
        """Whether more may be added."""
        return self._bytes <= MOST_BYTES

    async def wait_for_room(self) -> None:
        """Return when more may be added."""
        while not self.has_room:
            self._settled.clear()
            await self._settled.wait()

    def add(self, topic: TopicInfo, number: int, record: NewRecord) -> Sending:
        """Take a record.

        Raises:
            UnknownPartition, RecordTooLarge, KeyRequired: The topic does not take it.
        """
        size = topic.check_record(record.key, record.value, record.headers)
        place = (topic.id, number)
        batch = self._gathering.get(place)
        if batch is None:
            partition, name = self._log.partition(topic, number), topic.name
            batch = self._gathering[place] = _Batch(topic, partition, TP(name, number), Delivery(self))
        sending = Sending(self, self._loop, record.timestamp)
        batch.records.append(record)
        batch.sendings.append(sending)
        batch.size += size
        self._bytes += size
        self._count += 1
        if batch.size >= BATCH_BYTES or batch.size >= topic.settings.max_message_bytes:
            self._submit(self._gathering.pop(place))
        elif self._timer is None and not self._submitted:
            self._schedule()
        return sending

    def hurry(self) -> None:
        """Somebody waits for what gathers: let it go at the end of this turn, or when the disk is free."""
        if not self._is_hurried and not self._linger_s and self._gathering:
            self._is_hurried = True
            if not self._submitted:
                self._schedule()

    def flush(self) -> None:
        """Let go what gathers, now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_hurried = False
        self._went_s = self._loop.time()
        batches, self._gathering = self._gathering, {}
        for batch in batches.values():
            self._submit(batch)

    async def wait_settled(self) -> None:
        """Return when what was added until now is settled; what comes meanwhile is not waited for."""
        self.flush()
        for batch in list(self._submitted):
            with suppress(Error, OSError):  # Who has sent it is told.
                await batch.delivery

    def _schedule(self) -> None:
        """Have what gathers go: at the end of this turn, or if there was more just before, in a moment."""
        if self._timer is not None:
            self._timer.cancel()
        if self._linger_s:
            self._timer = self._loop.call_later(self._linger_s, self._go)
        elif self._is_hurried or self._loop.time() >= self._went_s + GATHER_S:
            self._timer = self._loop.call_soon(self._go)
        else:
            self._timer = self._loop.call_later(QUIET_S, self._look, self._count)

    def _look(self, count: int) -> None:
        """Wait on as long as more is coming."""
        if self._count > count and self._loop.time() < self._went_s + GATHER_S:
            self._timer = self._loop.call_later(QUIET_S, self._look, self._count)
        else:
            self._go()

    def _go(self) -> None:
        """Let go what gathers, and if that is much, let the thread that appends it come to its turn."""
        batches = list(self._gathering.values())
        self.flush()
        if sum(len(batch.sendings) for batch in batches) > 1 and self._went_s >= self._left_s + GATHER_S:
            self._left_s = self._went_s
            with suppress(Error, OSError, TimeoutError):  # Who has sent it is told.
                batches[-1].delivery.result(LEAVE_S)

    def _submit(self, batch: _Batch) -> None:
        settings, delivery = batch.topic.settings, batch.delivery
        self._submitted.add(batch)
        delivery.call_back(partial(self._settle, batch))
        batches = encode(
            batch.records,
            max_batch_bytes=settings.max_message_bytes,
            compression=settings.compression(self._compression),
        )
        batch.records.clear()
        try:
            self._log.append(batch.partition, batches).add_done_callback(partial(_deliver, delivery))
        except Error as error:  # It is closed, or this process was forked.
            delivery.set_exception(error)

    def _settle(self, batch: _Batch) -> None:
        """The records of a batch are durable, or have failed."""
        self._submitted.remove(batch)
        self._bytes -= batch.size
        # The batch and its delivery know each other, and would keep them until the next garbage collection.
        sendings, batch.sendings = batch.sendings, []
        if self.has_room:
            self._settled.set()
        if not self._submitted and self._gathering and (self._timer is None or self._is_hurried):
            self._schedule()  # First: the disk works while the others hear of it.
        place, (topic, number) = batch.place, batch.place
        try:
            base = batch.delivery.result()
        except (Error, OSError) as error:
            self.failure = self.failure or error
            reason = f"a record to {topic}-{number} was not sent: {error}"
            self._tell((sending, ProducerSendError(reason)) for sending in sendings)
        else:
            self._tell(
                (sending, RecordMetadata(topic, number, place, offset, sending.stamp / 1000.0, CREATE_TIME))
                for offset, sending in enumerate(sendings, base)
            )

    def _tell(self, outcomes: Iterator[tuple[Sending, RecordMetadata | ProducerSendError]]) -> None:
        try:
            for sending, outcome in outcomes:
                sending.settle(outcome)
        except BaseException:  # Of what was called back with the last one: the others hear of theirs all the same.
            self._loop.call_soon(self._tell, outcomes)
            raise


def _deliver(delivery: Delivery, appended: Future[int]) -> None:
    error = appended.exception()
    if error is None:
        delivery.set_result(appended.result())
    else:
        delivery.set_exception(error)


def _is_fausts(fn: Any) -> bool:
    """Whether nothing is called with it that the app has given, and that may look at its context."""
    if type(fn) is not partial or getattr(fn.func, "__func__", None) is not _ON_PUBLISHED:
        return False
    callback = fn.keywords["message"].message.callback
    return callback is None or getattr(callback, "__func__", None) is _ON_CHANGELOG_SENT


_ON_PUBLISHED, _ON_CHANGELOG_SENT = Topic._on_published, Collection._on_changelog_sent
