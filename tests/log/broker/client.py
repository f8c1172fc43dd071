"""A client that speaks frames: what is sent and what comes back, to the byte."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from framework.log import NewRecord, encode
from framework.log.broker import APIS, Api, Buffer, Struct, decode_response, encode_request
from framework.log.broker.server import Broker
from framework.log.broker.table_records import (
    FetchedPartition,
    FetchPartition,
    FetchRequest,
    FetchTopic,
    ListedOffset,
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
    ProducedPartition,
    ProducePartition,
    ProduceRequest,
    ProduceTopic,
)

TIMEOUT_S = 30
BY_NAME = {api.name: api for api in APIS.values()}


class RawClient:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._numbers = count(1)
        self._asked: dict[int, tuple[Api, int]] = {}

    def send(self, name: str, version: int, body: Struct, client_id: str | None = "raw") -> int:
        """Send a request; its correlation id."""
        number, api = next(self._numbers), BY_NAME[name]
        self._asked[number] = api, version
        frame = encode_request(api, version, body, correlation_id=number, client_id=client_id)
        self.writer.write(b"".join(frame))
        return number

    async def receive(self) -> tuple[int, Any]:
        """The next response, whichever it answers."""
        async with asyncio.timeout(TIMEOUT_S):
            (length,) = struct.unpack(">i", await self.reader.readexactly(4))
            frame = await self.reader.readexactly(length)
        (number,) = struct.unpack_from(">i", frame)
        return decode_response(frame, *self._asked.pop(number))

    async def ask(self, name: str, version: int, body: Struct) -> Any:
        """The response to a request, with nothing else in between."""
        number = self.send(name, version, body)
        answered, response = await self.receive()
        assert answered == number
        return response

    async def ended(self) -> bytes:
        """What comes until the broker hangs up."""
        async with asyncio.timeout(TIMEOUT_S):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    # What most tests ask for.

    async def produce(
        self, topic: str, batch: Buffer | None, index: int = 0, *, acks: int = -1, version: int = 9
    ) -> ProducedPartition:
        """What becomes of one batch."""
        response = await self.ask("Produce", version, producing(topic, {index: batch}, acks=acks))
        [produced] = response.topics
        [part] = produced.partitions
        assert (produced.name, part.index) == (topic, index)
        return part  # type: ignore[no-any-return]

    async def fetch(
        self, topic: str, offset: int, index: int = 0, version: int = 12, **options: Any
    ) -> FetchedPartition:
        """What is read of one partition."""
        response = await self.ask("Fetch", version, fetching(topic, {index: offset}, **options))
        [fetched] = response.topics
        [part] = fetched.partitions
        assert (fetched.name, part.index) == (topic, index)
        return part  # type: ignore[no-any-return]

    async def list_offset(self, topic: str, timestamp: int, index: int = 0, version: int = 8) -> ListedOffset:
        """Where a time is in one partition."""
        part = ListOffsetsPartition(index=index, timestamp=timestamp)
        body = ListOffsetsRequest(topics=[ListOffsetsTopic(name=topic, partitions=[part])])
        [listed] = (await self.ask("ListOffsets", version, body)).topics
        [found] = listed.partitions
        return found  # type: ignore[no-any-return]


@asynccontextmanager
async def connected(broker: Broker) -> AsyncIterator[RawClient]:
    """A connection, until the end of the body."""
    reader, writer = await asyncio.open_connection(*broker.address)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()


def batch_of(*values: bytes | None, key: bytes | None = None, **options: Any) -> bytearray:
    """*values* as one batch."""
    records = [NewRecord(key, value, number) for number, value in enumerate(values)]
    [batch] = encode(records, max_batch_bytes=1 << 28, **options)
    return batch


def producing(topic: str, batches: dict[int, Buffer | None], *, acks: int = -1) -> ProduceRequest:
    """A request for several partitions of one topic."""
    parts = [ProducePartition(index=index, records=batch) for index, batch in batches.items()]
    return ProduceRequest(acks=acks, timeout_ms=30_000, topics=[ProduceTopic(name=topic, partitions=parts)])


def fetching(
    topic: str,
    offsets: dict[int, int],
    *,
    max_wait_ms: int = 0,
    min_bytes: int = 1,
    max_bytes: int = 1 << 26,
    partition_max_bytes: int = 1 << 20,
    epoch: int = -1,
    isolation_level: int = 0,
) -> FetchRequest:
    """A request for several partitions of one topic."""
    parts = [
        FetchPartition(
            index=index, fetch_offset=offset, partition_max_bytes=partition_max_bytes, current_leader_epoch=epoch
        )
        for index, offset in offsets.items()
    ]
    return FetchRequest(
        max_wait_ms=max_wait_ms,
        min_bytes=min_bytes,
        max_bytes=max_bytes,
        isolation_level=isolation_level,
        topics=[FetchTopic(name=topic, partitions=parts)],
    )


def bytes_of(part: FetchedPartition) -> bytes:
    """The batches that were fetched."""
    chunks: Sequence[Buffer] = part.records or ()
    return b"".join(chunks)
