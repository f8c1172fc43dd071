"""nats-py on JetStream: asynchronous publishing, pulling without acknowledgements; the setting is the server's."""

from __future__ import annotations

import asyncio

import nats
from nats.js.api import AckPolicy, ConsumerConfig, StorageType

from tests.benchmarks.brokers.meter import BATCH_RECORDS, STREAM, TIMEOUT_S, VALUES, meter

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
    config = ConsumerConfig(ack_policy=AckPolicy.NONE)
    consumer = await stream.pull_subscribe(STREAM, durable="benchmark", config=config, pending_msgs_limit=-1)
    await consumer.fetch(1, timeout=TIMEOUT_S)
    count = 0
    measured.begin()
    while count < measured.records:
        count += len(await consumer.fetch(min(BATCH_RECORDS, measured.records - count), timeout=TIMEOUT_S))
    measured.end(count)
    for _ in measured.singles():
        await stream.publish(STREAM, VALUES[0])
    measured.print()
    await client.close()


if __name__ == "__main__":
    asyncio.run(main())
