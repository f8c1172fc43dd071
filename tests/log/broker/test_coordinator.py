"""Consumer groups by example: joining, leaving, dying and coming back, as clients of Kafka know it."""

from __future__ import annotations

import pytest

from framework.log.broker import Code
from framework.log.broker.group_settings import GroupSettings
from framework.log.broker.table_groups import LeaveGroupRequest
from tests.log.broker.members import GROUP, REBALANCE_MS, SESSION_MS, Hall


@pytest.fixture
def hall() -> Hall:
    """A coordinator without groups."""
    return Hall()


# Joining.


def test_a_member_alone_has_its_generation_at_once(hall: Hall) -> None:
    """As the initial delay is 0; with Kafka's three seconds, every start of a consumer takes as long."""
    joined = hall.join(version=3).now
    assert (joined.error_code, joined.generation_id, joined.leader) == (Code.NONE, 1, joined.member_id)
    assert joined.member_id.startswith("client-")
    assert [member.member_id for member in joined.members] == [joined.member_id]
    assert (joined.protocol_type, joined.protocol_name, hall.state()) == ("consumer", "range", "CompletingRebalance")
    synced = hall.sync(joined.member_id, 1, {joined.member_id: b"all"}).now
    assert (synced.error_code, synced.assignment, hall.state()) == (Code.NONE, b"all", "Stable")


def test_from_version_4_on_a_member_has_to_know_its_id_before_it_joins(hall: Hall) -> None:
    """So a client that tries again after a lost answer does not leave a second member behind."""
    told = hall.join(version=4).now
    assert (told.error_code, hall.state()) == (Code.MEMBER_ID_REQUIRED, "Empty")
    assert list(hall.coordinator.listed()) == []
    joined = hall.join(told.member_id, version=4).now
    assert (joined.error_code, joined.member_id, joined.generation_id) == (Code.NONE, told.member_id, 1)


def test_an_id_that_nobody_joins_with_is_forgotten_with_its_group(hall: Hall) -> None:
    told = hall.join(version=4).now
    hall.after(SESSION_MS)
    assert (hall.state(), hall.coordinator.held_bytes) == ("Dead", 0)
    assert hall.join(told.member_id).now.error_code == Code.UNKNOWN_MEMBER_ID


def test_a_rebalance_waits_for_those_who_were_given_an_id(hall: Hall) -> None:
    first = hall.settle()[0]
    second, third = (hall.join().now.member_id for _ in range(2))
    joins = [hall.join(each) for each in (second, first)]
    assert [each.given for each in joins] == [None, None]
    joins.append(hall.join(third))
    assert {each.now.generation_id for each in joins} == {2}


def test_a_group_that_waits_for_more_members_goes_on_when_none_has_come_for_a_while() -> None:
    hall = Hall(group_initial_rebalance_delay_ms=3_000)
    first = hall.join(version=0)
    hall.after(2_000)
    second = hall.join(version=0)
    hall.after(1_000)
    assert first.given is None, "somebody has come, so it waits again"
    hall.after(3_000)
    assert (first.now.generation_id, second.now.generation_id) == (1, 1)
    assert len(first.now.members) == 2
    third = hall.join(version=0)
    assert third.given is None, "the group is not new any more"


def test_it_waits_for_more_members_no_longer_than_a_rebalance_may_take() -> None:
    hall = Hall(group_initial_rebalance_delay_ms=3_000)
    joins = [hall.join(version=0, rebalance_ms=7_000)]
    for _ in range(6):
        hall.after(1_500)
        if joins[0].given is None:
            joins.append(hall.join(version=0, rebalance_ms=7_000))
    assert (hall.now_ms - 1_000, len(joins)) == (9_000, 5)
    assert {each.now.generation_id for each in joins} == {1}


