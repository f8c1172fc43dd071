"""One member of a consumer group, as Kafka's classic protocol has it: the client of our own coordinator.

    find a broker -- connect --> join -- everybody has --> sync -- the leader has assigned --> stay
    stay -- the group is rebalanced, or the subscription is another --> give up the share, join
    anything -- the connection is lost --> give up the share, find a broker, join as somebody new

What a member reads and how it is shared out is told by its `Part`; nothing here knows Faust. A member that has lost its
broker is nobody to the next one, which has never heard of it: members live in the memory of a broker.

Heartbeats go out in a task of their own: the group does not take a member for dead that is still giving up its share.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from framework.faust.link import Link
from framework.log.broker import Code
from framework.log.broker.group import CONSUMER
from framework.log.broker.table_groups import (
    CommitPartition,
    CommitTopic,
    HeartbeatRequest,
    HeartbeatResponse,
    JoinGroupRequest,
    JoinGroupResponse,
    JoinProtocol,
    LeaveGroupRequest,
    LeaveGroupResponse,
    LeavingMember,
    OffsetCommitRequest,
    OffsetCommitResponse,
    OffsetFetchRequest,
    OffsetFetchResponse,
    OffsetFetchTopic,
    SyncAssignment,
    SyncGroupRequest,
    SyncGroupResponse,
)
from framework.log.errors import Error

Place = tuple[str, int]
"""Topic and partition; Faust's `TP` is one."""
REQUEST_TIMEOUT_S = 30.0
"""How long a broker may take to answer what it need not wait for."""
LEAVE_TIMEOUT_S = 2.0
HAND_OVER_TIMEOUT_S = 5.0
"""How long a worker that is the broker, and ends, gives the others to commit."""
RETRY_S, MAX_RETRY_S = 0.02, 0.5
_AGAIN = {Code.REBALANCE_IN_PROGRESS, Code.ILLEGAL_GENERATION}
_ELSEWHERE = {Code.COORDINATOR_NOT_AVAILABLE, Code.NOT_COORDINATOR, Code.COORDINATOR_LOAD_IN_PROGRESS}
logger = logging.getLogger(__name__)


class GroupRefused(Error):
    """The coordinator will not have this member, and asking again will not help."""


class Standing(NamedTuple):
    """Who a member is in one generation: what it commits in it is refused in any other."""

    generation: int
    member_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOptions:
    """Which group, and how long the others wait for this member."""

    group_id: str
    client_id: str
    protocol: str
    instance_id: str | None = None
    session_timeout_ms: int = 10_000
    rebalance_timeout_ms: int = 60_000
    heartbeat_s: float = 1.0


