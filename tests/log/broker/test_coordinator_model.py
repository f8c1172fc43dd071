"""The coordinator under members that do anything in any order: what must hold after every step, and at the end."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from framework.log.broker import Code
from framework.log.broker.group import Group, State
from framework.log.broker.member import MEMBER_BYTES, size_of
from tests.log.broker.members import GROUP, Answer, Hall

PARTITIONS, CLIENTS, MAX_SIZE = 6, 5, 4
PROTOCOLS = [("range",), ("range", "sticky"), ("sticky", "range"), ("sticky",)]
CLIENT = st.integers(0, CLIENTS - 1)


class Consumer:
    """A client that may be a member: what it knows, and what it has asked and was not answered yet."""

    def __init__(self, number: int) -> None:
        self.instance = f"static-{number}" if number < 2 else None
        self.member_id, self.generation, self.protocol = "", -1, ""
        self.members: tuple[Any, ...] | None = None
        """Who is in the generation, if it leads it."""
        self.pasts: list[tuple[str, int]] = []
        """What it was before."""


class Groups(RuleBasedStateMachine):
    """One group, and clients that join, ask for shares, commit, go silent, die and come back."""

    @initialize(delay_ms=st.sampled_from([0, 0, 3_000]))
    def begin(self, delay_ms: int) -> None:
        self.hall = Hall(group_initial_rebalance_delay_ms=delay_ms, group_max_size=MAX_SIZE)
        self.consumers = [Consumer(number) for number in range(CLIENTS)]
        self.joins: list[tuple[Consumer, Answer[Any]]] = []
        self.syncs: list[tuple[Consumer, Answer[Any], str, int]] = []
        self.leaders: dict[int, str] = {}
        self.shares: dict[int, dict[str, bytes]] = {}
        self.committed_generation = 0
        self.said: set[str] = set()

    @property
    def group(self) -> Group | None:
        return self.hall.coordinator._groups.get(GROUP)

    # What clients do.

    @rule(who=CLIENT, protocols=st.sampled_from(PROTOCOLS), version=st.sampled_from([0, 3, 4, 5, 9]))
    def join(self, who: int, protocols: tuple[str, ...], version: int) -> None:
        consumer = self.consumers[who]
        instance = consumer.instance if version >= 5 else None
        answer = self.hall.join(
            consumer.member_id, version=version, instance=instance, protocols=protocols, rebalance_ms=20_000
        )
        self.joins.append((consumer, answer))
        self.hear()

    @rule(crowd=st.integers(1, MAX_SIZE), version=st.sampled_from([0, 5, 9]), rounds=st.integers(1, 4))
    def do_as_good_clients_do(self, crowd: int, version: int, rounds: int) -> None:
        """Some clients at once: they join when they have to, and ask for their shares when they have joined."""
        for _ in range(rounds):
            for who, consumer in enumerate(self.consumers[:crowd]):
                waits = any(each[0] is consumer for each in [*self.joins, *self.syncs])
                code = self.hall.heartbeat(consumer.member_id, consumer.generation, self.static(consumer))
                if waits:
                    continue
                if code == Code.NONE:
                    self.sync(who)
                else:
                    self.join(who, PROTOCOLS[1], version)

    @rule(who=CLIENT)
    def restart(self, who: int) -> None:
        """The process of the client is another one now."""
        consumer = self.consumers[who]
        self.past(consumer)
        consumer.member_id, consumer.generation, consumer.members = "", -1, None
        self.joins = [each for each in self.joins if each[0] is not consumer or each[1].given is None]

    @rule(who=st.integers(0, 1), version=st.sampled_from([5, 9]))
    def restart_and_join(self, who: int, version: int) -> None:
        """A static member, which its group should hardly notice."""
        self.restart(who)
        self.join(who, PROTOCOLS[1], version)

    @rule(who=CLIENT)
    def sync(self, who: int) -> None:
        consumer = self.consumers[who]
        shares = None
        if consumer.members is not None:
            ids = [member.member_id for member in consumer.members]
            shares = {each: bytes(range(at, PARTITIONS, len(ids))) for at, each in enumerate(ids)}
        group = self.group
        assigns = group is not None and group.state is State.COMPLETING and consumer.member_id == group.leader
        answer = self.hall.sync(consumer.member_id, consumer.generation, shares, instance=self.static(consumer))
        self.syncs.append((consumer, answer, consumer.member_id, consumer.generation))
        if assigns and answer.given is not None and answer.now.error_code == Code.NONE:
            assert consumer.generation not in self.shares, "a generation is assigned once"
            self.shares[consumer.generation] = shares or {}
        self.hear()

    @rule(who=CLIENT)
    def heartbeat(self, who: int) -> None:
        consumer = self.consumers[who]
        code = self.hall.heartbeat(consumer.member_id, consumer.generation, self.static(consumer))
        expected = self.expected(consumer.member_id, consumer.generation, self.static(consumer))
        if expected is Code.NONE and self.group is not None and self.group.state is State.PREPARING:
            expected = Code.REBALANCE_IN_PROGRESS
        assert code == expected

    @rule(who=CLIENT)
    def commit(self, who: int) -> None:
        consumer = self.consumers[who]
        if consumer.generation >= 0:
            self.try_commit(consumer.member_id, consumer.generation, self.static(consumer))

    @rule(who=CLIENT, which=st.integers(0, 9))
    def commit_as_before(self, who: int, which: int) -> None:
        """A process that does not know that it is not a member any more."""
        consumer = self.consumers[who]
        if consumer.pasts:
            member_id, generation = consumer.pasts[which % len(consumer.pasts)]
            self.try_commit(member_id, generation, self.static(consumer))

    def try_commit(self, member_id: str, generation: int, instance: str | None) -> None:
        code = self.hall.check_commit(member_id, generation, instance)
        expected = self.expected(member_id, generation, instance)
        group = self.group
        if group is None:
            expected = Code.ILLEGAL_GENERATION
        elif expected is Code.NONE and group.state is State.COMPLETING:
            expected = Code.REBALANCE_IN_PROGRESS
        assert code == expected
        if code == Code.NONE:
            assert generation >= self.committed_generation, "a generation commits after a later one has"
            self.committed_generation = generation

    @rule()
    def commit_without_a_group(self) -> None:
        allowed = self.group is None or self.group.state is State.EMPTY
        assert (self.hall.check_commit() == Code.NONE) == allowed

    @rule(who=CLIENT)
    def leave(self, who: int) -> None:
        consumer = self.consumers[who]
        self.hall.leave(consumer.member_id, self.static(consumer))
        self.past(consumer)
        consumer.member_id, consumer.generation, consumer.members = "", -1, None
        self.hear()

    @rule(ms=st.sampled_from([1, 3_000, 3_000, 9_999, 10_001, 20_000, 301_000]))
    def wait(self, ms: int) -> None:
        self.hall.after(ms)
        self.hear()

    # What they hear.

    def hear(self) -> None:
        """Take what has been answered."""
        waiting = []
        for consumer, answer in self.joins:
            if answer.given is None:
                waiting.append((consumer, answer))
            else:
                self.joined(consumer, answer.now)
        self.joins = waiting
        left = []
        for consumer, answer, member_id, generation in self.syncs:
            if answer.given is None:
                left.append((consumer, answer, member_id, generation))
            elif answer.now.error_code == Code.NONE:
                assert answer.now.assignment == self.shares[generation].get(self.named(member_id, generation), b"")
        self.syncs = left

    def named(self, member_id: str, generation: int) -> str:
        """Under which id the leader knew the member; a static one may have another by now."""
        known = self.shares[generation]
        instance = member_id.rpartition("-")[0]
        return member_id if member_id in known else next((each for each in known if each.startswith(instance)), "")

    def joined(self, consumer: Consumer, answer: Any) -> None:
        if answer.error_code == Code.MEMBER_ID_REQUIRED:
            consumer.member_id = answer.member_id
        elif answer.error_code in (Code.UNKNOWN_MEMBER_ID, Code.FENCED_INSTANCE_ID):
            self.past(consumer)
            consumer.member_id, consumer.generation, consumer.members = "", -1, None
        elif answer.error_code == Code.NONE:
            self.past(consumer)
            consumer.member_id, consumer.generation = answer.member_id, answer.generation_id
            consumer.members = answer.members or None
            if answer.members:
                assert answer.leader == answer.member_id
                assert answer.member_id in [member.member_id for member in answer.members]
                assert len(answer.members) <= MAX_SIZE
        else:
            refused = (Code.REBALANCE_IN_PROGRESS, Code.INCONSISTENT_GROUP_PROTOCOL, Code.GROUP_MAX_SIZE_REACHED)
            assert answer.error_code in refused

    def past(self, consumer: Consumer) -> None:
        if consumer.generation >= 0:
            consumer.pasts.append((consumer.member_id, consumer.generation))

    def static(self, consumer: Consumer) -> str | None:
        """The name by which the group knows it as a static member, if it does."""
        group = self.group
        joined = consumer.member_id.startswith(f"{consumer.instance}-")
        return consumer.instance if joined and group is not None else None

    def expected(self, member_id: str, generation: int, instance: str | None) -> Code:
        group = self.group
        if group is None:
            return Code.UNKNOWN_MEMBER_ID
        if instance is not None and instance in group.instances and group.instances[instance] != member_id:
            return Code.FENCED_INSTANCE_ID
        if member_id not in group.members:
            return Code.UNKNOWN_MEMBER_ID
        return Code.NONE if generation == group.generation else Code.ILLEGAL_GENERATION

    # What holds.

    @invariant()
    @precondition(lambda self: hasattr(self, "hall"))
    def everybody_who_waits_is_in_one_place(self) -> None:
        group = self.group
        members = list(group.members.values()) if group else []
        assert sum(member.joining is not None for member in members) == len(self.joins)
        assert sum(member.syncing is not None for member in members) == len(self.syncs)
        if self.joins or self.syncs:
            assert self.hall.coordinator.next_ms is not None

    @invariant()
    @precondition(lambda self: hasattr(self, "hall") and self.group is not None)
    def the_group_is_what_its_state_says(self) -> None:
        group = self.group
        assert group is not None
        members = group.members.values()
        assert group.state is State.PREPARING or not any(member.joining for member in members)
        assert group.state is State.COMPLETING or not any(member.syncing for member in members)
        assert group.state is not State.EMPTY or not members
        assert group.state in (State.EMPTY, State.PREPARING) or members
        assert not members or group.leader in group.members
        assert group.unsynced <= group.members.keys()
        names = [{protocol.name for protocol in member.protocols} for member in members]
        assert not members or set.intersection(*names), "there is a protocol that all have"
        assert +group._supporters == Counter(name for each in names for name in each)
        assert not group.pending & group.members.keys()
        assert group.size <= MAX_SIZE
        instances = {each.instance_id: each.member_id for each in members if each.instance_id is not None}
        assert group.instances == instances
        held = sum(size_of(member.protocols) + len(member.assignment) for member in members)
        assert self.hall.coordinator.held_bytes == held + MEMBER_BYTES * len(group.pending)

    @invariant()
    @precondition(lambda self: hasattr(self, "hall") and self.group is not None)
    def no_two_members_share_a_partition(self) -> None:
        group = self.group
        assert group is not None
        if group.state is State.STABLE:
            shares = [number for member in group.members.values() for number in member.assignment]
            assert len(shares) == len(set(shares)), "a partition has two owners in one generation"

    def teardown(self) -> None:
        """When nobody says anything any more, everybody is answered, and then nothing is left of the group."""
        if not hasattr(self, "hall"):
            return
        for _ in range(1_000):
            next_ms = self.hall.coordinator.next_ms
            if next_ms is None:
                break
            self.hall.now_ms = max(self.hall.now_ms, next_ms)
            self.hall.coordinator.tick()
            self.hear()
        assert (self.hall.coordinator.next_ms, self.group, self.hall.coordinator.held_bytes) == (None, None, 0)
        assert not self.joins
        assert not self.syncs


@pytest.mark.slow
def test_whatever_members_do_a_generation_has_one_owner_for_each_partition_and_everybody_is_answered_once() -> None:
    Groups.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None, derandomize=True)
    Groups.TestCase().runTest()
