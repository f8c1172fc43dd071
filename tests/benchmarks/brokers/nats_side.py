"""nats-py on JetStream: asynchronous publishing, and an ordered consumer; the setting is the server's."""

from __future__ import annotations

import asyncio
from typing import Any

import nats
from nats.js import JetStreamContext
from nats.js.api import StorageType

from tests.benchmarks.brokers.meter import STREAM, TIMEOUT_S, VALUES, Meter, meter

IN_FLIGHT = 4000
"""How many records wait for their acknowledgement at once: what nats-py does if nobody says."""


async def main() -> None:
    """Measure."""
    measured = meter()
    client = await nats.connect(f"nats://127.0.0.1:{measured.port}")
    stream = client.jetstream(timeout=TIMEOUT_S, publish_async_max_pending=IN_FLIGHT)
    await stream.add_stream(name=STREAM, subjects=[STREAM], storage=StorageType.FILE)
    await stream.publish(STREAM, VALUES[0])
    measured.begin()
    sent = []
    for values in measured.batches():
        sent += [await stream.publish_async(STREAM, value) for value in values]
    await stream.publish_async_completed()
    measured.end(measured.records)
    assert sent[-1].result().seq == measured.records + 1
    await Consuming(measured).run(stream)
    for _ in measured.singles():
        await stream.publish(STREAM, VALUES[0])
    measured.print()
    await client.close()


class Consuming:
    """Counts what the server pushes, in order: several times as fast as pulling."""

    def __init__(self, measured: Meter) -> None:
        self._measured, self._count = measured, 0
        self._done = asyncio.Event()

    async def run(self, stream: JetStreamContext) -> None:
        """Consume all."""
        limits = {"pending_msgs_limit": -1, "pending_bytes_limit": -1}
        self._measured.begin()
        await stream.subscribe(STREAM, cb=self._take, ordered_consumer=True, **limits)
        async with asyncio.timeout(TIMEOUT_S):
            await self._done.wait()

    async def _take(self, _: Any) -> None:
        if not self._count:
            self._measured.first()
        self._count += 1
        if self._count == self._measured.records + 1:
            self._measured.end(self._count)
            self._done.set()


if __name__ == "__main__":
    asyncio.run(main())