class Part(Protocol):
    """What a member reads."""

    async def subscription(self) -> bytes:
        """What it tells the leader of itself."""

    async def share_out(self, members: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """As the leader: the share of each of *members*, who have said this of themselves."""

    async def revoke(self) -> None:
        """Finish what is in hand and give up the share; called before each join, whether there is a share or not."""

    async def take(self, share: bytes, standing: Standing) -> None:
        """Begin with *share*; commits are made with *standing*."""


class Membership:
    """A member; `run` is its life. Everything in one event loop."""

    def __init__(self, find: Callable[[], Awaitable[Link]], part: Part, options: GroupOptions) -> None:
        """*find* connects to the broker."""
        self._find, self._part, self._options = find, part, options
        self._member_id, self._generation = "", -1
        self._link: Link | None = None
        self._offsets: Link | None = None
        self._rejoin = asyncio.Event()
        self._offsets_guard = asyncio.Lock()

    # Its life.

    async def run(self) -> None:
        """Be a member until cancelled, from the first `rejoin` on.

        Raises:
            GroupRefused: The group will not have it.
            Error: No broker was found.
        """
        await self._rejoin.wait()
        pause_s = RETRY_S
        while True:
            try:
                async with asyncio.TaskGroup() as group:
                    self._link = await self._find()
                    group.create_task(self._heartbeats(self._link))
                    while True:
                        await self._join(self._link)
                        pause_s = RETRY_S
                        await self._rejoin.wait()
            except* OSError as lost:
                logger.info("group %r: %s; looking for the broker again", self._options.group_id, lost.exceptions[0])
            self._forget()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_RETRY_S)

    def rejoin(self) -> None:
        """Join anew, because the subscription has changed."""
        self._rejoin.set()

    async def leave(self) -> None:
        """Tell the broker that it goes, if there is one; the others need not wait for its session then."""
        link = self._link
        if link is not None and self._member_id and self._options.instance_id is None:
            goes = LeaveGroupRequest(
                group_id=self._options.group_id, members=[LeavingMember(member_id=self._member_id)]
            )
            try:
                await link.ask(goes, LeaveGroupResponse, LEAVE_TIMEOUT_S)
            except OSError as error:
                logger.info("group %r was not told of the end: %s", self._options.group_id, error)
        self.close()

    async def hand_over(self) -> None:
        """Let the others give up their shares, and so commit, before the broker ends, which would refuse them then.

        They are told to join anew, and by the time that they have, they have committed; then the broker ends, and they
        join at the next one.
        """
        if self._link is not None and self._member_id:
            try:
                await self._ask_to_join(self._link, HAND_OVER_TIMEOUT_S)
            except OSError as error:
                logger.info("group %r: some members may not have committed: %s", self._options.group_id, error)
        self.close()

    def close(self) -> None:
        """Hang up."""
        for each in (self._link, self._offsets):
            if each is not None:
                each.close()

    def _forget(self) -> None:
        """The broker that knew it is gone."""
        if self._link is not None:
            self._link.close()
        self._link, self._member_id, self._generation = None, "", -1

    async def _join(self, link: Link) -> None:
        """Come into the next generation.

        Raises:
            OSError: The broker is gone.
        """
        while True:
            await self._part.revoke()
            self._rejoin.clear()
            # The others may take as long as they may.
            joined = await self._ask_to_join(link, self._options.rebalance_timeout_ms / 1000 + REQUEST_TIMEOUT_S)
            code = joined.error_code
            if code == Code.MEMBER_ID_REQUIRED:
                self._member_id = joined.member_id
            elif code == Code.UNKNOWN_MEMBER_ID:
                self._member_id = ""
            elif code in _ELSEWHERE:
                raise ConnectionError("the broker is ending")
            elif code not in (Code.NONE, *_AGAIN):
                raise GroupRefused(_refusal(self._options, code))
            elif code == Code.NONE and await self._sync(link, joined):
                return

    async def _ask_to_join(self, link: Link, timeout_s: float) -> JoinGroupResponse:
        options = self._options
        about = await self._part.subscription()
        request = JoinGroupRequest(
            group_id=options.group_id,
            session_timeout_ms=options.session_timeout_ms,
            rebalance_timeout_ms=options.rebalance_timeout_ms,
            member_id=self._member_id,
            group_instance_id=options.instance_id,
            protocol_type=CONSUMER,
            protocols=[JoinProtocol(name=options.protocol, metadata=about)],
        )
        return await link.ask(request, JoinGroupResponse, timeout_s)

    async def _sync(self, link: Link, joined: JoinGroupResponse) -> bool:
        """Get the share in the generation that was *joined*; False if it is over before that."""
        options = self._options
        self._member_id, self._generation = joined.member_id, joined.generation_id
        shares: Mapping[str, bytes] = {}
        if joined.leader == joined.member_id:
            shares = await self._part.share_out({each.member_id: each.metadata for each in joined.members})
        request = SyncGroupRequest(
            group_id=options.group_id,
            generation_id=joined.generation_id,
            member_id=joined.member_id,
            group_instance_id=options.instance_id,
            assignments=[SyncAssignment(member_id=each, assignment=share) for each, share in shares.items()],
        )
        synced = await link.ask(request, SyncGroupResponse, options.rebalance_timeout_ms / 1000 + REQUEST_TIMEOUT_S)
        code = synced.error_code
        if code == Code.UNKNOWN_MEMBER_ID:
            self._member_id = ""
            return False
        if code in _ELSEWHERE:
            raise ConnectionError("the broker is ending")
        if code in _AGAIN:
            return False
        if code != Code.NONE:
            raise GroupRefused(_refusal(options, code))
        await self._part.take(synced.assignment, Standing(joined.generation_id, joined.member_id))
        return True

    async def _heartbeats(self, link: Link) -> None:
        """Say that it is there, and hear when it has to join anew."""
        while True:
            await asyncio.sleep(self._options.heartbeat_s)
            generation, member_id = self._generation, self._member_id
            if generation < 0 or not member_id:
                continue
            request = HeartbeatRequest(
                group_id=self._options.group_id,
                generation_id=generation,
                member_id=member_id,
                group_instance_id=self._options.instance_id,
            )
            # It may be answered behind a join, which waits for the others.
            timeout_s = self._options.rebalance_timeout_ms / 1000 + REQUEST_TIMEOUT_S
            code = (await link.ask(request, HeartbeatResponse, timeout_s)).error_code
            if (generation, member_id) != (self._generation, self._member_id):
                continue  # It is about a generation that is over.
            if code in _ELSEWHERE:
                raise ConnectionError("the broker is ending")
            if code == Code.FENCED_INSTANCE_ID:
                raise GroupRefused(_refusal(self._options, code))
            if code == Code.UNKNOWN_MEMBER_ID:
                self._member_id = ""
            if code != Code.NONE:
                self._rejoin.set()

    # Committed offsets.

    async def commit(self, offsets: Mapping[Place, int], standing: Standing) -> bool:
        """Commit *offsets*, durably; whether they are. False: the share is, or may be, somebody else's by now."""
        topics: dict[str, list[CommitPartition]] = {}
        for (topic, number), offset in offsets.items():
            topics.setdefault(topic, []).append(CommitPartition(index=number, committed_offset=offset))
        request = OffsetCommitRequest(
            group_id=self._options.group_id,
            generation_id=standing.generation,
            member_id=standing.member_id,
            group_instance_id=self._options.instance_id,
            topics=[CommitTopic(name=name, partitions=parts) for name, parts in topics.items()],
        )
        try:
            link = await self._offsets_link()
            answer = await link.ask(request, OffsetCommitResponse, REQUEST_TIMEOUT_S)
        except (OSError, Error) as error:
            logger.warning("group %r: offsets were not committed: %s", self._options.group_id, error)
            return False
        codes = {Code(part.error_code) for topic in answer.topics for part in topic.partitions} - {Code.NONE}
        if codes:
            names = ", ".join(sorted(code.name for code in codes))
            logger.warning("group %r: offsets were not committed: %s", self._options.group_id, names)
        return not codes

    async def committed(self, places: Iterable[Place]) -> dict[Place, int]:
        """The committed offsets of *places*; without those that have none.

        Raises:
            Error: No broker was found.
        """
        topics: dict[str, list[int]] = {}
        for topic, number in places:
            topics.setdefault(topic, []).append(number)
        request = OffsetFetchRequest(
            group_id=self._options.group_id,
            topics=[OffsetFetchTopic(name=name, partitions=numbers) for name, numbers in topics.items()],
        )
        pause_s = RETRY_S
        while True:
            try:
                link = await self._offsets_link()
                answer = await link.ask(request, OffsetFetchResponse, REQUEST_TIMEOUT_S)
                if answer.error_code not in _ELSEWHERE:
                    return _offsets_of(self._options, answer)
            except OSError as error:
                logger.info("group %r: %s; looking for the broker again", self._options.group_id, error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_RETRY_S)

    async def _offsets_link(self) -> Link:
        """A connection of their own: on that of the member they would wait for joins."""
        async with self._offsets_guard:
            if self._offsets is None or self._offsets.is_over:
                self._offsets = await self._find()
            return self._offsets


def _offsets_of(options: GroupOptions, answer: OffsetFetchResponse) -> dict[Place, int]:
    found: dict[Place, int] = {}
    if answer.error_code != Code.NONE:
        raise GroupRefused(_refusal(options, answer.error_code))
    for topic in answer.topics:
        for part in topic.partitions:
            if part.error_code != Code.NONE:
                raise GroupRefused(_refusal(options, part.error_code))
            if part.committed_offset >= 0:
                found[topic.name, part.index] = part.committed_offset
    return found


def _refusal(options: GroupOptions, code: int) -> str:
    name = Code(code).name
    why = {
        Code.INVALID_SESSION_TIMEOUT: f"; its session timeout is {options.session_timeout_ms} ms, and a "
        "broker that is no worker allows 6,000 ms or more (broker_session_timeout of the app)",
        Code.INCONSISTENT_GROUP_PROTOCOL: f"; it assigns by {options.protocol!r}, and others in the group do not",
        Code.FENCED_INSTANCE_ID: f"; another member is {options.instance_id!r} now",
        Code.INVALID_GROUP_ID: "; the id is empty or too long",
    }.get(Code(code), "")
    return f"the broker refuses a member of group {options.group_id!r}: {name}{why}"
