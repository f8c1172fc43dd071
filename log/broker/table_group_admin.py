"""The table, part three: looking at groups, and what consumers tell each other through them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from framework.log.broker.schema import Struct, i16, i32

NOT_SAID = -(1 << 31)
"""Operations that somebody is allowed, where nobody has asked for them or nothing is forbidden."""


class DescribeGroupsRequest(Struct):
    """What is going on in these groups?"""

    groups: Sequence[str]
    include_authorized_operations: Annotated[bool, "3+"] = False


class DescribedMember(Struct):
    """A member, with what it said in joining and what it was given: see `Subscription` and `Assignment`."""

    member_id: str
    group_instance_id: Annotated[str | None, "4+"] = None
    client_id: str
    client_host: str
    metadata: bytes
    assignment: bytes


class DescribedGroup(Struct):
    """A group: `protocol` is the way of assigning that it has chosen."""

    error_code: i16 = 0
    group_id: str
    state: str = ""
    protocol_type: str = ""
    protocol: str = ""
    members: Sequence[DescribedMember] = ()
    authorized_operations: Annotated[i32, "3+"] = NOT_SAID


class DescribeGroupsResponse(Struct):
    """What is going on in them."""

    throttle_time_ms: Annotated[i32, "1+"] = 0
    groups: Sequence[DescribedGroup]


class ListGroupsRequest(Struct):
    """Which groups are there, in these states and of these types; without any, all?"""

    states_filter: Annotated[Sequence[str], "4+"] = ()
    types_filter: Annotated[Sequence[str], "5+"] = ()


class ListedGroup(Struct):
    """A group."""

    group_id: str
    protocol_type: str
    state: Annotated[str, "4+"] = ""
    type: Annotated[str, "5+"] = ""


class ListGroupsResponse(Struct):
    """The groups."""

    throttle_time_ms: Annotated[i32, "1+"] = 0
    error_code: i16 = 0
    groups: Sequence[ListedGroup]


class DeleteGroupsRequest(Struct):
    """Forget these groups."""

    groups: Sequence[str]


class DeletedGroup(Struct):
    """Whether one is forgotten."""

    group_id: str
    error_code: i16 = 0


class DeleteGroupsResponse(Struct):
    """Whether they are forgotten."""

    throttle_time_ms: i32 = 0
    groups: Sequence[DeletedGroup]


# What members of a group whose protocol type is `consumer` say of themselves, and what their leader gives them: bytes
# to the broker, which only looks into them to describe a group.


class TopicPartitions(Struct):
    """Partitions of one topic."""

    topic: str
    partitions: Sequence[i32]


class Subscription(Struct):
    """What a consumer wants to read, and what it has."""

    topics: Sequence[str]
    user_data: bytes | None = None
    owned_partitions: Annotated[Sequence[TopicPartitions], "1+"] = ()
    generation_id: Annotated[i32, "2+"] = -1
    rack_id: Annotated[str | None, "3+"] = None


class Assignment(Struct):
    """What a consumer is to read."""

    partitions: Sequence[TopicPartitions]
    user_data: bytes | None = None
