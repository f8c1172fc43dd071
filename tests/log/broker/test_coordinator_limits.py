"""What groups may take, who may commit for them, and what is told of them."""

from __future__ import annotations

from typing import Any

import pytest

from framework.log.broker import Code, encode_blob
from framework.log.broker.group_settings import GroupSettings
from framework.log.broker.table_group_admin import Subscription
from framework.log.errors import InvalidSetting
from tests.log.broker.members import GROUP, SESSION_MS, Hall


@pytest.fixture
def hall() -> Hall:
    """A coordinator without groups."""
    return Hall()


def test_a_group_has_so_many_members_and_no_more() -> None:
    hall = Hall(group_max_size=2)
    first = hall.settle()[0]
    told = hall.join().now
    assert told.error_code == Code.MEMBER_ID_REQUIRED
    assert hall.join(version=0).now.error_code == Code.GROUP_MAX_SIZE_REACHED
    joining = hall.join(told.member_id)
    assert hall.join(first).now.generation_id == joining.now.generation_id == 2


def test_there_are_so_many_groups_and_no_more_and_empty_ones_make_room() -> None:
    hall = Hall(max_groups=2)
    member = hall.settle()[0]
    hall.join(version=0, group="b")
    assert hall.join(version=0, group="c").now.error_code == Code.GROUP_MAX_SIZE_REACHED
    hall.leave(member)
    assert hall.join(version=0, group="c").now.error_code == Code.NONE
    assert sorted(each.group_id for each in hall.coordinator.listed()) == ["b", "c"]


def test_what_members_say_takes_so_many_bytes_and_no_more() -> None:
    hall = Hall(max_member_bytes=10_000, max_group_memory_bytes=25_000)
    assert hall.join(metadata=bytes(10_000)).now.error_code == Code.MESSAGE_TOO_LARGE
    joins = [hall.join(version=0, group=str(at), metadata=bytes(8_000)) for at in range(3)]
    assert [each.now.error_code for each in joins] == [Code.NONE, Code.NONE, Code.GROUP_MAX_SIZE_REACHED]
    first = joins[0].now.member_id
    assert hall.join(first, group="0", metadata=bytes(8_100)).now.error_code == Code.NONE
    hall.after(SESSION_MS)
    assert hall.coordinator.held_bytes == 0


def test_an_assignment_that_is_too_large_is_refused_to_everybody() -> None:
    hall = Hall(max_member_bytes=10_000)
    leader, follower = hall.settle(2)
    hall.join(leader)
    hall.join(follower)
    waiting = hall.sync(follower, 3)
    assert hall.sync(leader, 3, {follower: bytes(10_001)}).now.error_code == Code.MESSAGE_TOO_LARGE
    assert (waiting.now.error_code, hall.state()) == (Code.MESSAGE_TOO_LARGE, "PreparingRebalance")


def test_ids_that_are_only_given_out_are_bounded_too() -> None:
    hall = Hall(group_max_size=10)
    codes = [hall.join().now.error_code for _ in range(12)]
    assert codes == [Code.MEMBER_ID_REQUIRED] * 10 + [Code.GROUP_MAX_SIZE_REACHED] * 2


def test_who_waits_when_the_broker_ends_is_answered(hall: Hall) -> None:
    first, _ = hall.settle(2)
    waiting = hall.join(first)
    hall.coordinator.close()
    assert waiting.now.error_code == Code.COORDINATOR_NOT_AVAILABLE
    assert hall.join(version=0).now.error_code == Code.COORDINATOR_NOT_AVAILABLE
    assert hall.sync(first, 2).now.error_code == Code.COORDINATOR_NOT_AVAILABLE


@pytest.mark.parametrize(
    "options",
    [
        {"group_max_size": 0},
        {"max_groups": -1},
        {"offsets_retention_ms": 1.5},
        {"group_min_session_timeout_ms": 2_000_000},
        {"min_rebalance_timeout_ms": True},
    ],
)
def test_a_limit_out_of_its_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(options))):
        GroupSettings(**options)


# Committing, describing and deleting.


def test_without_members_everybody_may_commit_and_with_members_only_they(hall: Hall) -> None:
    assert hall.check_commit() == Code.NONE
    member = hall.settle()[0]
    assert hall.check_commit() == hall.check_commit("somebody", 1) == Code.UNKNOWN_MEMBER_ID
    assert hall.check_commit(member, 1) == Code.NONE
    hall.leave(member)
    assert hall.check_commit() == Code.NONE
    assert hall.check_commit(member, 1) == Code.UNKNOWN_MEMBER_ID


def test_a_stable_group_is_described_with_what_members_said_and_were_given(hall: Hall) -> None:
    first, second = hall.settle(2)
    group = hall.coordinator.described(GROUP)
    assert group is not None
    assert (group.state, group.protocol_type, group.protocol) == ("Stable", "consumer", "range")
    said = encode_blob(Subscription(topics=["flights"]), 0)
    shown = [
        (each.member_id, each.client_id, each.client_host, each.metadata, each.assignment) for each in group.members
    ]
    assert shown == [(each, "client", "127.0.0.1", said, each.encode()) for each in (first, second)]
    hall.join(version=0)
    group = hall.coordinator.described(GROUP)
    assert group is not None
    assert (group.state, group.protocol, len(group.members)) == ("PreparingRebalance", "", 3)
    assert {each.assignment for each in group.members} == {b""}


def test_only_a_group_without_members_is_deleted(hall: Hall) -> None:
    assert hall.coordinator.delete(GROUP) == Code.GROUP_ID_NOT_FOUND
    member = hall.settle()[0]
    assert hall.coordinator.delete(GROUP) == Code.NON_EMPTY_GROUP
    hall.leave(member)
    pending = hall.join().now.member_id
    assert hall.coordinator.delete(GROUP) == Code.NONE
    assert (hall.state(), hall.coordinator.held_bytes) == ("Dead", 0)
    assert hall.join(pending).now.error_code == Code.UNKNOWN_MEMBER_ID


def test_offsets_of_topics_that_members_subscribe_to_are_kept(hall: Hall) -> None:
    assert hall.coordinator.check_forgets(GROUP) == (Code.NONE, frozenset())
    hall.settle(2, topics=["flights", "gates"])
    assert hall.coordinator.check_forgets(GROUP) == (Code.NONE, frozenset({"flights", "gates"}))
    other = Hall()
    other.settle(metadata=b"?")
    assert other.coordinator.check_forgets(GROUP)[0] == Code.NON_EMPTY_GROUP