@pytest.mark.parametrize("version", [0, 5])
def test_a_second_member_makes_the_first_join_again(hall: Hall, version: int) -> None:
    first = hall.settle()[0]
    second = hall.join(version=0)
    assert (second.given, hall.state()) == (None, "PreparingRebalance")
    assert hall.heartbeat(first, 1) == Code.REBALANCE_IN_PROGRESS
    assert hall.check_commit(first, 1) == Code.NONE, "what it has read so far counts"
    again = hall.join(first, version=version).now
    assert (again.generation_id, again.leader) == (2, first)
    assert [member.member_id for member in again.members] == [first, second.now.member_id]
    assert second.now.members == ()
    assert hall.heartbeat(first, 1) == hall.check_commit(first, 1) == Code.ILLEGAL_GENERATION


def test_who_does_not_join_again_in_time_is_not_in_the_next_generation(hall: Hall) -> None:
    first, second = hall.settle(2)
    generation = hall.join(first, version=5, topics=["flights", "gates"])
    for _ in range(REBALANCE_MS // 5_000 - 1):
        hall.after(5_000)
        assert hall.heartbeat(second, 2) == Code.REBALANCE_IN_PROGRESS
    assert generation.given is None
    hall.after(5_000)
    assert [member.member_id for member in generation.now.members] == [first]
    assert hall.heartbeat(second, 2) == Code.UNKNOWN_MEMBER_ID


def test_version_0_has_no_rebalance_timeout_and_its_session_counts(hall: Hall) -> None:
    first = hall.join(version=0, rebalance_ms=-1).now.member_id
    second = hall.join(version=0, rebalance_ms=-1)
    hall.after(SESSION_MS)
    assert first not in [member.member_id for member in second.now.members]


def test_a_follower_that_joins_again_with_nothing_new_has_only_missed_the_answer(hall: Hall) -> None:
    leader, follower = hall.settle(2)
    assert hall.join(follower).now.generation_id == 2
    assert hall.state() == "Stable"
    assert hall.join(leader).given is None, "a leader that joins again has seen something new"
    assert hall.join(follower).now.generation_id == 3


def test_a_join_that_is_sent_again_after_its_answer_was_lost_is_answered_with_the_same_generation(hall: Hall) -> None:
    first = hall.join(version=0).now.member_id
    again = hall.join(first).now
    assert (again.generation_id, len(again.members), hall.state()) == (1, 1, "CompletingRebalance")


def test_a_join_that_waits_is_given_up_when_its_member_sends_another(hall: Hall) -> None:
    first, second = hall.settle(2)
    waiting = hall.join(first, topics=["gates"])
    later = hall.join(first, topics=["gates"])
    assert waiting.now.error_code == Code.REBALANCE_IN_PROGRESS
    hall.join(second)
    assert later.now.generation_id == 3


def test_members_must_have_a_protocol_in_common(hall: Hall) -> None:
    hall.settle()
    for protocols in (["sticky"], list[str]()):
        assert hall.join(version=0, protocols=protocols).now.error_code == Code.INCONSISTENT_GROUP_PROTOCOL
    assert hall.state() == "Stable"
    assert hall.join(group="other", protocols=[]).now.error_code == Code.INCONSISTENT_GROUP_PROTOCOL
    assert hall.state("other") == "Dead"


def test_the_protocol_that_most_members_prefer_is_chosen(hall: Hall) -> None:
    first = hall.join(version=0, protocols=["range", "sticky"]).now.member_id
    waiting = [hall.join(version=0, protocols=["sticky", "range", "own"]) for _ in range(2)]
    hall.join(first, protocols=["range", "sticky"])
    assert {each.now.protocol_name for each in waiting} == {"sticky"}


def test_requests_that_cannot_be_are_refused(hall: Hall) -> None:
    assert hall.join(group="").now.error_code == Code.INVALID_GROUP_ID
    assert hall.join(group="x" * 2_000).now.error_code == Code.INVALID_GROUP_ID
    assert hall.join(session_ms=10).now.error_code == Code.INVALID_SESSION_TIMEOUT
    assert hall.join(session_ms=2_000_000).now.error_code == Code.INVALID_SESSION_TIMEOUT
    assert hall.join(instance="x" * 300).now.error_code == Code.INVALID_REQUEST
    assert hall.join("somebody").now.error_code == Code.UNKNOWN_MEMBER_ID
    assert hall.sync("somebody", 1).now.error_code == Code.UNKNOWN_MEMBER_ID
    assert hall.heartbeat("somebody", 1) == hall.leave("somebody") == Code.UNKNOWN_MEMBER_ID
    assert hall.check_commit("somebody", 1) == Code.ILLEGAL_GENERATION
    assert hall.coordinator.leave(LeaveGroupRequest(group_id=GROUP, member_id="x"), 1).error_code == 25
    assert hall.coordinator.leave(LeaveGroupRequest(group_id=""), 3).error_code == Code.INVALID_GROUP_ID
    assert (hall.coordinator.next_ms, hall.coordinator.held_bytes) == (None, 0)


# Shares.


def test_followers_wait_for_what_the_leader_says(hall: Hall) -> None:
    leader, follower = hall.settle(2)
    joins = [hall.join(leader), hall.join(follower)]
    assert {each.now.generation_id for each in joins} == {3}
    waiting = hall.sync(follower, 3)
    assert waiting.given is None
    assert hall.check_commit(follower, 3) == Code.REBALANCE_IN_PROGRESS
    hall.sync(leader, 3, {leader: b"1", follower: b"2", "somebody": b"3"})
    assert (waiting.now.assignment, hall.sync(follower, 3).now.assignment) == (b"2", b"2")


def test_who_is_given_nothing_has_nothing_left_of_the_generation_before(hall: Hall) -> None:
    leader, follower = hall.settle(2)
    hall.join(leader)
    hall.join(follower)
    hall.sync(leader, 3, {leader: b"all"})
    assert hall.sync(follower, 3).now.assignment == b""


def test_a_sync_is_for_the_protocol_that_was_chosen(hall: Hall) -> None:
    member = hall.join(version=0).now.member_id
    assert hall.sync(member, 1, {}, protocol="sticky").now.error_code == Code.INCONSISTENT_GROUP_PROTOCOL
    assert hall.sync(member, 2, {}).now.error_code == Code.ILLEGAL_GENERATION
    assert hall.sync(member, 1, {member: b"1"}, protocol="range").now.protocol_name == "range"


def test_a_sync_that_is_sent_twice_is_answered_twice(hall: Hall) -> None:
    leader, follower = hall.settle(2)
    hall.join(leader)
    hall.join(follower)
    lost, kept = hall.sync(follower, 3), hall.sync(follower, 3)
    assert (lost.now.error_code, kept.given) == (Code.REBALANCE_IN_PROGRESS, None)
    hall.sync(leader, 3, {follower: b"2"})
    assert kept.now.assignment == b"2"


def test_who_joins_while_others_wait_for_their_shares_sends_them_back(hall: Hall) -> None:
    leader, follower = hall.settle(2)
    hall.join(leader)
    hall.join(follower)
    waiting = hall.sync(follower, 3)
    hall.join(version=0)
    assert (waiting.now.error_code, hall.state()) == (Code.REBALANCE_IN_PROGRESS, "PreparingRebalance")
    assert hall.sync(leader, 3, {}).now.error_code == Code.REBALANCE_IN_PROGRESS


def test_a_leader_that_is_there_and_never_assigns_is_done_without(hall: Hall) -> None:
    """It sends heartbeats, so its session goes on; the others would wait for ever."""
    leader, follower = hall.settle(2)
    hall.join(leader)
    hall.join(follower)
    waiting = hall.sync(follower, 3)
    for _ in range(REBALANCE_MS // 5_000):
        assert hall.heartbeat(leader, 3) == Code.NONE
        hall.after(5_000)
    assert waiting.now.error_code == Code.REBALANCE_IN_PROGRESS
    assert hall.heartbeat(leader, 3) == Code.UNKNOWN_MEMBER_ID
    assert hall.join(follower).now.leader == follower


# Leaving and dying.


def test_who_leaves_gives_its_share_to_the_others_at_once(hall: Hall) -> None:
    leader, follower = hall.settle(2)
    assert hall.leave(leader) == Code.NONE
    joined = hall.join(follower).now
    assert (joined.generation_id, joined.leader, len(joined.members)) == (3, follower, 1)
    assert hall.leave(leader) == Code.UNKNOWN_MEMBER_ID


def test_versions_of_leave_before_3_name_one_member(hall: Hall) -> None:
    member = hall.settle()[0]
    assert hall.coordinator.leave(LeaveGroupRequest(group_id=GROUP, member_id=member), 2).error_code == Code.NONE
    assert hall.state() == "Empty"


def test_who_leaves_with_a_request_that_waits_is_answered(hall: Hall) -> None:
    leader, follower = hall.settle(2)
    joining = hall.join(leader)
    hall.leave(leader)
    assert joining.now.error_code == Code.UNKNOWN_MEMBER_ID
    joined = hall.join(follower).now
    second = hall.join(version=0)
    hall.join(follower, topics=["gates"])
    assert (joined.generation_id, second.now.generation_id) == (3, 4)
    syncing = hall.sync(second.now.member_id, 4)
    hall.leave(second.now.member_id)
    assert syncing.now.error_code == Code.UNKNOWN_MEMBER_ID


def test_who_was_given_an_id_may_leave_without_having_joined(hall: Hall) -> None:
    assert hall.leave(hall.join().now.member_id) == Code.NONE
    assert hall.state() == "Dead"


def test_a_member_that_is_silent_for_its_session_is_gone(hall: Hall) -> None:
    first, second = hall.settle(2)
    for _ in range(2):
        hall.after(SESSION_MS - 1)
        assert hall.heartbeat(second, 2) in (Code.NONE, Code.REBALANCE_IN_PROGRESS)
    assert hall.heartbeat(first, 2) == Code.UNKNOWN_MEMBER_ID
    assert hall.join(second).now.generation_id == 3


@pytest.mark.parametrize("sign", ["heartbeat", "commit", "sync"])
def test_whatever_a_member_sends_keeps_its_session(hall: Hall, sign: str) -> None:
    member = hall.settle()[0]
    for _ in range(3):
        hall.after(SESSION_MS - 1)
        if sign == "heartbeat":
            code = hall.heartbeat(member, 1)
        elif sign == "commit":
            code = hall.check_commit(member, 1)
        else:
            code = hall.sync(member, 1).now.error_code
        assert code == Code.NONE


def test_who_waits_for_an_answer_is_not_silent(hall: Hall) -> None:
    first, second = hall.settle(2)
    waiting = hall.join(first, topics=["gates"])
    for _ in range(5):
        hall.after(SESSION_MS - 1)
        hall.heartbeat(second, 2)
    assert waiting.given is None
    hall.join(second)
    assert waiting.now.generation_id == 3


def test_a_new_member_does_not_wait_for_ever(hall: Hall) -> None:
    """Its session has not begun; if its process is gone, the others should not wait for it in each generation."""
    first = hall.settle(rebalance_ms=1_000_000)[0]
    new = hall.join(version=0)
    while new.given is None:
        hall.after(5_000)
        hall.heartbeat(first, 1)
    assert new.now.error_code == Code.UNKNOWN_MEMBER_ID
    assert hall.now_ms >= GroupSettings().new_member_join_timeout_ms


def test_a_group_without_members_keeps_its_generation_and_is_forgotten_in_the_end(hall: Hall) -> None:
    member = hall.settle()[0]
    hall.leave(member)
    assert (hall.state(), [each.group_id for each in hall.coordinator.listed()]) == ("Empty", [GROUP])
    assert hall.join(version=0).now.generation_id == 3
    hall.after(SESSION_MS)
    hall.after(GroupSettings().offsets_retention_ms)
    assert (hall.state(), hall.coordinator.next_ms) == ("Dead", None)


def test_a_broker_that_was_started_anew_makes_members_join_anew(hall: Hall) -> None:
    """It knows nobody, and generations begin anew: what is of an old one is refused although the number is the same."""
    old = hall.settle()[0]
    started = Hall()
    started.coordinator._random.token(16)  # Ids are never given twice, in no run.
    new = started.settle()[0]
    assert started.heartbeat(old, 1) == started.check_commit(old, 1) == Code.UNKNOWN_MEMBER_ID
    assert started.check_commit(new, 1) == Code.NONE
