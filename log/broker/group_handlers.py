"""The handlers of consumer groups, between the coordinator and the store of committed offsets.

What a handler changes, it changes before it returns, or has asked the store for it. So requests that come one after the
other have their effects in that order, however late their answers are.

Some groups are not the broker's: agents and jobs are shown as groups, with how far they have read and by whom, but they
commit with their state. Whoever joins such a group, commits for it or deletes it is told GROUP_AUTHORIZATION_FAILED.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Container, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar

from framework.log.broker.codes import Code
from framework.log.broker.coordinator import CLASSIC, Client, Coordinator
from framework.log.broker.group import CONSUMER, State
from framework.log.broker.group_settings import GroupSettings
from framework.log.broker.offset_handlers import Answer, Context, OffsetHandlers, settled
from framework.log.broker.offsets import ForeignGroup, ForeignGroups, ForeignMember, NoForeignGroups, OffsetStore
from framework.log.broker.requests import encode_blob
from framework.log.broker.schema import Struct
from framework.log.broker.table_group_admin import (
    Assignment,
    DeletedGroup,
    DeleteGroupsRequest,
    DeleteGroupsResponse,
    DescribedGroup,
    DescribedMember,
    DescribeGroupsRequest,
    DescribeGroupsResponse,
    ListedGroup,
    ListGroupsRequest,
    ListGroupsResponse,
    Subscription,
    TopicPartitions,
)
from framework.log.broker.table_groups import Coordinator as FoundCoordinator
from framework.log.broker.table_groups import (
    FindCoordinatorRequest,
    FindCoordinatorResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    JoinGroupRequest,
    JoinGroupResponse,
    LeaveGroupRequest,
    LeaveGroupResponse,
    SyncGroupRequest,
)
from framework.log.clock import Random
from framework.log.errors import Error
from framework.log.log import Log

GROUP_KEY, SEVERAL_KEYS_FROM = 0, 4
"""The kind of key that stands for a group, and the version of FindCoordinator that asks about several."""
FOREIGN_REFRESH_S = 5.0
NEVER_MS = 1 << 53
PROTOCOL = "framework"
"""What the way of assigning is called in groups that are not the broker's."""
DEAD = "Dead"
"""The state of a group that there is not."""
S = TypeVar("S", bound=Struct)
logger = logging.getLogger(__name__)


class Address(NamedTuple):
    """A broker, as clients reach it."""

    node_id: int
    host: str
    port: int


Handler = Callable[[Context, int, Any], Answer]


