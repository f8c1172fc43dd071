"""The coordinator of all consumer groups, as Kafka's classic protocol has it: requests in, answers out, and a clock.

It has no sockets and no tasks: a request comes with a callback for its answer, which is called once, at once or later,
and whoever owns the coordinator calls `tick` when it says that something will be due. With the same clock and
randomness, the same calls come to the same end. One thread at a time.

Members live in memory only. After a restart nobody is known, so everybody who is still there is told UNKNOWN_MEMBER_ID
and joins anew. That also is why no generation is taken for another one of the same number: who names it must be
a member, and ids of members are never given twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple

from framework.log.broker.codes import Code
from framework.log.broker.group import CONSUMER, Group, State
from framework.log.broker.group_settings import GroupSettings
from framework.log.broker.member import Deadline, JoinReply, Member, Memory, SyncReply, size_of
from framework.log.broker.table_group_admin import DescribedGroup, ListedGroup
from framework.log.broker.table_groups import (
    HeartbeatRequest,
    HeartbeatResponse,
    JoinGroupRequest,
    JoinGroupResponse,
    LeaveGroupRequest,
    LeaveGroupResponse,
    LeavingMember,
    LeftMember,
    OffsetCommitRequest,
    SyncGroupRequest,
    SyncGroupResponse,
)
from framework.log.broker.timers import Timers
from framework.log.clock import Random, SystemRandom

KNOWN_MEMBERS_FROM, SKIPS_ASSIGNMENT_FROM, MANY_LEAVE_FROM = 4, 9, 3
"""The versions of JoinGroup in which members must know their id, and may be told to assign nothing; of LeaveGroup."""
NAME_LENGTH = 255
"""So much of what a client calls itself stands in the id of its member."""
CLASSIC = "classic"
logger = logging.getLogger(__name__)


class Client(NamedTuple):
    """Who asks, for people."""

    client_id: str = ""
    host: str = ""


class Coordinator:
    """All groups of a broker; see above."""

    def __init__(self, settings: GroupSettings, now_ms: Callable[[], int], random: Random | None = None) -> None:
        """*now_ms* never goes back; ids of members are drawn from *random*."""
        self._settings, self._now_ms, self._random = settings, now_ms, random or SystemRandom()
        self._groups: dict[str, Group] = {}
        self._timers: Timers[Deadline] = Timers()
        self._memory = Memory()
        self._closed = False

    @property
    def next_ms(self) -> int | None:
        """When `tick` should be called next; None while nothing can become due."""
        return self._timers.next_ms

    @property
    def held_bytes(self) -> int:
        """What the members of all groups take, about."""
        return self._memory.held_bytes

    # Membership.

    def join(self, request: JoinGroupRequest, version: int, client: Client, reply: JoinReply) -> None:
        """Answered when the next generation is made, or at once."""
        now_ms = self._now_ms()
        group = self._groups.get(request.group_id)
        code = Code.COORDINATOR_NOT_AVAILABLE if self._closed else self._check_join(request, group)
        if code is not Code.NONE:
            reply(JoinGroupResponse(error_code=code, member_id=request.member_id))
            return
        if group is None:
            group = Group(request.group_id, self._settings, self._timers, self._memory)
            self._groups[request.group_id] = group
        member = group.members.get(request.member_id)
        instance_id = request.group_instance_id
        if member is not None:
            self._join_again(group, member, request, reply, now_ms)
        elif instance_id is not None and instance_id in group.instances:
            skips = version >= SKIPS_ASSIGNMENT_FROM
            group.come_back(self._new_id(instance_id), request, reply, now_ms, may_skip=skips)
        elif not request.member_id and instance_id is None and version >= KNOWN_MEMBERS_FROM:
            member_id = self._new_id(client.client_id)
            group.add_pending(member_id, request.session_timeout_ms, now_ms)
            reply(JoinGroupResponse(error_code=Code.MEMBER_ID_REQUIRED, member_id=member_id))
        else:
            member_id = request.member_id or self._new_id(instance_id or client.client_id)
            member = Member(member_id, instance_id, client.client_id[:NAME_LENGTH], client.host)
            group.add(member, now_ms)
            group.update(member, request, reply)
            group.rebalance(now_ms)

    def sync(self, request: SyncGroupRequest, reply: SyncReply) -> None:
        """Answered when the leader has said who gets what, or at once."""
        now_ms = self._now_ms()
        group, member, code = self._member(
            request.group_id, request.member_id, request.group_instance_id, request.generation_id
        )
        if self._closed:
            reply(SyncGroupResponse(error_code=Code.COORDINATOR_NOT_AVAILABLE))
        elif group is None or member is None or code is not Code.NONE:
            reply(SyncGroupResponse(error_code=code))
        elif group.state is State.PREPARING:
            reply(SyncGroupResponse(error_code=Code.REBALANCE_IN_PROGRESS))
        elif not _names_protocol(request, group):
            reply(SyncGroupResponse(error_code=Code.INCONSISTENT_GROUP_PROTOCOL))
        elif group.state is State.STABLE:
            group.has_asked(member)
            group.keep_alive(member, now_ms)
            reply(group.synced(member))
        else:
            group.has_asked(member)
            member.answer_sync(SyncGroupResponse(error_code=Code.REBALANCE_IN_PROGRESS))
            member.syncing = reply
            if member.member_id == group.leader:
                self._assign(group, request, now_ms)

    def heartbeat(self, request: HeartbeatRequest) -> HeartbeatResponse:
        """The member is there; whether it has to join anew."""
        group, member, code = self._member(
            request.group_id, request.member_id, request.group_instance_id, request.generation_id
        )
        if group is None or member is None or code is not Code.NONE:
            return HeartbeatResponse(error_code=code)
        group.keep_alive(member, self._now_ms())
        preparing = group.state is State.PREPARING
        return HeartbeatResponse(error_code=Code.REBALANCE_IN_PROGRESS if preparing else Code.NONE)

    def leave(self, request: LeaveGroupRequest, version: int) -> LeaveGroupResponse:
        """Members go."""
        if version < MANY_LEAVE_FROM:
            code = self._leave(request.group_id, LeavingMember(member_id=request.member_id))
            return LeaveGroupResponse(error_code=code)
        if not self._is_valid(request.group_id):
            return LeaveGroupResponse(error_code=Code.INVALID_GROUP_ID)
        left = [
            LeftMember(
                member_id=each.member_id,
                group_instance_id=each.group_instance_id,
                error_code=self._leave(request.group_id, each),
            )
            for each in request.members
        ]
        return LeaveGroupResponse(members=left)

    def check_commit(self, request: OffsetCommitRequest) -> Code:
        """Whether who asks may commit offsets of the group: its members may, and without members everybody."""
        group = self._groups.get(request.group_id)
        if not self._is_storable(request.group_id):
            return Code.INVALID_GROUP_ID
        if request.generation_id < 0 and (group is None or group.state is State.EMPTY):
            return Code.NONE
        if group is None:
            return Code.ILLEGAL_GENERATION
        group, member, code = self._member(
            request.group_id, request.member_id, request.group_instance_id, request.generation_id
        )
        if group is None or member is None or code is not Code.NONE:
            return code
        if group.state is State.COMPLETING:
            return Code.REBALANCE_IN_PROGRESS  # Its partitions may be somebody else's in this generation.
        group.keep_alive(member, self._now_ms())
        return Code.NONE

    def tick(self) -> int | None:
        """Do what is due by now; when to call again, None while nothing can become due."""
        now_ms = self._now_ms()
        while (due := self._timers.pop(now_ms)) is not None:
            group = self._groups.get(due.group_id)
            if group is not None:
                self._over(group, due, now_ms)
        return self._timers.next_ms

    def close(self) -> None:
        """Answer everybody who waits, and let nobody wait any more: they look for their coordinator again."""
        self._closed = True
        for group in self._groups.values():
            for member in group.members.values():
                member.refuse(Code.COORDINATOR_NOT_AVAILABLE)

    # Looking at groups, and deleting them.

    def has_members(self, group_id: str) -> bool:
        """Whether somebody is in the group."""
        group = self._groups.get(group_id)
        return group is not None and group.state is not State.EMPTY

    def live(self) -> set[str]:
        """The groups that somebody is in."""
        return {group_id for group_id in self._groups if self.has_members(group_id)}

    def listed(self) -> Iterator[ListedGroup]:
        """Every group that has, or had, members since the start."""
        for group in self._groups.values():
            if group.generation or group.members:
                yield ListedGroup(
                    group_id=group.group_id, protocol_type=group.protocol_type, state=group.state.value, type=CLASSIC
                )

    def described(self, group_id: str) -> DescribedGroup | None:
        """What is going on in a group, None if nothing is known of it."""
        group = self._groups.get(group_id)
        return None if group is None else group.described()

    def delete(self, group_id: str) -> Code:
        """Forget a group that nobody is in."""
        if self.has_members(group_id):
            return Code.NON_EMPTY_GROUP
        group = self._groups.get(group_id)
        if group is None:
            return Code.GROUP_ID_NOT_FOUND
        self._forget(group)
        return Code.NONE

    def check_forgets(self, group_id: str) -> tuple[Code, frozenset[str]]:
        """Whether committed offsets of a group may be forgotten, and those of which topics may not."""
        group = self._groups.get(group_id)
        if group is None or group.state is State.EMPTY:
            return Code.NONE, frozenset()
        if group.protocol_type != CONSUMER or group.topics is None:
            return Code.NON_EMPTY_GROUP, frozenset()
        return Code.NONE, group.topics

    # How it is done.

    def _check_join(self, request: JoinGroupRequest, group: Group | None) -> Code:
        settings, session_ms = self._settings, request.session_timeout_ms
        if not self._is_valid(request.group_id):
            return Code.INVALID_GROUP_ID
        if not settings.group_min_session_timeout_ms <= session_ms <= settings.group_max_session_timeout_ms:
            return Code.INVALID_SESSION_TIMEOUT
        if len(request.group_instance_id or "") > NAME_LENGTH or len(request.protocol_type) > NAME_LENGTH:
            return Code.INVALID_REQUEST
        if size_of(request.protocols) > settings.max_member_bytes:
            return Code.MESSAGE_TOO_LARGE
        member_id, code = request.member_id, Code.NONE
        if member_id and (group is None or request.group_instance_id is not None or member_id not in group.pending):
            code = Code.UNKNOWN_MEMBER_ID if group is None else group.check_member(member_id, request.group_instance_id)
        elif not member_id and (group is None or request.group_instance_id not in group.instances):
            code = self._check_room(request.group_id, group)
        if code is Code.NONE:
            code = self._check_memory(request, group)
        if code is Code.NONE and not _supports(group, request):
            code = Code.INCONSISTENT_GROUP_PROTOCOL
        return code

    def _check_room(self, group_id: str, group: Group | None) -> Code:
        """Whether there is room for one member more, which may be the first of its group."""
        if group is not None:
            return Code.NONE if group.size < self._settings.group_max_size else Code.GROUP_MAX_SIZE_REACHED
        if len(self._groups) < self._settings.max_groups:
            return Code.NONE
        idle = next((each for each in self._groups.values() if not each.size and each.state is State.EMPTY), None)
        if idle is None:
            logger.warning("group %r is refused: there are %d, max_groups", group_id, self._settings.max_groups)
            return Code.GROUP_MAX_SIZE_REACHED
        self._forget(idle)
        return Code.NONE

    def _check_memory(self, request: JoinGroupRequest, group: Group | None) -> Code:
        """Whether what a member says of itself can be kept."""
        member = None if group is None else group.members.get(request.member_id)
        more, most = size_of(request.protocols), self._settings.max_group_memory_bytes
        if member is not None:
            more -= member.held_bytes
        if more <= 0 or self.held_bytes + more <= most:
            return Code.NONE
        logger.warning(
            "a member of group %r is refused: members take %d bytes of %d, max_group_memory_bytes",
            request.group_id,
            self.held_bytes,
            most,
        )
        return Code.GROUP_MAX_SIZE_REACHED

    def _join_again(
        self, group: Group, member: Member, request: JoinGroupRequest, reply: JoinReply, now_ms: int
    ) -> None:
        same = tuple(request.protocols) == member.protocols
        # A member that says nothing new has missed the answer to its last join. A leader, though, asks for a rebalance:
        # it has seen something that only it looks at, such as a topic with more partitions.
        leads = group.state is State.STABLE and member.member_id == group.leader
        if group.state in (State.COMPLETING, State.STABLE) and same and not leads:
            group.keep_alive(member, now_ms)
            reply(group.joined(member))
            return
        group.update(member, request, reply)
        group.rebalance(now_ms)

    def _assign(self, group: Group, request: SyncGroupRequest, now_ms: int) -> None:
        shares = {each.member_id: each.assignment for each in request.assignments if each.member_id in group.members}
        most = max(map(len, shares.values()), default=0)
        total = sum(map(len, shares.values())) - sum(len(each.assignment) for each in group.members.values())
        if most > self._settings.max_member_bytes or total + self.held_bytes > self._settings.max_group_memory_bytes:
            logger.warning("group %r: an assignment of %d bytes, %d in all, is too large", group.group_id, most, total)
            group.fail_sync(Code.MESSAGE_TOO_LARGE, now_ms)
            return
        group.assign(shares, now_ms)

    def _leave(self, group_id: str, leaving: LeavingMember) -> Code:
        group = self._groups.get(group_id)
        if not self._is_valid(group_id):
            return Code.INVALID_GROUP_ID
        if group is None:
            return Code.UNKNOWN_MEMBER_ID
        now_ms, instance_id = self._now_ms(), leaving.group_instance_id
        if instance_id is None and leaving.member_id in group.pending:
            group.drop_pending(leaving.member_id, now_ms)
            self._forget_unused(group)
            return Code.NONE
        # An operator removes a static member by its name alone.
        member_id = leaving.member_id or group.instances.get(instance_id or "", "")
        code = group.check_member(member_id, instance_id)
        if code is Code.NONE:
            group.remove(group.members[member_id], now_ms)
        return code

    def _member(
        self, group_id: str, member_id: str, instance_id: str | None, generation: int
    ) -> tuple[Group | None, Member | None, Code]:
        """The group and the member, if it is one, and of this generation."""
        if not self._is_valid(group_id):
            return None, None, Code.INVALID_GROUP_ID
        group = self._groups.get(group_id)
        if group is None:
            return None, None, Code.UNKNOWN_MEMBER_ID
        code = group.check_member(member_id, instance_id)
        if code is Code.NONE and generation != group.generation:
            code = Code.ILLEGAL_GENERATION
        return group, group.members.get(member_id), code

    def _over(self, group: Group, due: Deadline, now_ms: int) -> None:
        """What *due* stands for is over."""
        if due.kind == "session":
            member = group.members.get(due.member_id)
            # Who waits for an answer cannot say anything; its session goes on with the answer.
            waits = member is not None and (member.joining is not None or member.syncing is not None)
            if member is not None and (member.is_new or not waits):
                logger.info("group %r: member %r was not heard of for too long", group.group_id, due.member_id)
                group.remove(member, now_ms)
        elif due.kind == "pending":
            group.drop_pending(due.member_id, now_ms)
            self._forget_unused(group)
        elif due.kind == "rebalance":
            group.rebalance_over(now_ms)
        elif due.kind == "sync":
            group.sync_over(now_ms)
        elif not group.size and group.state is State.EMPTY:
            self._forget(group)

    def _forget_unused(self, group: Group) -> None:
        if not group.size and not group.generation and group.state is State.EMPTY:
            self._forget(group)

    def _forget(self, group: Group) -> None:
        for member_id in list(group.pending):
            group.drop_pending(member_id, self._now_ms())
        self._timers.cancel(Deadline(group.group_id, "empty"))
        del self._groups[group.group_id]

    def _new_id(self, name: str) -> str:
        return f"{name[:NAME_LENGTH]}-{self._random.token(16).hex()}"

    def _is_valid(self, group_id: str) -> bool:
        return bool(group_id) and self._is_storable(group_id)

    def _is_storable(self, group_id: str) -> bool:
        # Offsets may be committed for the group without a name, as old clients do.
        return len(group_id.encode()) <= self._settings.max_group_id_bytes


def _supports(group: Group | None, request: JoinGroupRequest) -> bool:
    if group is None:
        return bool(request.protocol_type) and bool(request.protocols)
    return group.supports(request.protocol_type, request.protocols)


def _names_protocol(request: SyncGroupRequest, group: Group) -> bool:
    """Whether the member means the protocol that was chosen; before version 5 it does not say."""
    return request.protocol_type in (None, group.protocol_type) and request.protocol_name in (None, group.protocol)
