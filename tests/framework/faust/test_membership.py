"""Members of a group against a real broker: joining, leaving, losing the broker, and who may commit when."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from framework.broker import serving
from framework.faust.hosting import GROUPS
from framework.faust.membership import GroupRefused, Standing
from framework.log import Log
from framework.log.broker.published import published
from framework.log.broker.settings import BrokerSettings
from tests.framework.faust.group_of import OPTIONS, PARTITIONS, TOPIC, Hand, joined

EVERYTHING = list(range(PARTITIONS))
pytestmark = pytest.mark.slow  # A new group waits for more members.


def has(hand: Hand, count: int) -> Callable[[], bool]:
    return lambda: len(hand.share) == count


async def test_a_member_alone_is_the_broker_and_has_everything(log: Log) -> None:
    async with joined(log, "ada") as ada:
        await ada.hand.wait_until(has(ada.hand, PARTITIONS))
        assert ada.hosting.is_broker
        assert ada.hand.happened[-3:] == ["revoked", "led", f"took {PARTITIONS}"]
    assert published(log) is None


async def test_a_broker_that_runs_already_is_used(log: Log) -> None:
    async with serving(log, BrokerSettings(port=0), GROUPS) as broker, joined(log, "ada") as ada:
        await ada.hand.wait_until(has(ada.hand, PARTITIONS))
        assert not ada.hosting.is_broker
        assert broker.connections == 1


async def test_two_members_share(log: Log) -> None:
    async with joined(log, "ada") as ada:
        await ada.hand.wait_until(has(ada.hand, PARTITIONS))
        async with joined(log, "bob") as bob:
            await bob.hand.wait_until(has(bob.hand, 2))
            await ada.hand.wait_until(has(ada.hand, 2))
            assert sorted(ada.hand.share + bob.hand.share) == EVERYTHING
            assert [ada.hosting.is_broker, bob.hosting.is_broker] == [True, False]
        await ada.hand.wait_until(has(ada.hand, PARTITIONS))


async def test_the_broker_hands_over_when_it_ends(log: Log) -> None:
    """The other has given up its share, and committed, before the broker that takes its commit is gone."""
    committed: list[bool] = []
    async with AsyncExitStack() as first:
        bob = await first.enter_async_context(joined(log, "bob"))
        await bob.hand.wait_until(has(bob.hand, PARTITIONS))
        async with joined(log, "ada") as ada:

            async def finish() -> None:
                assert ada.hand.standing is not None
                committed.append(await ada.membership.commit({(TOPIC, 0): 7}, ada.hand.standing))

            ada.hand.finish = finish
            await ada.hand.wait_until(has(ada.hand, 2))
            await first.aclose()
            await ada.hand.wait_until(has(ada.hand, PARTITIONS))
            assert ada.hosting.is_broker
            assert committed[0]
            assert await ada.membership.committed([(TOPIC, 0)]) == {(TOPIC, 0): 7}


async def test_offsets_outlive_the_broker(log: Log) -> None:
    async with joined(log, "ada") as ada:
        await ada.hand.wait_until(has(ada.hand, PARTITIONS))
        assert ada.hand.standing is not None
        assert await ada.membership.commit({(TOPIC, 1): 41, (TOPIC, 2): 0}, ada.hand.standing)
    async with joined(log, "bob") as bob:
        places = [(TOPIC, number) for number in range(PARTITIONS)]
        assert await bob.membership.committed(places) == {(TOPIC, 1): 41, (TOPIC, 2): 0}


async def test_a_commit_of_an_earlier_generation_is_refused(log: Log) -> None:
    async with joined(log, "ada") as ada:
        await ada.hand.wait_until(has(ada.hand, PARTITIONS))
        before = ada.hand.standing
        assert before is not None
        async with joined(log, "bob") as bob:
            await bob.hand.wait_until(has(bob.hand, 2))
            await ada.hand.wait_until(has(ada.hand, 2))
            assert not await ada.membership.commit({(TOPIC, 0): 1}, before)
            assert ada.hand.standing is not None
            assert await ada.membership.commit({(TOPIC, 0): 2}, ada.hand.standing)


async def test_so_is_one_of_who_is_no_member(log: Log) -> None:
    async with joined(log, "ada") as ada:
        await ada.hand.wait_until(has(ada.hand, PARTITIONS))
        assert not await ada.membership.commit({(TOPIC, 0): 1}, Standing(1, "somebody"))


async def test_a_member_that_asks_for_other_topics_joins_anew(log: Log) -> None:
    async with joined(log, "ada") as ada:
        await ada.hand.wait_until(has(ada.hand, PARTITIONS))
        first = ada.hand.standing
        ada.membership.rejoin()
        await ada.hand.wait_until(lambda: ada.hand.standing not in (None, first))
        assert ada.hand.share == EVERYTHING


async def test_members_find_the_next_broker_when_theirs_is_gone(log: Log) -> None:
    async with AsyncExitStack() as broker:
        await broker.enter_async_context(serving(log, BrokerSettings(port=0), GROUPS))
        async with joined(log, "ada") as ada, joined(log, "bob") as bob:
            await ada.hand.wait_until(has(ada.hand, 2))
            await bob.hand.wait_until(has(bob.hand, 2))
            before = {ada.hand.standing, bob.hand.standing}
            await broker.aclose()
            await ada.hand.wait_until(lambda: ada.hand.standing not in {None, *before})
            await bob.hand.wait_until(lambda: bob.hand.standing not in {None, *before})
            assert sorted(ada.hand.share + bob.hand.share) == EVERYTHING
            assert ada.hosting.is_broker != bob.hosting.is_broker


async def test_a_session_timeout_that_the_broker_does_not_allow_is_told(log: Log) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        async with joined(log, "ada", replace(OPTIONS, session_timeout_ms=10)) as ada:
            await ada.hand.wait_until(has(ada.hand, PARTITIONS))
    refusals = raised.value.subgroup(GroupRefused)
    assert refusals is not None
    assert "INVALID_SESSION_TIMEOUT; its session timeout is 10 ms" in repr(refusals)