class GroupHandlers:
    """The handlers of all group APIs; in one event loop."""

    def __init__(
        self,
        log: Log,
        offsets: OffsetStore,
        settings: GroupSettings,
        *,
        address: Callable[[], Address],
        foreign: ForeignGroups | None = None,
        random: Random | None = None,
    ) -> None:
        """*address* is the broker itself; *foreign* are the groups that are not its own."""
        self._log, self._offsets, self._settings, self._address = log, offsets, settings, address
        self._foreign = foreign or NoForeignGroups()
        self.coordinator = Coordinator(settings, self._now_ms, random)
        self._committed = OffsetHandlers(log, offsets, settings, self.coordinator, self._foreign)
        self._waking, self._wakes_ms = asyncio.Event(), 0

    @property
    def table(self) -> dict[str, Handler]:
        """The handler of each API, by its name."""
        return {
            "FindCoordinator": self.find_coordinator,
            "JoinGroup": self.join,
            "SyncGroup": self.sync,
            "Heartbeat": self.heartbeat,
            "LeaveGroup": self.leave,
            "OffsetCommit": self._committed.commit,
            "OffsetFetch": self._committed.fetch,
            "DescribeGroups": self.describe,
            "ListGroups": self.list_all,
            "DeleteGroups": self.delete,
            "OffsetDelete": self._committed.delete,
        }

    async def run(self) -> None:
        """Do what has to be done while nobody asks, until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._forget())
            group.create_task(self._follow())

    async def refresh(self) -> None:
        """Know the names of the groups that are not the broker's; to be called before the first request comes."""
        try:
            await asyncio.to_thread(self._foreign.refresh)
        except (Error, OSError) as error:
            logger.warning("agents and jobs cannot be shown as groups: %s", error)

    async def _follow(self) -> None:
        while True:
            await self.refresh()
            await asyncio.sleep(FOREIGN_REFRESH_S)

    async def _watch(self) -> None:
        """End sessions and rebalances whose time is over."""
        while True:
            # Nothing else runs between the tick and the wait, or what it makes due sooner would be missed.
            next_ms = self.coordinator.tick()
            self._wakes_ms = NEVER_MS if next_ms is None else next_ms
            self._waking.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(self._wakes_ms - self._now_ms(), 1) / 1000):
                    await self._waking.wait()

    async def _forget(self) -> None:
        """Forget offsets whose time is over, in a task of its own: a slow disk must not keep sessions from ending."""
        while True:
            await asyncio.sleep(self._settings.offsets_retention_check_interval_ms / 1000)
            await self.expire()

    async def expire(self) -> None:
        """Forget the offsets of groups that were not seen for too long, and of topics that are gone."""
        now_ms = self._log.clock.now_ms()
        before_ms = now_ms - self._settings.offsets_retention_ms
        try:
            topics = {info.id for info in self._log.topics().values()}
            gone = await settled(self._offsets.expire(before_ms, now_ms, self.coordinator.live(), topics))
        except (Error, OSError) as error:
            logger.warning("committed offsets could not be looked through: %s", error)
            return
        if gone:
            logger.info("%d committed offsets are forgotten: nobody has committed or been there for too long", gone)

    def close(self) -> None:
        """Answer everybody who waits."""
        self.coordinator.close()

    # Membership.

    def find_coordinator(self, context: Context, version: int, body: FindCoordinatorRequest) -> Answer:
        """The broker itself, for every group."""
        node_id, host, port = self._address()
        code, text = Code.NONE, None
        if body.key_type != GROUP_KEY:
            node_id, host, port = -1, "", -1
            code, text = Code.INVALID_REQUEST, f"there are only groups, key type {GROUP_KEY}, not {body.key_type}"
        if version < SEVERAL_KEYS_FROM:
            return FindCoordinatorResponse(error_code=code, error_message=text, node_id=node_id, host=host, port=port)
        found = [
            FoundCoordinator(key=key, node_id=node_id, host=host, port=port, error_code=code, error_message=text)
            for key in body.coordinator_keys
        ]
        return FindCoordinatorResponse(coordinators=found)

    def join(self, context: Context, version: int, body: JoinGroupRequest) -> Answer:
        """Answered when the generation is made."""
        if self._is_foreign(body.group_id):
            return JoinGroupResponse(error_code=Code.GROUP_AUTHORIZATION_FAILED, member_id=body.member_id)
        client = Client(context.client.client_id or "", context.client.host)
        return self._later(partial(self.coordinator.join, body, version, client))

    def sync(self, context: Context, version: int, body: SyncGroupRequest) -> Answer:
        """Answered when the leader has said who gets what."""
        return self._later(partial(self.coordinator.sync, body))

    def heartbeat(self, context: Context, version: int, body: HeartbeatRequest) -> HeartbeatResponse:
        """At once."""
        return self.coordinator.heartbeat(body)

    def leave(self, context: Context, version: int, body: LeaveGroupRequest) -> LeaveGroupResponse:
        """At once."""
        response = self.coordinator.leave(body, version)
        self._wake()
        return response

    # Looking at groups, and deleting them.

    async def describe(self, context: Context, version: int, body: DescribeGroupsRequest) -> DescribeGroupsResponse:
        """What is going on in some groups; in each once, or a small request would be a huge answer."""
        foreign, stored = await self._foreign_groups(), set(self._offsets.groups())
        names = dict.fromkeys(body.groups)
        return DescribeGroupsResponse(groups=[self._described(each, foreign.get(each), stored) for each in names])

    async def list_all(self, context: Context, version: int, body: ListGroupsRequest) -> ListGroupsResponse:
        """Every group, or those in some states."""
        foreign = await self._foreign_groups()
        found = {each.group_id: each for each in self.coordinator.listed()}
        for group_id in self._offsets.groups():
            found.setdefault(group_id, _listed(group_id, State.EMPTY))
        found |= {name: _listed(name, _state_of(group)) for name, group in foreign.items()}
        states = {state.casefold() for state in body.states_filter}
        types = {kind.casefold() for kind in body.types_filter}
        groups = [
            each
            for each in found.values()
            if (not states or each.state.casefold() in states) and (not types or each.type in types)
        ]
        return ListGroupsResponse(groups=groups)

    def delete(self, context: Context, version: int, body: DeleteGroupsRequest) -> Awaitable[DeleteGroupsResponse]:
        """Forget groups that nobody is in, with their offsets."""
        stored = set(self._offsets.groups())
        codes: dict[str, Code] = {}
        asked: dict[str, Future[None]] = {}
        for group_id in body.groups:
            code = Code.GROUP_AUTHORIZATION_FAILED if self._is_foreign(group_id) else self.coordinator.delete(group_id)
            if code in (Code.NONE, Code.GROUP_ID_NOT_FOUND) and group_id in stored:
                asked[group_id], code = self._offsets.delete_group(group_id), Code.NONE
            codes.setdefault(group_id, code)
        return self._deleted(codes, asked)

    async def _deleted(self, codes: dict[str, Code], asked: dict[str, Future[None]]) -> DeleteGroupsResponse:
        for group_id, done in asked.items():
            try:
                await settled(done)
            except Error:
                codes[group_id] = Code.COORDINATOR_NOT_AVAILABLE
        return DeleteGroupsResponse(
            groups=[DeletedGroup(group_id=group_id, error_code=code) for group_id, code in codes.items()]
        )

    def _described(self, group_id: str, foreign: ForeignGroup | None, stored: Container[str]) -> DescribedGroup:
        if foreign is not None:
            members = [_member(each) for each in foreign.members]
            state, protocol = _state_of(foreign).value, PROTOCOL if members else ""
            return DescribedGroup(
                group_id=group_id, state=state, protocol_type=CONSUMER, protocol=protocol, members=members
            )
        known = self.coordinator.described(group_id)
        if known is not None and known.state != State.EMPTY:
            return known
        if group_id in stored:
            return DescribedGroup(group_id=group_id, state=State.EMPTY.value, protocol_type=CONSUMER)
        return known or DescribedGroup(group_id=group_id, state=DEAD)

    # How it is done.

    async def _foreign_groups(self) -> Mapping[str, ForeignGroup]:
        """The groups that are not the broker's; none while they cannot be read, which keeps nobody from the others."""
        try:
            return await asyncio.to_thread(self._foreign.groups)
        except (Error, OSError) as error:
            logger.warning("agents and jobs cannot be shown as groups: %s", error)
            return {}

    def _later(self, ask: Callable[[Callable[[S], None]], None]) -> Awaitable[S]:
        """What *ask* is answered with."""
        answer: asyncio.Future[S] = asyncio.get_running_loop().create_future()

        def reply(response: S) -> None:
            if not answer.done():  # Cancelled, when its client is gone.
                answer.set_result(response)

        ask(reply)
        self._wake()
        return answer

    def _wake(self) -> None:
        """Let `run` look again, if something is due before it would."""
        next_ms = self.coordinator.next_ms
        if next_ms is not None and next_ms < self._wakes_ms:
            self._waking.set()

    def _is_foreign(self, group_id: str) -> bool:
        return not self.coordinator.has_members(group_id) and group_id in self._foreign.names()

    def _now_ms(self) -> int:
        return int(self._log.clock.monotonic() * 1000)


def _state_of(group: ForeignGroup) -> State:
    return State.STABLE if group.members else State.EMPTY


def _listed(group_id: str, state: State) -> ListedGroup:
    return ListedGroup(group_id=group_id, protocol_type=CONSUMER, state=state.value, type=CLASSIC)


def _member(member: ForeignMember) -> DescribedMember:
    shares = [TopicPartitions(topic=topic, partitions=numbers) for topic, numbers in member.partitions.items()]
    return DescribedMember(
        member_id=member.member_id,
        client_id=member.client_id,
        client_host=member.client_host,
        metadata=encode_blob(Subscription(topics=tuple(member.partitions)), 0),
        assignment=encode_blob(Assignment(partitions=shares), 0),
    )
