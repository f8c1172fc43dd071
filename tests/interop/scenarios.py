"""What every client is asked to do; each scenario is written once, in calls that all drivers have."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from tests.interop.driver import Driver, Refused
from tests.interop.stage import Stage

Scenario = Callable[[Stage], Awaitable[None]]
START_MS = 1_700_000_000_000
PARTITIONS = 4
SESSION_MS = 6_000
"""The shortest that a broker takes."""
LONG_SESSION_MS = 60_000
MESSAGE_TOO_LARGE = 10
UNKNOWN_TOPIC_OR_PARTITION = 3
TOPIC_ALREADY_EXISTS = 36
NON_EMPTY_GROUP = 68


def numbered(prefix: str, count: int, partitions: int = 1) -> list[tuple[int, str, int | None]]:
    """Records in turns over the partitions; the client says when they were made."""
    return [(number % partitions, f"{prefix} {number}", None) for number in range(count)]


async def send(driver: Driver, topic: str, records: list[tuple[int, str, int | None]], **how: Any) -> None:
    """Produce, in the usual way but for *how*."""
    await driver(
        "produce", topic=topic, records=records, **{"codec": "none", "acks": "all", "idempotent": False, **how}
    )


# Records.


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
    refused = None
    try:
        await send(driver, topic, [(0, "x" * 10_000_000, None)])
    except Refused as error:
        refused = error.code
    assert refused == MESSAGE_TOO_LARGE
    await send(driver, topic, numbered("small", 3))
    assert stage.values(topic) == ["small 0", "small 1", "small 2"]


# Groups.


async def join(
    stage: Stage,
    topic: str,
    instance: str | None = None,
    *,
    session_ms: int = LONG_SESSION_MS,
    cooperative: bool = False,
) -> Driver:
    """A new member of the group that is named as the topic."""
    driver = await stage.driver()
    await driver("join", group=topic, topic=topic, instance=instance, session_ms=session_ms, cooperative=cooperative)
    return driver


async def states(members: list[Driver]) -> list[dict[str, Any]]:
    """What the members have seen."""
    return [await member("state") for member in members]


async def shared(stage: Stage, members: list[Driver]) -> list[dict[str, Any]]:
    """Wait until each partition has one of *members*, all alike."""
    fair = sorted([PARTITIONS // len(members)] * len(members))

    async def look() -> tuple[bool, list[dict[str, Any]]]:
        seen = await states(members)
        assigned = [partition for state in seen for partition in state["assigned"]]
        counts = sorted(len(state["assigned"]) for state in seen)
        return sorted(assigned) == list(range(PARTITIONS)) and counts == fair, seen

    return await stage.until(f"{PARTITIONS} partitions for {len(members)}", look)


async def all_read(stage: Stage, members: list[Driver], wanted: list[str]) -> None:
    """Wait until *members* have read all that is *wanted* between them, and nothing twice."""

    async def look() -> tuple[bool, list[str]]:
        seen = sorted(value for state in await states(members) for _, _, value in state["records"])
        return set(seen) >= set(wanted), seen

    seen = await stage.until(f"{len(wanted)} records", look)
    twice = sorted(set(Counter(seen) - Counter(wanted)))
    assert not twice, f"read more often than wanted: {twice}"


async def commit(stage: Stage, topic: str, members: list[Driver], each: int) -> None:
    """Have *members* commit what they have read, and wait until the broker has it: *each* of every partition."""
    for member in members:
        await member("commit")

    async def look() -> tuple[bool, dict[int, int]]:
        committed = await stage.committed(topic)
        return committed == dict.fromkeys(range(PARTITIONS), each), committed

    await stage.until(f"offset {each} of all partitions committed", look)


async def come_and_go(stage: Stage) -> None:
    """Members join and leave: the partitions are shared out anew, and each record is read once."""
    sender, topic = await stage.driver(), await stage.topic(PARTITIONS)
    first = await join(stage, topic)
    await shared(stage, [first])
    second = await join(stage, topic)
    await shared(stage, [first, second])
    await send(sender, topic, numbered("both", 40, PARTITIONS))
    await all_read(stage, [first, second], [f"both {number}" for number in range(40)])
    await commit(stage, topic, [first, second], 10)
    [before, _] = await states([first, second])
    await second("leave")
    await shared(stage, [first])
    await send(sender, topic, numbered("alone", 40, PARTITIONS))
    alone = [f"alone {number}" for number in range(40)]
    await all_read(stage, [first], [*(value for _, _, value in before["records"]), *alone])


async def cooperate(stage: Stage) -> None:
    """A member comes and goes, and the other keeps its share meanwhile: nothing is read twice, with no commit."""
    sender, topic = await stage.driver(), await stage.topic(PARTITIONS)
    first = await join(stage, topic, cooperative=True)
    await shared(stage, [first])
    second = await join(stage, topic, cooperative=True)
    [before, _] = await shared(stage, [first, second])
    await send(sender, topic, numbered("both", 40, PARTITIONS))
    await all_read(stage, [first, second], [f"both {number}" for number in range(40)])
    await second("leave")
    [after] = await shared(stage, [first])
    await send(sender, topic, numbered("alone", 40, PARTITIONS))

    async def look() -> tuple[bool, list[Any]]:
        [state] = await states([first])
        kept = [value for number, _, value in state["records"] if number in before["assigned"]]
        return len(kept) >= 2 * 20, kept

    kept = await stage.until("all of the partitions that it kept", look)
    assert len(set(kept)) == len(kept), "what it had read of a partition that it kept was read again"
    assert set(before["assigned"]) < set(after["assigned"])


async def go_on(stage: Stage) -> None:
    """A group that had no members for a while goes on behind what it has committed."""
    sender, topic = await stage.driver(), await stage.topic(PARTITIONS)
    first = await join(stage, topic)
    await send(sender, topic, numbered("old", 40, PARTITIONS))
    await all_read(stage, [first], [f"old {number}" for number in range(40)])
    await commit(stage, topic, [first], 10)
    await first("leave")
    await send(sender, topic, numbered("new", 40, PARTITIONS))
    second = await join(stage, topic)
    await all_read(stage, [second], [f"new {number}" for number in range(40)])


async def out_of_range(stage: Stage) -> None:
    """A group whose committed offset is not there any more begins as it is set to."""
    sender, topic = await stage.driver(), await stage.topic(PARTITIONS)
    await send(sender, topic, numbered("there", 8, PARTITIONS))
    await stage.commit(topic, {0: 50, 1: 1})
    member = await join(stage, topic)
    await all_read(stage, [member], [f"there {number}" for number in range(8) if number != 1])
    await member("commit")


async def die(stage: Stage) -> None:
    """A member is killed: when its session is over the other has its partitions, from what it had committed."""
    sender, topic = await stage.driver(), await stage.topic(PARTITIONS)
    members = [await join(stage, topic, session_ms=SESSION_MS) for _ in range(2)]
    await shared(stage, members)
    await send(sender, topic, numbered("both", 40, PARTITIONS))
    await all_read(stage, members, [f"both {number}" for number in range(40)])
    await commit(stage, topic, members, 10)
    survivor, dead = members
    [before] = await states([survivor])
    await dead.kill()
    await shared(stage, [survivor])
    await send(sender, topic, numbered("alone", 40, PARTITIONS))
    alone = [f"alone {number}" for number in range(40)]
    await all_read(stage, [survivor], [*(value for _, _, value in before["records"]), *alone])


async def come_back(stage: Stage) -> None:
    """A static member is killed and started again: it has the same partitions, and the others notice nothing."""
    sender, topic = await stage.driver(), await stage.topic(PARTITIONS)
    names = ["one", "two"]
    members = [await join(stage, topic, instance) for instance in names]
    before = await shared(stage, members)
    for back in (1, 0):
        await members[back].kill()
        members[back] = await join(stage, topic, names[back])
        after = await shared(stage, members)
        assert [state["assigned"] for state in after] == [state["assigned"] for state in before]
        assert after[1 - back]["assignments"] == before[1 - back]["assignments"], (
            f"after the return of {names[back]}: {before} became {after}"
        )
        before = after
    await send(sender, topic, numbered("both", 40, PARTITIONS))
    await all_read(stage, members, [f"both {number}" for number in range(40)])


# Administration.


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


async def refusal(driver: Driver, call: str, **arguments: Any) -> int | None:
    """The code with which a call is refused."""
    try:
        await driver(call, **arguments)
    except Refused as refused:
        return refused.code
    return None


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


SCENARIOS: dict[str, Scenario] = {
    **{f"produce, {codec}": partial(compressed, codec=codec) for codec in ("none", "gzip", "snappy", "lz4", "zstd")},
    "idempotent": idempotent,
    "acks all, 1, 0": acknowledged,
    "times of records": timed,
    "seek by time": since,
    "10 MB refused": too_large,
    "members join and leave": come_and_go,
    "cooperative members": cooperate,
    "a member is killed": die,
    "static members": come_back,
    "committed offsets": go_on,
    "offset out of range": out_of_range,
    "create, delete topics": topics,
    "list, describe topics": described,
    "topics on demand": made_on_demand,
    "topic settings": settings,
    "more partitions": more_partitions,
    "first and last offset": ends,
    "list, describe groups": groups,
    "delete groups": delete_group,
    "offsets of groups": group_offsets,
    "reset groups": reset,
}
"""By the name that the matrix has."""
