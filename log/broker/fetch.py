"""Fetch: whole batches as they are in the files, at once or when there are enough of them.

What is in memory, at the end of a partition, is read in the event loop; what may be on the disk only, in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field

from framework.log.broker.codes import Code, Refusal, code_of
from framework.log.broker.context import Context
from framework.log.broker.schema import Buffer
from framework.log.broker.table_records import (
    FetchedPartition,
    FetchedTopic,
    FetchPartition,
    FetchRequest,
    FetchResponse,
)
from framework.log.errors import Damaged, Error, OffsetOutOfRange
from framework.log.header import HEADER_BYTES
from framework.log.partition import Partition
from framework.log.reader import Reader

NEAR_BYTES = 8 << 20
"""So far behind the end of a partition everything has just been written, and is in memory."""
READ_COMMITTED = 1


@dataclass(slots=True, eq=False)
class _Part:
    """What is read of one partition."""

    asked: FetchPartition
    offset: int
    partition: Partition | None = None
    chunks: list[Buffer] = field(default_factory=list)
    size: int = 0
    is_full: bool = False
    error: Exception | None = None


class _Fetching:
    """One request."""

    def __init__(self, context: Context, body: FetchRequest) -> None:
        self._node, self._client, self._body = context.node, context.client.number, body
        self._left = min(body.max_bytes, self._node.settings.fetch_max_bytes, self._node.memory.fetch_bytes())
        self._min_bytes = min(body.min_bytes, self._left)
        self._size = self._counted = 0
        self.topics = [
            (topic.name, [self._part(topic.name, asked) for asked in topic.partitions]) for topic in body.topics
        ]
        parts = [part for _, parts in self.topics for part in parts]
        # Another one begins each time: the first ones could fill every answer, and the last ones would never come.
        first = context.client.next_turn() % len(parts) if parts else 0
        self._parts = parts[first:] + parts[:first]

    def _part(self, topic: str, asked: FetchPartition) -> _Part:
        part = _Part(asked, asked.fetch_offset)
        try:
            part.partition = self._node.log.partition(self._node.log.topic(topic), asked.index)
            check_epoch(asked.current_leader_epoch)
        except (Error, OSError) as error:
            part.error = error
        return part

    @property
    def is_enough(self) -> bool:
        """Whether nothing more is to be waited for."""
        return self._size >= self._min_bytes or any(part.error is not None or part.is_full for part in self._parts)

    def positions(self) -> list[tuple[Partition, int]]:
        """Where more would be read."""
        return [(part.partition, part.offset) for part in self._parts if part.partition is not None]

    def read_near(self) -> list[_Part]:
        """Read what is in memory; what is not, and is to be read with `read_far`."""
        far = []
        for part in self._parts:
            reader = self._reader(part)
            if reader is not None:
                behind = reader.behind_bytes
                if behind is not None and behind <= NEAR_BYTES:
                    self._read(part, reader)
                else:
                    far.append(part)
                self._node.readers.give_back(self._client, reader)
        return far

    async def read_far(self, far: Sequence[_Part]) -> None:
        """Read, in a thread, what may have to come from the disk."""
        for part in far:
            reader = self._reader(part)
            if reader is None:
                continue
            reading = self._node.reading.submit(self._read, part, reader)
            try:
                await asyncio.wrap_future(reading)
            except asyncio.CancelledError:
                # The client is gone, and the thread may still have it: whoever is last closes it.
                reading.add_done_callback(lambda _, reader=reader: reader.close())  # type: ignore[misc]
                raise
            self._count(self._size)
            self._node.readers.give_back(self._client, reader)

    def _count(self, size: int) -> None:
        """Let what has been read so far be *size* for others, who have to do with the rest of the memory."""
        self._node.memory.unsent_bytes += size - self._counted
        self._counted = size

    def _room(self) -> int:
        """How much more there may be in the answer: with others that are read at once, less than at its beginning."""
        return min(self._left, self._node.memory.fetch_bytes() - self._size)

    def _reader(self, part: _Part) -> Reader | None:
        """A reader of what there is to read in a partition, if there is something, and room for it."""
        partition = part.partition
        if partition is None or part.error is not None or part.is_full:
            return None
        if self._size and self._room() < HEADER_BYTES:
            part.is_full = True
            return None
        try:
            partition.check_exists()
            if part.offset < partition.log_start or part.offset > partition.log_end:
                raise OffsetOutOfRange(f"{partition.name} has no offset {part.offset}")
            if part.offset >= partition.high_watermark:
                return None
        except (Error, OSError) as error:
            self._fail(part, error)
            return None
        return self._node.readers.take(self._client, partition, part.offset)

    def _read(self, part: _Part, reader: Reader) -> None:
        """Read on in one partition; in any thread, as nobody else has *reader* or *part*."""
        left = self._room()
        try:
            found = reader.read(max(min(part.asked.partition_max_bytes - part.size, left), HEADER_BYTES))
        except (Error, OSError) as error:
            self._fail(part, error)
            return
        chunks = [batch for _, batch in found.batches]
        size = sum(map(len, chunks))
        # One batch is given in any case, or who asks for less than there is would never get on.
        if self._size and size > left:
            part.is_full = True
            reader.seek(part.offset)
            return
        part.chunks += chunks
        part.size, part.offset = part.size + size, found.next_offset
        self._size, self._left = self._size + size, self._left - size
        part.is_full = part.size >= part.asked.partition_max_bytes

    def _fail(self, part: _Part, error: Exception) -> None:
        if part.size:  # What came before is sound; the next request finds the error again.
            part.is_full = True
            return
        part.error = error
        if isinstance(error, Damaged | OSError):
            self._node.warn_once(f"cannot be read: {error}")

    def response(self) -> FetchResponse:
        """What has been read so far."""
        aborted = () if self._body.isolation_level == READ_COMMITTED else None
        return FetchResponse(
            topics=[
                FetchedTopic(name=name, partitions=[_fetched(part, aborted) for part in parts])
                for name, parts in self.topics
            ]
        )

    async def run(self, far: Sequence[_Part]) -> FetchResponse:
        """Read, and wait for more, until there is enough or the time is over."""
        loop = asyncio.get_running_loop()
        most_ms = self._node.settings.connections_max_idle_ms
        deadline = loop.time() + min(max(self._body.max_wait_ms, 0), most_ms) / 1000
        try:
            while True:
                self._count(self._size)
                await self.read_far(far)
                if self.is_enough or not await self._node.bell.wait(self.positions(), deadline):
                    return self.response()
                far = self.read_near()
        finally:
            self._count(0)  # From here on it counts as what is sent, or is gone.


def fetch(context: Context, _: int, body: FetchRequest) -> FetchResponse | Awaitable[FetchResponse]:
    """Read batches; with less than `min_bytes` of them wait for more, `max_wait_ms` at most."""
    if body.session_id:
        return FetchResponse(error_code=Code.FETCH_SESSION_ID_NOT_FOUND, topics=[])
    fetching = _Fetching(context, body)
    far = fetching.read_near()
    if not far and (fetching.is_enough or body.max_wait_ms <= 0):
        return fetching.response()
    return fetching.run(far)


def check_epoch(epoch: int) -> None:
    """Refuse an epoch of the leader that there never was: this broker's is 0 for ever, and -1 says nothing.

    Raises:
        Refusal: It is another one.
    """
    if epoch > 0:
        raise Refusal(Code.UNKNOWN_LEADER_EPOCH, f"the leader epoch is 0, not {epoch}")


def _fetched(part: _Part, aborted: tuple[()] | None) -> FetchedPartition:
    if part.error is not None or part.partition is None:
        code = code_of(part.error) if part.error is not None else Code.UNKNOWN_TOPIC_OR_PARTITION
        return FetchedPartition(index=part.asked.index, error_code=code, high_watermark=-1)
    try:
        high_watermark, log_start = part.partition.high_watermark, part.partition.log_start
    except (Error, OSError) as error:
        return FetchedPartition(index=part.asked.index, error_code=code_of(error), high_watermark=-1)
    return FetchedPartition(
        index=part.asked.index,
        high_watermark=high_watermark,
        last_stable_offset=high_watermark,  # There are no transactions that could be open.
        log_start_offset=log_start,
        aborted_transactions=aborted,
        records=part.chunks,
    )
