"""The handlers of groups: requests as clients send them, on a real log, to answers that can be encoded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from framework.log import Log
from framework.log.broker import APIS, Code, decode_assignment, decode_subscription
from framework.log.broker.table_group_admin import DeleteGroupsRequest, DescribeGroupsRequest, ListGroupsRequest
from framework.log.broker.table_groups import (
    FindCoordinatorRequest,
    HeartbeatRequest,
    JoinGroupRequest,
    JoinProtocol,
    LeaveGroupRequest,
    LeavingMember,
    OffsetDeletePartition,
    OffsetDeleteRequest,
    OffsetDeleteTopic,
    OffsetFetchGroup,
    OffsetFetchRequest,
    OffsetFetchTopic,
)
from framework.log.errors import Error
from tests.log.broker.office import Office, Slow, StillClock

DAY_MS = 86_400_000


@pytest.fixture
def clock() -> StillClock:
    """The time."""
    return StillClock()


@pytest.fixture
def log(tmp_path: Path, clock: StillClock) -> Iterator[Log]:
    """An empty log."""
    with Log(tmp_path / "data", create=True, clock=clock) as opened:
        yield opened


@pytest.fixture
def office(log: Log, clock: StillClock) -> Office:
    """Handlers with a store in memory."""
    return Office(log, clock)


def test_every_api_of_groups_has_a_handler(office: Office) -> None:
    groups = {api.name for api in APIS.values() if api.served and ("Group" in api.name or "OffsetC" in api.name)}
    assert office.handlers.table.keys() == groups | {"FindCoordinator", "Heartbeat", "OffsetFetch", "OffsetDelete"}


def test_the_broker_is_the_coordinator_of_every_group_and_of_nothing_else(office: Office) -> None:
    one = office.ask(FindCoordinatorRequest(key="readers"), 3)
    assert (one.error_code, one.node_id, one.host, one.port) == (Code.NONE, 1, "127.0.0.1", 9092)
    several = office.ask(FindCoordinatorRequest(coordinator_keys=["a", "b"]))
    assert [(each.key, each.node_id, each.error_code) for each in several.coordinators] == [("a", 1, 0), ("b", 1, 0)]
    other = office.ask(FindCoordinatorRequest(key="transaction", key_type=1), 3)
    assert (other.error_code, other.node_id) == (Code.INVALID_REQUEST, -1)
    assert other.error_message == "there are only groups, key type 0, not 1"


# Offsets.


async def test_an_offset_comes_back_with_its_metadata_and_epoch(office: Office) -> None:
    assert await office.codes(("flights", 1, 7), metadata="so far") == [Code.NONE]
    response = await office.ask(
        OffsetFetchRequest(group_id="readers", topics=[OffsetFetchTopic(name="flights", partitions=[0, 1])]), 7
    )
    found = [
        (part.index, part.committed_offset, part.committed_leader_epoch, part.metadata, part.error_code)
        for part in response.topics[0].partitions
    ]
    assert found == [(0, -1, -1, "", 0), (1, 7, 4, "so far", 0)]


async def test_metadata_of_null_is_empty(office: Office) -> None:
    assert await office.codes(("flights", 1, 7), metadata=None) == [Code.NONE]
    assert office.offsets.fetch("readers")[office.topic.id, 1].metadata == ""


async def test_each_partition_of_a_commit_has_its_own_code(office: Office) -> None:
    codes = await office.codes(("flights", 0, 1), ("flights", 2, 1), ("gates", 0, 1), ("flights", -1, 1))
    unknown = Code.UNKNOWN_TOPIC_OR_PARTITION
    assert codes == [Code.NONE, unknown, unknown, unknown]
    assert await office.fetched() == {("flights", 0): 1}
    too_large = [Code.OFFSET_METADATA_TOO_LARGE]
    assert await office.codes(("flights", 0, 2), metadata="x" * 4_097) == too_large
    assert await office.codes(("flights", 0, 2), metadata="é" * 2_049) == too_large
    assert await office.codes(("flights", 0, 2), metadata="é" * 2_048) == [Code.NONE]


@pytest.mark.parametrize("below", [-1, -2])
async def test_an_offset_below_zero_forgets_what_was_committed(office: Office, below: int) -> None:
    await office.codes(("flights", 0, 5), ("flights", 1, 6))
    assert await office.codes(("flights", 0, below), ("flights", 1, 7)) == [Code.NONE] * 2
    assert await office.fetched() == {("flights", 1): 7}
    assert await office.codes(("flights", 1, below)) == [Code.NONE]
    assert await office.fetched() == {}
    assert await office.codes(("gates", 0, below)) == [Code.UNKNOWN_TOPIC_OR_PARTITION]


async def test_a_commit_is_answered_when_it_is_durable_and_holds_up_nobody(log: Log, clock: StillClock) -> None:
    slow = Slow()
    office = Office(log, clock, slow)
    async with asyncio.TaskGroup() as group:
        first, second = (group.create_task(office.commit(("flights", 0, at))) for at in (1, 2))
        await asyncio.sleep(0)
        assert (len(slow.waiting), first.done(), second.done()) == (2, False, False)
        slow.waiting[1].set_result(None)
        assert (await second).topics[0].partitions[0].error_code == Code.NONE
        assert not first.done()
        slow.waiting[0].set_exception(Error("the disk refused"))
    assert first.result().topics[0].partitions[0].error_code == Code.COORDINATOR_NOT_AVAILABLE


async def test_a_group_too_many_is_refused(log: Log, clock: StillClock) -> None:
    office = Office(log, clock, Slow())
    for group in "ab":
        office.commit(("flights", 0, 1), group=group).close()
    assert await office.codes(("flights", 0, 1), group="c") == [Code.GROUP_MAX_SIZE_REACHED]


async def test_only_members_commit_for_a_group_that_has_some(office: Office) -> None:
    member = await office.member()
    assert await office.codes(("flights", 0, 1)) == [Code.UNKNOWN_MEMBER_ID]
    assert await office.codes(("flights", 0, 1), member_id=member, generation_id=2) == [Code.ILLEGAL_GENERATION]
    assert await office.codes(("flights", 0, 1), member_id=member, generation_id=1) == [Code.NONE]
    assert await office.fetched() == {("flights", 0): 1}


@pytest.mark.parametrize("version", [1, 2, 7])
async def test_offsets_are_asked_for_by_partition(office: Office, version: int) -> None:
    await office.codes(("flights", 0, 3))
    asked = [("flights", [0, 1, 5]), ("gates", [0])]
    found = {("flights", 0): 3, ("flights", 1): -1, ("flights", 5): -1, ("gates", 0): -1}
    assert await office.fetched(topics=asked, version=version) == found
    assert await office.fetched("nobody", topics=asked, version=version) == dict.fromkeys(found, -1)


async def test_from_version_8_on_several_groups_are_asked_about_at_once(office: Office) -> None:
    await office.codes(("flights", 0, 3), group="a")
    await office.codes(("flights", 1, 4), group="b")
    asked = [
        OffsetFetchGroup(group_id="a", topics=None),
        OffsetFetchGroup(group_id="b", topics=[OffsetFetchTopic(name="flights", partitions=[1])]),
        OffsetFetchGroup(group_id="shop.fold", topics=None),
        OffsetFetchGroup(group_id="nobody", topics=None),
    ]
    response = await office.ask(OffsetFetchRequest(groups=asked, require_stable=True), 8)
    found = {
        group.group_id: [(part.index, part.committed_offset) for topic in group.topics for part in topic.partitions]
        for group in response.groups
    }
    assert found == {"a": [(0, 3)], "b": [(1, 4)], "shop.fold": [(0, 5)], "nobody": []}


async def test_offsets_of_a_topic_that_was_deleted_are_not_those_of_its_successor(office: Office) -> None:
    await office.codes(("flights", 0, 3))
    office.log.delete_topic("flights")
    assert await office.fetched() == {}
    assert await office.fetched(topics=[("flights", [0])]) == {("flights", 0): -1}
    office.log.create_topic("flights", 2)
    assert await office.fetched() == {}
    assert await office.fetched(topics=[("flights", [0])]) == {("flights", 0): -1}
    await office.handlers.expire()
    assert office.offsets.groups() == []


async def test_offsets_go_when_nobody_has_been_there_for_a_week(office: Office) -> None:
    await office.codes(("flights", 0, 3), group="left")
    member = await office.member()
    await office.codes(("flights", 0, 3), member_id=member, generation_id=1)
    for _ in range(10):
        office.clock.passed_ms += DAY_MS // 2
        await office.handlers.expire()
    assert office.offsets.groups() == ["left", "readers"]
    office.clock.passed_ms += 3 * DAY_MS
    await office.handlers.expire()
    assert office.offsets.groups() == ["readers"], "it has a member still"
    office.handlers.coordinator.tick()
    office.clock.passed_ms += 7 * DAY_MS
    await office.handlers.expire()
    assert office.offsets.groups() == ["readers"]
    office.clock.passed_ms += 1
    await office.handlers.expire()
    assert office.offsets.groups() == []


async def test_offsets_of_subscribed_topics_are_not_deleted(office: Office) -> None:
    office.log.create_topic("gates", 1)
    member = await office.member()
    await office.codes(("flights", 0, 3), ("gates", 0, 4), member_id=member, generation_id=1)
    topics = [
        OffsetDeleteTopic(name=name, partitions=[OffsetDeletePartition(index=index)])
        for name, index in (("flights", 0), ("gates", 0), ("gates", 7), ("none", 0))
    ]
    response = await office.ask(OffsetDeleteRequest(group_id="readers", topics=topics))
    codes = [part.error_code for topic in response.topics for part in topic.partitions]
    unknown = Code.UNKNOWN_TOPIC_OR_PARTITION
    assert (response.error_code, codes) == (Code.NONE, [Code.GROUP_SUBSCRIBED_TO_TOPIC, Code.NONE, unknown, unknown])
    assert await office.fetched() == {("flights", 0): 3}
    assert office.ask(OffsetDeleteRequest(group_id="nobody", topics=topics)).error_code == Code.GROUP_ID_NOT_FOUND


# Groups.


async def test_groups_are_listed_whoever_keeps_them(office: Office) -> None:
    await office.member()
    await office.codes(("flights", 0, 1), group="left")
    response = await office.ask(ListGroupsRequest())
    states = {"readers": "Stable", "left": "Empty", "shop.fold": "Stable", "shop.rest": "Empty"}
    assert {each.group_id: each.state for each in response.groups} == states
    assert {(each.protocol_type, each.type) for each in response.groups} == {("consumer", "classic")}
    empty = await office.ask(ListGroupsRequest(states_filter=["EMPTY"], types_filter=["Classic"]))
    assert {each.group_id for each in empty.groups} == {"left", "shop.rest"}
    assert (await office.ask(ListGroupsRequest(types_filter=["consumer"]))).groups == []


async def test_groups_are_described_whoever_keeps_them(office: Office) -> None:
    member = await office.member()
    await office.codes(("flights", 0, 1), group="left")
    names = ["readers", "left", "shop.fold", "shop.rest", "nobody"]
    groups = (await office.ask(DescribeGroupsRequest(groups=names, include_authorized_operations=True))).groups
    assert [group.state for group in groups] == ["Stable", "Empty", "Stable", "Empty", "Dead"]
    assert [group.error_code for group in groups] == [Code.NONE] * 5
    [reader], [worker] = groups[0].members, groups[2].members
    assert (reader.member_id, reader.client_id, reader.client_host) == (member, "reader", "127.0.0.1")
    assert decode_subscription(reader.metadata).topics == ("flights",)
    [share] = decode_assignment(worker.assignment).partitions
    assert (worker.member_id, share.topic, tuple(share.partitions)) == ("worker-7", "flights", (0, 1))


async def test_only_groups_without_members_are_deleted(office: Office) -> None:
    await office.member()
    await office.codes(("flights", 0, 1), group="left")
    response = await office.ask(DeleteGroupsRequest(groups=["readers", "left", "shop.rest", "nobody", "left"]))
    assert {each.group_id: each.error_code for each in response.groups} == {
        "readers": Code.NON_EMPTY_GROUP,
        "left": Code.NONE,
        "shop.rest": Code.GROUP_AUTHORIZATION_FAILED,
        "nobody": Code.GROUP_ID_NOT_FOUND,
    }
    assert office.offsets.groups() == []


async def test_groups_of_agents_are_only_shown(office: Office) -> None:
    refused = Code.GROUP_AUTHORIZATION_FAILED
    assert await office.codes(("flights", 0, 1), group="shop.fold") == [refused]
    request = JoinGroupRequest(
        group_id="shop.fold", session_timeout_ms=10_000, member_id="", protocol_type="consumer", protocols=[]
    )
    assert office.ask(request).error_code == refused
    topics = [OffsetDeleteTopic(name="flights", partitions=[OffsetDeletePartition(index=0)])]
    assert office.ask(OffsetDeleteRequest(group_id="shop.fold", topics=topics)).error_code == refused
    assert await office.fetched("shop.fold") == {("flights", 0): 5}
    assert await office.fetched("shop.rest", topics=[("flights", [0, 1])]) == {("flights", 0): -1, ("flights", 1): 2}


# Time.


async def test_sessions_end_while_nobody_asks_anything(log: Log, clock: StillClock) -> None:
    """The task that watches the deadlines wakes for one that is earlier than what it sleeps to."""
    office = Office(log, clock)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(office.handlers.run())
        await _until(lambda: office.handlers._wakes_ms > 0)
        member = await office.member()
        clock.passed_ms += 10_000
        await _until(lambda: not office.handlers.coordinator.has_members("readers"))
        beat = HeartbeatRequest(group_id="readers", generation_id=1, member_id=member)
        assert office.ask(beat).error_code == Code.UNKNOWN_MEMBER_ID
        watching.cancel()


async def test_who_waits_is_answered_when_the_broker_ends(office: Office) -> None:
    member = await office.member()
    leave = LeaveGroupRequest(group_id="readers", members=[LeavingMember(member_id="somebody")])
    assert office.ask(leave).members[0].error_code == Code.UNKNOWN_MEMBER_ID
    request = JoinGroupRequest(
        group_id="readers",
        session_timeout_ms=10_000,
        rebalance_timeout_ms=60_000,
        member_id="",
        protocol_type="consumer",
        protocols=[JoinProtocol(name="range", metadata=b"")],
    )
    async with asyncio.TaskGroup() as group:
        waiting, gone = (group.create_task(office.ask(request, 3)) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        office.handlers.close()
    assert waiting.result().error_code == Code.COORDINATOR_NOT_AVAILABLE
    described = office.handlers.coordinator.described("readers")
    assert described is not None
    assert member in {each.member_id for each in described.members}


async def _until(true: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if true():
            return
        await asyncio.sleep(0)
    pytest.fail("it never came true")
