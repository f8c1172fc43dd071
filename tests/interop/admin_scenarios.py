"""Scenarios of administration: topics, their settings and partitions; groups and their offsets."""

from __future__ import annotations

import asyncio

from tests.interop.acting import PARTITIONS, all_read, join, numbered, refusal, send, shared
from tests.interop.stage import Stage

UNKNOWN_TOPIC_OR_PARTITION = 3
TOPIC_ALREADY_EXISTS = 36
NON_EMPTY_GROUP = 68


async def topics(stage: Stage) -> None:
    """A topic is made and deleted; a second of the same name is refused, and so is deleting it twice."""
    driver, topic = await stage.driver(), stage.name
    await driver("create_topic", topic=topic, partitions=3, config={"retention.ms": "86400000"})
    info = stage.log.topic(topic)
    assert (info.partitions, info.settings.retention_ms) == (3, 86_400_000)
    assert await refusal(driver, "create_topic", topic=topic, partitions=3, config={}) == TOPIC_ALREADY_EXISTS
    await driver("delete_topic", topic=topic)
    assert topic not in stage.log.topics()
    assert await refusal(driver, "delete_topic", topic=topic) == UNKNOWN_TOPIC_OR_PARTITION


async def described(stage: Stage) -> None:
    """A topic that somebody else has made is listed, with its partitions."""
    driver, topic = await stage.driver(), await stage.topic(3)
    assert topic in await driver("topics")
    assert await driver("partitions", topic=topic) == 3


async def made_on_demand(stage: Stage) -> None:
    """A topic that is not there is made when somebody sends to it."""
    driver = await stage.driver()
    await send(driver, stage.name, numbered("first", 3))
    assert stage.values(stage.name) == ["first 0", "first 1", "first 2"]


async def settings(stage: Stage) -> None:
    """The settings of a topic are told and altered."""
    driver, topic = await stage.driver(), await stage.topic(1)
    before = await driver("config", topic=topic)
    assert (before["retention.ms"], before["cleanup.policy"]) == ("604800000", "delete")
    await driver("alter_config", topic=topic, config={"retention.ms": "3600000"})
    after = await driver("config", topic=topic)
    assert after == {**before, "retention.ms": "3600000"}
    assert stage.log.topic(topic).settings.retention_ms == 3_600_000


async def more_partitions(stage: Stage) -> None:
    """A topic is given more partitions."""
    driver, topic = await stage.driver(), await stage.topic(1)
    await driver("add_partitions", topic=topic, total=3)
    assert stage.log.topic(topic).partitions == 3
    await send(driver, topic, numbered("spread", 9, 3))
    assert len(stage.values(topic)) == 9


async def ends(stage: Stage) -> None:
    """Where a partition begins and ends, also when its beginning is gone."""
    driver, topic = await stage.driver(), await stage.topic(1)
    assert await driver("ends", topic=topic, partition=0) == [0, 0]
    await send(driver, topic, numbered("some", 10))
    await asyncio.to_thread(stage.log.partition(stage.log.topic(topic), 0).delete_records, 4)
    assert await driver("ends", topic=topic, partition=0) == [4, 10]


async def groups(stage: Stage) -> None:
    """A group is listed, and described with its members, as long as it has some and afterwards."""
    driver, topic = await stage.driver(), await stage.topic(PARTITIONS)
    assert topic not in await driver("groups")
    member = await join(stage, topic)
    await shared(stage, [member])
    assert topic in await driver("groups")
    described = await driver("group", group=topic)
    assert described == {"state": "stable", "members": 1, "assigned": list(range(PARTITIONS))}
    await member("leave")
    assert await driver("group", group=topic) == {"state": "empty", "members": 0, "assigned": []}


async def delete_group(stage: Stage) -> None:
    """A group is deleted with its offsets, but not while it has members."""
    driver, topic = await stage.driver(), await stage.topic(PARTITIONS)
    await stage.commit(topic, {0: 0})
    member = await join(stage, topic)
    await shared(stage, [member])
    code = await refusal(driver, "delete_group", group=topic)
    assert code == NON_EMPTY_GROUP, f"deleting a group that has members was answered with {code}"
    await member("leave")
    await driver("delete_group", group=topic)
    assert await stage.committed(topic) == {}


async def group_offsets(stage: Stage) -> None:
    """The committed offsets of a group are told."""
    driver, topic = await stage.driver(), await stage.topic(PARTITIONS)
    await stage.commit(topic, {0: 5, 3: 7})
    assert await driver("committed", group=topic, topic=topic) == {"0": 5, "3": 7}


async def reset(stage: Stage) -> None:
    """A group without members is moved to other offsets, and reads on from there."""
    driver, topic = await stage.driver(), await stage.topic(PARTITIONS)
    await send(driver, topic, numbered("skipped", 20, PARTITIONS))
    await driver("set_committed", group=topic, topic=topic, offsets={str(n): 4 for n in range(PARTITIONS)})
    assert await stage.committed(topic) == dict.fromkeys(range(PARTITIONS), 4)
    member = await join(stage, topic)
    await all_read(stage, [member], [f"skipped {number}" for number in range(16, 20)])
