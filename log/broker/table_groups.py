"""The table, part two: consumer groups and their offsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from framework.log.broker.schema import Struct, i8, i16, i32, i64, prose

# FindCoordinator.


class FindCoordinatorRequest(Struct):
    """Which broker keeps a group (key type 0), or a transactional id (1)? One key, or from version 4 several."""

    key: Annotated[str, "0-3"] = ""
    key_type: Annotated[i8, "1+"] = 0
    coordinator_keys: Annotated[Sequence[str], "4+"] = ()


class Coordinator(Struct):
    """Who keeps one key."""

    key: str
    node_id: i32
    host: str
    port: i32
    error_code: i16 = 0
    error_message: prose | None = None


class FindCoordinatorResponse(Struct):
    """Who keeps the key, or from version 4 the keys."""

    throttle_time_ms: Annotated[i32, "1+"] = 0
    error_code: Annotated[i16, "0-3"] = 0
    error_message: Annotated[prose | None, "1-3"] = None
    node_id: Annotated[i32, "0-3"] = -1
    host: Annotated[str, "0-3"] = ""
    port: Annotated[i32, "0-3"] = -1
    coordinators: Annotated[Sequence[Coordinator], "4+"] = ()


# Membership.


class JoinProtocol(Struct):
    """A way of assigning that a member knows, and what it says about itself in it."""

    name: str
    metadata: bytes


class JoinGroupRequest(Struct):
    """Let me in, or let me stay in, as the group is spread anew."""

    group_id: str
    session_timeout_ms: i32
    rebalance_timeout_ms: Annotated[i32, "1+"] = -1
    member_id: str
    group_instance_id: Annotated[str | None, "5+"] = None
    protocol_type: str
    protocols: Sequence[JoinProtocol]
    reason: Annotated[str | None, "8+"] = None


class JoinedMember(Struct):
    """A member, as the leader is told about it."""

    member_id: str
    group_instance_id: Annotated[str | None, "5+"] = None
    metadata: bytes


class JoinGroupResponse(Struct):
    """The generation, and for the leader who is in it."""

    throttle_time_ms: Annotated[i32, "2+"] = 0
    error_code: i16 = 0
    generation_id: i32 = -1
    protocol_type: Annotated[str | None, "7+"] = None
    protocol_name: Annotated[str | None, "0+ null 7+"] = ""
    leader: str = ""
    skip_assignment: Annotated[bool, "9+"] = False
    member_id: str
    members: Sequence[JoinedMember] = ()


class SyncAssignment(Struct):
    """What the leader gives to a member."""

    member_id: str
    assignment: bytes


class SyncGroupRequest(Struct):
    """Tell me what is mine; from the leader, with everybody's share."""

    group_id: str
    generation_id: i32
    member_id: str
    group_instance_id: Annotated[str | None, "3+"] = None
    protocol_type: Annotated[str | None, "5+"] = None
    protocol_name: Annotated[str | None, "5+"] = None
    assignments: Sequence[SyncAssignment]


class SyncGroupResponse(Struct):
    """What is the member's."""

    throttle_time_ms: Annotated[i32, "1+"] = 0
    error_code: i16 = 0
    protocol_type: Annotated[str | None, "5+"] = None
    protocol_name: Annotated[str | None, "5+"] = None
    assignment: bytes = b""


class HeartbeatRequest(Struct):
    """I am still here."""

    group_id: str
    generation_id: i32
    member_id: str
    group_instance_id: Annotated[str | None, "3+"] = None


class HeartbeatResponse(Struct):
    """Whether the member has to join again."""

    throttle_time_ms: Annotated[i32, "1+"] = 0
    error_code: i16 = 0


class LeavingMember(Struct):
    """Who goes, and why."""

    member_id: str
    group_instance_id: str | None = None
    reason: Annotated[str | None, "5+"] = None


class LeaveGroupRequest(Struct):
    """I leave; from version 3 on, these leave."""

    group_id: str
    member_id: Annotated[str, "0-2"] = ""
    members: Annotated[Sequence[LeavingMember], "3+"] = ()


class LeftMember(Struct):
    """Whether one has left."""

    member_id: str
    group_instance_id: str | None = None
    error_code: i16 = 0


