"""Scenarios of records: producing them in every way there is, and reading them from anywhere."""

from __future__ import annotations

from tests.interop.acting import numbered, refusal, send
from tests.interop.stage import Stage

START_MS = 1_700_000_000_000
MESSAGE_TOO_LARGE = 10


async def compressed(stage: Stage, codec: str) -> None:
    """The batches in the log are compressed as the client was told, and it reads back what it wrote."""
    driver, topic = await stage.driver(), await stage.topic(1)
    records = numbered("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 50)
    await send(driver, topic, records, codec=codec)
    assert stage.codecs(topic) == {codec}
    assert stage.values(topic) == [value for _, value, _ in records]
    read = await driver("read", topic=topic, partition=0, offset=0, count=50)
    assert read == [[offset, value, time_ms] for offset, (value, time_ms) in enumerate(stage.stamped(topic))]
    [third] = await driver("read", topic=topic, partition=0, offset=3, count=1)
    assert third[:2] == [3, records[3][1]], "an offset inside a batch"


async def idempotent(stage: Stage) -> None:
    """Records of an idempotent producer are there once, and carry a producer's id."""
    driver, topic = await stage.driver(), await stage.topic(1)
    await send(driver, topic, numbered("once", 100), idempotent=True)
    assert stage.values(topic) == [f"once {number}" for number in range(100)]
    assert min(stage.producers(topic)) >= 0


async def acknowledged(stage: Stage) -> None:
    """Each level of acknowledgement."""
    driver, topic = await stage.driver(), await stage.topic(1)
    for acks in ("all", "1", "0"):
        await send(driver, topic, numbered(acks, 10), acks=acks)

    async def look() -> tuple[bool, list[str]]:
        values = stage.values(topic)
        return len(values) == 30, values

    # Nobody is told when those of acks=0 are there.
    values = await stage.until("30 records", look)
    assert values == [f"{acks} {number}" for acks in ("all", "1", "0") for number in range(10)]


async def timed(stage: Stage) -> None:
    """Records have the times that they are given."""
    driver, topic = await stage.driver(), await stage.topic(1)
    records = [(f"at {number}", START_MS + 1000 * number) for number in (3, 1, 2)]
    await send(driver, topic, [(0, value, time_ms) for value, time_ms in records])
    assert stage.stamped(topic) == records


async def since(stage: Stage) -> None:
    """By time: the first record that was stamped then or later, between two as well, and inside a batch."""
    driver, topic = await stage.driver(), await stage.topic(1)
    with stage.log.producer(linger_ms=1000) as producer:
        for number in range(30):
            producer.send(topic, b"at %d" % number, timestamp=START_MS + 1000 * number)
    for time_ms, first in ((START_MS + 17_000, 17), (START_MS + 16_001, 17), (0, 0)):
        read = await driver("read_since", topic=topic, partition=0, time_ms=time_ms, count=2)
        assert [value for _, value, _ in read] == [f"at {first}", f"at {first + 1}"]


async def too_large(stage: Stage) -> None:
    """A record of 10 MB is refused by its name, and the client goes on."""
    driver, topic = await stage.driver(), await stage.topic(1)
    large = [(0, "x" * 10_000_000, None)]
    refused = await refusal(driver, "produce", topic=topic, records=large, codec="none", acks="all", idempotent=False)
    assert refused == MESSAGE_TOO_LARGE
    await send(driver, topic, numbered("small", 3))
    assert stage.values(topic) == ["small 0", "small 1", "small 2"]
