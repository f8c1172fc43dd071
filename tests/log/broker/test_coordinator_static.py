"""Static members: started anew under their name, they keep their share, and who they were before is fenced."""

from __future__ import annotations

import pytest

from framework.log.broker import Code
from tests.log.broker.members import GROUP, REBALANCE_MS, SESSION_MS, Hall


@pytest.fixture
def hall() -> Hall:
    """A coordinator without groups."""
    return Hall()


def static(hall: Hall, *names: str, version: int = 5) -> dict[str, str]:
    """A stable group of static members, by name; the first one leads."""
    ids: dict[str, str] = {}
    for name in names:
        new = hall.join(version=version, instance=name)
        joined = [hall.join(each, version=version, instance=known) for known, each in ids.items()]
        ids = dict(zip([*ids, name], [each.now.member_id for each in [*joined, new]], strict=True))
    generation = new.now.generation_id
    for name, each in ids.items():
        shares = {one: known.encode() for known, one in ids.items()} if name == names[0] else None
        hall.sync(each, generation, shares, instance=name)
    return ids


def test_a_static_member_that_comes_back_has_its_share_without_a_rebalance(hall: Hall) -> None:
    ids = static(hall, "one", "two")
    back = hall.join(version=5, instance="two").now
    assert (back.error_code, back.generation_id, back.leader) == (Code.NONE, 2, ids["one"])
    assert (back.member_id != ids["two"], back.members, hall.state()) == (True, (), "Stable")
    assert hall.sync(back.member_id, 2, instance="two").now.assignment == b"two"
    assert hall.heartbeat(ids["one"], 2, "one") == Code.NONE


def test_who_has_the_old_id_of_a_static_member_is_fenced(hall: Hall) -> None:
    ids = static(hall, "one")
    hall.join(version=5, instance="one")
    old = ids["one"]
    assert hall.heartbeat(old, 1, "one") == hall.check_commit(old, 1, "one") == Code.FENCED_INSTANCE_ID
    assert hall.sync(old, 1, instance="one").now.error_code == Code.FENCED_INSTANCE_ID
    assert hall.leave(old, "one") == hall.join(old, instance="one").now.error_code == Code.FENCED_INSTANCE_ID
    assert hall.heartbeat(old, 1) == Code.UNKNOWN_MEMBER_ID


def test_what_a_static_member_waits_for_is_refused_when_another_comes_in_its_name(hall: Hall) -> None:
    static(hall, "one", "two")
    waiting = hall.join(version=5, instance="three")
    again = hall.join(version=5, instance="three")
    assert (waiting.now.error_code, again.given) == (Code.FENCED_INSTANCE_ID, None)


@pytest.mark.parametrize(("version", "skips"), [(8, False), (9, True)])
def test_a_static_leader_that_comes_back_is_told_to_assign_nothing(hall: Hall, version: int, skips: bool) -> None:
    """From version 9 on in so many words; before, it is told that somebody else leads."""
    ids = static(hall, "one", "two", version=version)
    back = hall.join(version=version, instance="one").now
    assert (back.skip_assignment, len(back.members)) == (skips, 2 * skips)
    assert back.leader == (back.member_id if skips else ids["one"])
    assert hall.sync(back.member_id, 2, instance="one").now.assignment == b"one"


def test_a_static_member_that_comes_back_with_another_protocol_is_a_rebalance(hall: Hall) -> None:
    hall.join(version=5, instance="one", protocols=["range", "sticky"])
    member = hall.coordinator.described(GROUP)
    assert member is not None
    hall.sync(member.members[0].member_id, 1, {}, instance="one")
    back = hall.join(version=5, instance="one", protocols=["sticky", "range"]).now
    assert (back.generation_id, back.protocol_name) == (2, "sticky")


def test_a_static_member_that_comes_back_in_the_middle_of_a_generation_makes_the_next_one(hall: Hall) -> None:
    first = hall.join(version=5, instance="one").now.member_id
    back = hall.join(version=5, instance="one").now
    assert (back.generation_id, back.leader) == (2, back.member_id)
    assert hall.sync(first, 1, {}, instance="one").now.error_code == Code.FENCED_INSTANCE_ID


def test_a_static_member_is_waited_for_until_its_session_is_over(hall: Hall) -> None:
    """A rebalance does not put it out, and while it is away somebody else leads."""
    ids = static(hall, "one", "two", version=5)
    joining = hall.join(version=5, instance="two", protocols=["range"], topics=["x"], session_ms=SESSION_MS)
    assert joining.now.generation_id == 2
    other = hall.join(version=0, rebalance_ms=5_000)
    two = hall.join(joining.now.member_id, instance="two", rebalance_ms=5_000)
    for _ in range(REBALANCE_MS // 5_000):
        hall.heartbeat(ids["one"], 2, "one")
        hall.after(5_000)
    leads = other if other.now.leader == other.now.member_id else two
    assert leads.now.leader != ids["one"]
    assert ids["one"] in [member.member_id for member in leads.now.members]
    assert hall.heartbeat(ids["one"], 2, "one") == Code.ILLEGAL_GENERATION
    hall.after(SESSION_MS)
    assert hall.heartbeat(ids["one"], 2, "one") == Code.UNKNOWN_MEMBER_ID


def test_an_operator_puts_out_a_static_member_by_its_name(hall: Hall) -> None:
    static(hall, "one")
    assert hall.leave("", "two") == Code.UNKNOWN_MEMBER_ID
    assert hall.leave("", "one") == Code.NONE
    assert hall.state() == "Empty"


def test_a_static_member_that_comes_back_and_never_asks_for_its_share_is_done_without(hall: Hall) -> None:
    hall.join(version=5, instance="one")
    two = hall.join(version=5, instance="two")
    one = hall.coordinator.described(GROUP)
    assert one is not None
    leader = hall.join(one.members[0].member_id, instance="one").now.member_id
    hall.sync(leader, 2, {}, instance="one")
    back = hall.join(version=5, instance="two").now.member_id
    assert back != two.now.member_id
    for _ in range(REBALANCE_MS // 5_000):
        assert hall.heartbeat(back, 2, "two") == Code.NONE
        hall.heartbeat(leader, 2, "one")
        hall.after(5_000)
    assert hall.heartbeat(back, 2, "two") == Code.UNKNOWN_MEMBER_ID