class LeaveGroupResponse(Struct):
    """Whether they have left."""

    throttle_time_ms: Annotated[i32, "1+"] = 0
    error_code: i16 = 0
    members: Annotated[Sequence[LeftMember], "3+"] = ()


# Committed offsets.


class CommitPartition(Struct):
    """How far one partition has been read: `committed_offset` is the next to read."""

    index: i32
    committed_offset: i64
    committed_leader_epoch: Annotated[i32, "6+"] = -1
    committed_metadata: str | None = ""


class CommitTopic(Struct):
    """How far one topic has been read."""

    name: str
    partitions: Sequence[CommitPartition]


class OffsetCommitRequest(Struct):
    """Remember how far the group has read."""

    group_id: str
    generation_id: Annotated[i32, "1+"] = -1
    member_id: Annotated[str, "1+"] = ""
    group_instance_id: Annotated[str | None, "7+"] = None
    retention_time_ms: Annotated[i64, "2-4"] = -1
    topics: Sequence[CommitTopic]


class CommittedPartition(Struct):
    """Whether that is remembered for one partition."""

    index: i32
    error_code: i16 = 0


class CommittedTopic(Struct):
    """Whether that is remembered for one topic."""

    name: str
    partitions: Sequence[CommittedPartition]


class OffsetCommitResponse(Struct):
    """Whether that is remembered."""

    throttle_time_ms: Annotated[i32, "3+"] = 0
    topics: Sequence[CommittedTopic]


class OffsetFetchTopic(Struct):
    """The partitions of one topic that are asked about."""

    name: str
    partitions: Sequence[i32]


class OffsetFetchGroup(Struct):
    """A group that is asked about; topics of null are all."""

    group_id: str
    member_id: Annotated[str | None, "9+"] = None
    member_epoch: Annotated[i32, "9+"] = -1
    topics: Sequence[OffsetFetchTopic] | None


class OffsetFetchRequest(Struct):
    """How far has a group read? From version 8 on, several groups."""

    group_id: Annotated[str, "0-7"] = ""
    topics: Annotated[Sequence[OffsetFetchTopic] | None, "0-7 null 2-7"] = ()
    groups: Annotated[Sequence[OffsetFetchGroup], "8+"] = ()
    require_stable: Annotated[bool, "7+"] = False


class OffsetFetchedPartition(Struct):
    """How far one partition has been read; -1 where nothing was committed."""

    index: i32
    committed_offset: i64 = -1
    committed_leader_epoch: Annotated[i32, "5+"] = -1
    metadata: str | None = ""
    error_code: i16 = 0


class OffsetFetchedTopic(Struct):
    """How far one topic has been read."""

    name: str
    partitions: Sequence[OffsetFetchedPartition]


class OffsetFetchedGroup(Struct):
    """How far one group has read."""

    group_id: str
    topics: Sequence[OffsetFetchedTopic]
    error_code: i16 = 0


class OffsetFetchResponse(Struct):
    """How far the group has read, or from version 8 on the groups."""

    throttle_time_ms: Annotated[i32, "3+"] = 0
    topics: Annotated[Sequence[OffsetFetchedTopic], "0-7"] = ()
    error_code: Annotated[i16, "2-7"] = 0
    groups: Annotated[Sequence[OffsetFetchedGroup], "8+"] = ()


class OffsetDeletePartition(Struct):
    """One partition to forget."""

    index: i32


class OffsetDeleteTopic(Struct):
    """The partitions of one topic to forget."""

    name: str
    partitions: Sequence[OffsetDeletePartition]


class OffsetDeleteRequest(Struct):
    """Forget how far the group has read there."""

    group_id: str
    topics: Sequence[OffsetDeleteTopic]


class OffsetDeletedPartition(Struct):
    """Whether one partition is forgotten."""

    index: i32
    error_code: i16 = 0


class OffsetDeletedTopic(Struct):
    """Whether one topic is forgotten."""

    name: str
    partitions: Sequence[OffsetDeletedPartition]


class OffsetDeleteResponse(Struct):
    """Whether that is forgotten."""

    error_code: i16 = 0
    throttle_time_ms: i32 = 0
    topics: Sequence[OffsetDeletedTopic] = ()
