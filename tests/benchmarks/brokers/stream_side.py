"""rstream on a stream of RabbitMQ: batches with confirms, and consuming from the first record."""

from __future__ import annotations

import asyncio
from typing import Any

from rstream import Consumer, ConsumerOffsetSpecification, OffsetType, Producer

from tests.benchmarks.brokers.meter import STREAM, TIMEOUT_S, VALUES, Meter, meter

IN_FLIGHT = 10_000
"""How many records wait for their confirm at once."""


async def main() -> None:
    """Measure."""
    measured = meter()
    server = {"host": "127.0.0.1", "port": measured.port, "username": "guest", "password": "guest"}
    async with Producer(**server) as producer:
        await producer.create_stream(STREAM)
        await producer.send_wait(STREAM, VALUES[0])
        await Producing(measured).run(producer)
        await Consuming(measured).run(Consumer(**server))
        for _ in measured.singles():
            await producer.send_wait(STREAM, VALUES[0])
    measured.print()


class Producing:
    """Keeps so many records in flight, and no more."""

    def __init__(self, measured: Meter) -> None:
        self._measured, self._confirmed = measured, 0
        self._changed = asyncio.Condition()

    async def run(self, producer: Producer) -> None:
        """Send all, and wait for all confirms."""
        self._measured.begin()
        sent = 0
        for values in self._measured.batches():
            await self._wait(sent + len(values) - IN_FLIGHT)
            await producer.send_batch(STREAM, values, on_publish_confirm=self._confirm)
            sent += len(values)
        await self._wait(sent)
        self._measured.end(sent)

    async def _wait(self, confirmed: int) -> None:
        async with asyncio.timeout(TIMEOUT_S), self._changed:
            await self._changed.wait_for(lambda: self._confirmed >= confirmed)

    async def _confirm(self, status: Any) -> None:
        assert status.is_confirmed, status
        async with self._changed:
            self._confirmed += 1
            self._changed.notify_all()


class Consuming:
    """Counts what is delivered; the bodies stay encoded, as rstream hands them over."""

    def __init__(self, measured: Meter) -> None:
        self._measured, self._count = measured, 0
        self._done = asyncio.Event()

    async def run(self, consumer: Consumer) -> None:
        """Consume all."""
        await consumer.start()
        first = ConsumerOffsetSpecification(OffsetType.FIRST, None)
        self._measured.begin()
        await consumer.subscribe(STREAM, self._take, decoder=bytes, offset_specification=first)
        async with asyncio.timeout(TIMEOUT_S):
            await self._done.wait()
        await consumer.close()

    def _take(self, value: bytes, _: Any) -> None:
        if not self._count:
            self._measured.first()
        self._count += 1
        if self._count == self._measured.records + 1:
            self._measured.end(self._count)
            self._done.set()


if __name__ == "__main__":
    asyncio.run(main())
