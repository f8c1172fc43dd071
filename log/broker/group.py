"""One consumer group: who is in it, and how it comes from one generation to the next.

    Empty -- a member joins --> PreparingRebalance -- everybody has joined, or the time is over --> CompletingRebalance
    CompletingRebalance -- the leader says who gets what --> Stable
    PreparingRebalance -- nobody is left --> Empty
    CompletingRebalance, Stable -- somebody joins anew, leaves or is not heard of any more --> PreparingRebalance

No sockets and no clock: the time is passed in, deadlines are noted in `Timers`, and answers go through the callbacks
that came with the requests. Each of them is called once. They must not call the group back.

- A member waits in `joining` from its JoinGroup until the generation is made, and in `syncing` from its SyncGroup until
  the leader's has come. Whatever ends the wait answers it: the generation, its end, or the end of the member.
- A member that waits is not silent, so its session does not run; that of one that is new does, so that the group is
  not kept from its rebalance by somebody who has never been in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

from framework.log.broker.codes import Code
from framework.log.broker.group_settings import GroupSettings
from framework.log.broker.member import MEMBER_BYTES, Deadline, JoinReply, Member, Memory, size_of
from framework.log.broker.requests import decode_subscription
from framework.log.broker.table_group_admin import DescribedGroup, DescribedMember
from framework.log.broker.table_groups import (
    JoinedMember,
    JoinGroupRequest,
    JoinGroupResponse,
    JoinProtocol,
    SyncGroupResponse,
)
from framework.log.broker.timers import Timers
from framework.log.errors import MalformedFrame

CONSUMER = "consumer"
"""The protocol type of consumers, whose subscriptions can be read."""


class State(StrEnum):
    """The states of a group, in Kafka's words."""

    EMPTY = "Empty"
    PREPARING = "PreparingRebalance"
    COMPLETING = "CompletingRebalance"
    STABLE = "Stable"


