"""Scenarios of consumer groups: members come, go, die and come back, and what they have read is not read again."""

from __future__ import annotations

from typing import Any

from tests.interop.acting import PARTITIONS, all_read, commit, join, numbered, send, shared, states
from tests.interop.stage import Stage

SESSION_MS = 6_000
"""The shortest that a broker takes."""


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
