"""What scenarios are made of: records to send, members to join, and what is waited for."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.interop.driver import Driver, Refused
from tests.interop.stage import Stage

PARTITIONS = 4
LONG_SESSION_MS = 60_000


def numbered(prefix: str, count: int, partitions: int = 1) -> list[tuple[int, str, int | None]]:
    """Records in turns over the partitions; the client says when they were made."""
    return [(number % partitions, f"{prefix} {number}", None) for number in range(count)]


async def send(driver: Driver, topic: str, records: list[tuple[int, str, int | None]], **how: Any) -> None:
    """Produce, in the usual way but for *how*."""
    await driver(
        "produce", topic=topic, records=records, **{"codec": "none", "acks": "all", "idempotent": False, **how}
    )


async def refusal(driver: Driver, call: str, **arguments: Any) -> int | None:
    """The code with which a call is refused."""
    try:
        await driver(call, **arguments)
    except Refused as refused:
        return refused.code
    return None


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