class Group:
    """One group; see above."""

    def __init__(self, group_id: str, settings: GroupSettings, timers: Timers[Deadline], memory: Memory) -> None:
        """Nobody is in it."""
        self.group_id = group_id
        self.state, self.generation = State.EMPTY, 0
        self.protocol_type, self.protocol, self.leader = "", "", ""
        self.members: dict[str, Member] = {}
        self.instances: dict[str, str] = {}
        """The id of the member that each static member is just now."""
        self.pending: set[str] = set()
        """Ids that were given, and have not joined yet."""
        self.unsynced: set[str] = set()
        self.topics: frozenset[str] | None = frozenset()
        """What the members subscribe to; None where that cannot be read."""
        self._settings, self._timers, self._memory = settings, timers, memory
        self._supporters: Counter[str] = Counter()
        """How many members have each protocol."""
        self._delay_left_ms: int | None = None
        """While a group that was empty waits for more members: for how much longer it may."""
        self._has_grown = False

    # Members.

    @property
    def size(self) -> int:
        """How many members there are, or may be soon."""
        return len(self.members) + len(self.pending)

    def check_member(self, member_id: str, instance_id: str | None) -> Code:
        """Whether there is a member of this id, and if it is static, whether that is not somebody else by now."""
        if instance_id is not None:
            current = self.instances.get(instance_id)
            if current is None:
                return Code.UNKNOWN_MEMBER_ID
            if current != member_id:
                return Code.FENCED_INSTANCE_ID
        return Code.NONE if member_id in self.members else Code.UNKNOWN_MEMBER_ID

    def supports(self, protocol_type: str, protocols: Sequence[JoinProtocol]) -> bool:
        """Whether somebody with these *protocols* may join: there must be one that all members have."""
        if not self.members:
            return bool(protocol_type) and bool(protocols)
        everybody = len(self.members)
        return protocol_type == self.protocol_type and any(
            self._supporters[each.name] == everybody for each in protocols
        )

    def add_pending(self, member_id: str, session_timeout_ms: int, now_ms: int) -> None:
        """Expect a member with this id."""
        self.pending.add(member_id)
        self._memory.held_bytes += MEMBER_BYTES
        self._timers.set(Deadline(self.group_id, "pending", member_id), now_ms + session_timeout_ms)

    def drop_pending(self, member_id: str, now_ms: int) -> None:
        """Do not expect it any longer."""
        self._end_pending(member_id)
        self.try_complete_join(now_ms)

    def _end_pending(self, member_id: str) -> None:
        if member_id in self.pending:
            self.pending.remove(member_id)
            self._memory.held_bytes -= MEMBER_BYTES
            self._timers.cancel(Deadline(self.group_id, "pending", member_id))

    def add(self, member: Member, now_ms: int) -> None:
        """Let in a member that waits for its join to be answered."""
        if not self.members:
            self.protocol_type, self.leader = "", member.member_id
        self.members[member.member_id] = member
        if member.instance_id is not None:
            self.instances[member.instance_id] = member.member_id
        self._end_pending(member.member_id)
        self._timers.set(self._session(member), now_ms + self._settings.new_member_join_timeout_ms)
        self._has_grown = True

    def update(self, member: Member, request: JoinGroupRequest, reply: JoinReply) -> None:
        """Take over what *member* says in joining; *reply* waits, and one that waited before is given up."""
        member.answer_join(JoinGroupResponse(error_code=Code.REBALANCE_IN_PROGRESS, member_id=member.member_id))
        member.joining = reply
        self._say(member, request)

    def _say(self, member: Member, request: JoinGroupRequest) -> None:
        """Take over what *member* says of itself."""
        self._supporters.subtract(_names(member))
        member.protocols = tuple(request.protocols)
        self._supporters.update(_names(member))
        member.session_timeout_ms = request.session_timeout_ms
        # Version 0 has none: there, the session is both.
        wanted_ms = request.rebalance_timeout_ms if request.rebalance_timeout_ms >= 0 else request.session_timeout_ms
        member.rebalance_timeout_ms = max(wanted_ms, self._settings.min_rebalance_timeout_ms)
        self.protocol_type = self.protocol_type or request.protocol_type
        self._weigh(member)

    def come_back(
        self, member_id: str, request: JoinGroupRequest, reply: JoinReply, now_ms: int, *, may_skip: bool
    ) -> None:
        """A static member was started anew, under another id: it keeps its share, unless the protocol changes with it.

        *may_skip* says that it can be told to assign nothing, should it be the leader.
        """
        assert request.group_instance_id is not None, "only static members come back"
        old_id = self.instances[request.group_instance_id]
        member, led = self.members[old_id], old_id == self.leader
        self._replace(member, member_id)
        self._say(member, request)
        if self.state is not State.STABLE or self._choose_protocol() != self.protocol:
            member.joining = reply
            self.rebalance(now_ms)
            return
        self.keep_alive(member, now_ms)
        skips = led and may_skip
        # Who leads assigns, so before there was a way to say that there is nothing to assign, the old id is named.
        reply(self.joined(member, old_id if led and not skips else self.leader, skip_assignment=skips))

    def _replace(self, member: Member, member_id: str) -> None:
        """Let the static *member* go on under another id: who has the old one is fenced."""
        old_id = member.member_id
        member.refuse(Code.FENCED_INSTANCE_ID)
        self._timers.cancel(self._session(member))
        del self.members[old_id]
        member.member_id = member_id
        self.members[member_id] = member
        assert member.instance_id is not None, "only static members come back under another id"
        self.instances[member.instance_id] = member_id
        if self.leader == old_id:
            self.leader = member_id
        if old_id in self.unsynced:
            self.unsynced.remove(old_id)
            self.unsynced.add(member_id)

    def remove(self, member: Member, now_ms: int) -> None:
        """Do without *member*; whatever it waits for is answered."""
        self._drop(member)
        if self.state in (State.STABLE, State.COMPLETING):
            self._prepare_rebalance(now_ms)
        self.try_complete_join(now_ms)

    def keep_alive(self, member: Member, now_ms: int) -> None:
        """The session of *member* begins anew."""
        self._timers.set(self._session(member), now_ms + member.session_timeout_ms)

    def _drop(self, member: Member) -> None:
        self._timers.cancel(self._session(member))
        del self.members[member.member_id]
        self._supporters.subtract(_names(member))
        self._supporters = +self._supporters  # Without those that nobody has any more.
        if member.instance_id is not None:
            del self.instances[member.instance_id]
        self.unsynced.discard(member.member_id)
        if self.leader == member.member_id:
            self.leader = next(iter(self.members), "")
        self._memory.held_bytes -= member.held_bytes
        member.refuse(Code.UNKNOWN_MEMBER_ID)

    def _weigh(self, member: Member) -> None:
        size = size_of(member.protocols) + len(member.assignment)
        self._memory.held_bytes += size - member.held_bytes
        member.held_bytes = size

    def _session(self, member: Member) -> Deadline:
        return Deadline(self.group_id, "session", member.member_id)

    # From one generation to the next.

    def rebalance(self, now_ms: int) -> None:
        """Somebody has joined: make the next generation as soon as everybody has."""
        if self.state is not State.PREPARING:
            self._prepare_rebalance(now_ms)
        self.try_complete_join(now_ms)

    def _prepare_rebalance(self, now_ms: int) -> None:
        """Wait until every member has joined anew."""
        assert self.state is not State.PREPARING, "it waits already"
        if self.state is State.COMPLETING:
            self._refuse_syncs(Code.REBALANCE_IN_PROGRESS, now_ms)
        delay_ms, timeout_ms = self._settings.group_initial_rebalance_delay_ms, self._rebalance_timeout_ms()
        if self.state is State.EMPTY and delay_ms:
            timeout_ms, self._delay_left_ms = delay_ms, max(timeout_ms - delay_ms, 0)
            self._has_grown = False
        self.state = State.PREPARING
        self.unsynced.clear()
        self._timers.cancel(Deadline(self.group_id, "sync"))
        self._timers.cancel(Deadline(self.group_id, "empty"))
        self._timers.set(Deadline(self.group_id, "rebalance"), now_ms + timeout_ms)

    def try_complete_join(self, now_ms: int) -> None:
        """Make the next generation, if it is being prepared and nobody is missing."""
        if self.state is not State.PREPARING or self.pending or self._delay_left_ms is not None:
            return
        if all(member.joining is not None for member in self.members.values()):
            self._complete_join(now_ms)

    def rebalance_over(self, now_ms: int) -> None:
        """The time for joining is over: a new group may wait for more, others go on with those that have joined."""
        assert self.state is State.PREPARING, "its deadline is cancelled with it"
        if self._delay_left_ms and self._has_grown:
            more_ms = min(self._settings.group_initial_rebalance_delay_ms, self._delay_left_ms)
            self._delay_left_ms -= more_ms
            self._has_grown = False
            self._timers.set(Deadline(self.group_id, "rebalance"), now_ms + more_ms)
            return
        self._complete_join(now_ms)

    def _complete_join(self, now_ms: int) -> None:
        """A generation of those who have joined. Static members may be away for as long as their session says."""
        self._delay_left_ms = None
        for member in [each for each in self.members.values() if each.joining is None and each.instance_id is None]:
            self._drop(member)
        there = [member for member in self.members.values() if member.joining is not None]
        if self.members and not there:
            self._timers.set(Deadline(self.group_id, "rebalance"), now_ms + self._rebalance_timeout_ms())
            return
        self._timers.cancel(Deadline(self.group_id, "rebalance"))
        self.generation += 1
        if not there:
            self.state, self.protocol, self.topics = State.EMPTY, "", frozenset()
            self._timers.set(Deadline(self.group_id, "empty"), now_ms + self._settings.offsets_retention_ms)
            return
        if self.members[self.leader].joining is None:
            self.leader = there[0].member_id
        self.protocol, self.state = self._choose_protocol(), State.COMPLETING
        self.topics = self._subscribed()
        self.unsynced = set(self.members)
        self._timers.set(Deadline(self.group_id, "sync"), now_ms + self._rebalance_timeout_ms())
        for member in there:
            member.is_new = False
            self.keep_alive(member, now_ms)
            member.answer_join(self.joined(member))

    def joined(self, member: Member, leader: str | None = None, *, skip_assignment: bool = False) -> JoinGroupResponse:
        """The generation as *member* is told of it; the leader is told who is in it."""
        leader = leader or self.leader
        return JoinGroupResponse(
            generation_id=self.generation,
            protocol_type=self.protocol_type,
            protocol_name=self.protocol,
            leader=leader,
            skip_assignment=skip_assignment,
            member_id=member.member_id,
            members=self._all_joined() if member.member_id == leader else (),
        )

    def _all_joined(self) -> tuple[JoinedMember, ...]:
        """Everybody, as the leader has to know them."""
        return tuple(
            JoinedMember(
                member_id=each.member_id, group_instance_id=each.instance_id, metadata=each.metadata(self.protocol)
            )
            for each in self.members.values()
        )

    def assign(self, assignments: dict[str, bytes], now_ms: int) -> None:
        """What the leader gives to each member; nothing to those that it does not name."""
        self.state = State.STABLE
        for member in self.members.values():
            member.assignment = assignments.get(member.member_id, b"")
            self._weigh(member)
        for member in [each for each in self.members.values() if each.syncing is not None]:
            self.keep_alive(member, now_ms)
            member.answer_sync(self.synced(member))

    def synced(self, member: Member) -> SyncGroupResponse:
        """The share of *member*."""
        return SyncGroupResponse(
            protocol_type=self.protocol_type, protocol_name=self.protocol, assignment=member.assignment
        )

    def has_asked(self, member: Member) -> None:
        """Do not wait for *member* to ask for its share any more."""
        self.unsynced.discard(member.member_id)
        if not self.unsynced:
            self._timers.cancel(Deadline(self.group_id, "sync"))

    def sync_over(self, now_ms: int) -> None:
        """The time for asking for a share is over: who has not, is not there."""
        for member in [self.members[each] for each in sorted(self.unsynced)]:
            self._drop(member)
        self._prepare_rebalance(now_ms)
        self.try_complete_join(now_ms)

    def fail_sync(self, code: Code, now_ms: int) -> None:
        """The leader's shares cannot be had: everybody is told *code*, and joins anew."""
        self._refuse_syncs(code, now_ms)
        self._prepare_rebalance(now_ms)

    def _refuse_syncs(self, code: Code, now_ms: int) -> None:
        for member in [each for each in self.members.values() if each.syncing is not None]:
            self.keep_alive(member, now_ms)
            member.answer_sync(SyncGroupResponse(error_code=code))

    def _rebalance_timeout_ms(self) -> int:
        return max((member.rebalance_timeout_ms for member in self.members.values()), default=0)

    # What members agree on.

    def _choose_protocol(self) -> str:
        """Each member votes for the first of its own that all have; of as many votes, the first member's counts."""
        everybody, votes = len(self.members), dict[str, int]()
        for member in self.members.values():
            choice = next(each.name for each in member.protocols if self._supporters[each.name] == everybody)
            votes[choice] = votes.get(choice, 0) + 1
        return max(votes, key=lambda name: votes[name])

    def _subscribed(self) -> frozenset[str] | None:
        if self.protocol_type != CONSUMER:
            return None
        try:
            subscriptions = [decode_subscription(each.metadata(self.protocol)) for each in self.members.values()]
        except MalformedFrame:
            return None
        return frozenset(topic for subscription in subscriptions for topic in subscription.topics)

    def described(self) -> DescribedGroup:
        """What is going on; who has what is known only while the group is stable."""
        stable = self.state is State.STABLE
        members = [
            DescribedMember(
                member_id=each.member_id,
                group_instance_id=each.instance_id,
                client_id=each.client_id,
                client_host=each.client_host,
                metadata=each.metadata(self.protocol) if stable else b"",
                assignment=each.assignment if stable else b"",
            )
            for each in self.members.values()
        ]
        return DescribedGroup(
            group_id=self.group_id,
            state=self.state.value,
            protocol_type=self.protocol_type,
            protocol=self.protocol if stable else "",
            members=members,
        )


def _names(member: Member) -> set[str]:
    return {each.name for each in member.protocols}
