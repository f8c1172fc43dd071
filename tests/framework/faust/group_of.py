"""Members of a group without Faust: each notes what happens to it, and the leader deals partitions out like cards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from framework.faust.hosting import Hosting
from framework.faust.membership import GroupOptions, Membership, Standing
from framework.log import Log

LIMIT_S = 20.0
TOPIC = "orders"
PARTITIONS = 4
OPTIONS = GroupOptions(
    group_id="shop",
    client_id="test",
    protocol="cards",
    session_timeout_ms=1_500,
    rebalance_timeout_ms=5_000,
    heartbeat_s=0.02,
)


@dataclass
class Hand:
    """A member's part: the numbers of its partitions, as text."""

    name: str
    share: list[int] = field(default_factory=list)
    standing: Standing | None = None
    happened: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    finish: Callable[[], Awaitable[None]] | None = None
    """What it does before it gives up a share."""

    async def subscription(self) -> bytes:
        """Its name."""
        return self.name.encode()

    async def share_out(self, members: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """To the members by their names."""
        order = sorted(members, key=lambda each: members[each])
        dealt: dict[str, list[int]] = {each: [] for each in order}
        for number in range(PARTITIONS):
            dealt[order[number % len(order)]].append(number)
        self.happened.append("led")
        return {each: ",".join(map(str, numbers)).encode() for each, numbers in dealt.items()}

    async def revoke(self) -> None:
        """It has nothing any more."""
        if self.finish is not None and self.standing is not None:
            await self.finish()
        self._set([], None, "revoked")

    async def take(self, share: bytes, standing: Standing) -> None:
        """It has these."""
        numbers = [int(each) for each in share.decode().split(",") if each]
        self._set(numbers, standing, f"took {len(numbers)}")

    def _set(self, share: list[int], standing: Standing | None, what: str) -> None:
        self.share, self.standing = share, standing
        self.happened.append(what)
        self.changed.set()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return when *condition* holds, which is looked at whenever something has happened to it."""
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@dataclass
class Member:
    """A running member."""

    hand: Hand
    membership: Membership
    hosting: Hosting


@asynccontextmanager
async def joined(log: Log, name: str, options: GroupOptions = OPTIONS) -> AsyncIterator[Member]:
    """A member that has begun to join; it leaves at the end, and hands over if it is the broker."""
    async with asyncio.TaskGroup() as group:
        hosting = Hosting(log, options.client_id, group, ("127.0.0.1", 0))
        hand = Hand(name)
        membership = Membership(hosting.find, hand, options)
        running = group.create_task(membership.run())
        membership.rejoin()
        try:
            yield Member(hand, membership, hosting)
        finally:
            await end(Member(hand, membership, hosting), running)


async def end(member: Member, running: asyncio.Task[None]) -> None:
    """As a worker ends that is told to."""
    running.cancel()
    await asyncio.wait([running])
    member.hand.name += " goes"  # Who has something new to say makes the others join anew.
    if member.hosting.is_broker:
        await member.membership.hand_over()
    else:
        await member.membership.leave()
    await member.hosting.stop()
