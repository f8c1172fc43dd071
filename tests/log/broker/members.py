"""Members of a group as a test plays them: requests with little said, and answers that are kept."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from framework.log.broker import Struct, encode_blob
from framework.log.broker.coordinator import Client, Coordinator
from framework.log.broker.group_settings import GroupSettings
from framework.log.broker.table_group_admin import Subscription
from framework.log.broker.table_groups import (
    CommitPartition,
    CommitTopic,
    HeartbeatRequest,
    JoinGroupRequest,
    JoinGroupResponse,
    JoinProtocol,
    LeaveGroupRequest,
    LeavingMember,
    OffsetCommitRequest,
    SyncAssignment,
    SyncGroupRequest,
    SyncGroupResponse,
)

S = TypeVar("S", bound=Struct)
SESSION_MS, REBALANCE_MS = 10_000, 60_000
GROUP = "readers"


class Answer(Generic[S]):
    """What came of a request; called twice, it fails."""

    def __init__(self) -> None:
        self.given: S | None = None

    def __call__(self, response: S) -> None:
        assert self.given is None, f"answered with {self.given}, and then with {response}"
        self.given = response

    @property
    def now(self) -> Any:
        """The answer, which must be there."""
        assert self.given is not None, "not answered yet"
        return self.given


class SeededRandom:
    """Ids that are the same in each run."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def token(self, size: int) -> bytes:
        """*size* bytes."""
        return self._random.randbytes(size)


class Hall:
    """A coordinator, its clock, and shorter ways to ask it."""

    def __init__(self, **settings: int) -> None:
        self.now_ms = 1_000
        self.coordinator = Coordinator(GroupSettings(**settings), lambda: self.now_ms, SeededRandom())

    def join(
        self,
        member_id: str = "",
        *,
        version: int = 5,
        group: str = GROUP,
        instance: str | None = None,
        protocols: Sequence[str] = ("range",),
        topics: Sequence[str] = ("flights",),
        session_ms: int = SESSION_MS,
        rebalance_ms: int = REBALANCE_MS,
        metadata: bytes | None = None,
        client: str = "client",
    ) -> Answer[JoinGroupResponse]:
        """Ask to join."""
        said = encode_blob(Subscription(topics=topics), 0) if metadata is None else metadata
        request = JoinGroupRequest(
            group_id=group,
            session_timeout_ms=session_ms,
            rebalance_timeout_ms=rebalance_ms,
            member_id=member_id,
            group_instance_id=instance,
            protocol_type="consumer",
            protocols=tuple(JoinProtocol(name=name, metadata=said) for name in protocols),
        )
        answer: Answer[JoinGroupResponse] = Answer()
        self.coordinator.join(request, version, Client(client, "127.0.0.1"), answer)
        return answer

    def sync(
        self,
        member_id: str,
        generation: int,
        shares: Mapping[str, bytes] | None = None,
        *,
        instance: str | None = None,
        protocol: str | None = None,
    ) -> Answer[SyncGroupResponse]:
        """Ask for a share; the leader says everybody's."""
        request = SyncGroupRequest(
            group_id=GROUP,
            generation_id=generation,
            member_id=member_id,
            group_instance_id=instance,
            protocol_name=protocol,
            assignments=tuple(SyncAssignment(member_id=to, assignment=part) for to, part in (shares or {}).items()),
        )
        answer: Answer[SyncGroupResponse] = Answer()
        self.coordinator.sync(request, answer)
        return answer

    def heartbeat(self, member_id: str, generation: int, instance: str | None = None) -> int:
        """The code that a heartbeat is answered with."""
        request = HeartbeatRequest(
            group_id=GROUP, generation_id=generation, member_id=member_id, group_instance_id=instance
        )
        return self.coordinator.heartbeat(request).error_code

    def leave(self, member_id: str, instance: str | None = None) -> int:
        """The code for one who leaves."""
        leaving = LeavingMember(member_id=member_id, group_instance_id=instance)
        response = self.coordinator.leave(LeaveGroupRequest(group_id=GROUP, members=[leaving]), 3)
        return response.members[0].error_code

    def check_commit(self, member_id: str = "", generation: int = -1, instance: str | None = None) -> int:
        """The code for one who commits."""
        request = OffsetCommitRequest(
            group_id=GROUP,
            generation_id=generation,
            member_id=member_id,
            group_instance_id=instance,
            topics=[CommitTopic(name="flights", partitions=[CommitPartition(index=0, committed_offset=1)])],
        )
        return int(self.coordinator.check_commit(request))

    def state(self, group: str = GROUP) -> str:
        """The state that the group is in."""
        described = self.coordinator.described(group)
        return "Dead" if described is None else described.state

    def after(self, ms: int) -> None:
        """Let time pass, and do what is due whenever it is due."""
        end_ms = self.now_ms + ms
        while (next_ms := self.coordinator.next_ms) is not None and next_ms <= end_ms:
            self.now_ms = max(self.now_ms, next_ms)
            self.coordinator.tick()
        self.now_ms = end_ms
        self.coordinator.tick()

    def settle(self, members: int = 1, **options: Any) -> list[str]:
        """A stable group of so many members, of generation *members* or a later one; the first one leads."""
        ids: list[str] = []
        for _ in range(members):
            new = self.join(version=0, **options)
            joined = [*[self.join(each, **options) for each in ids], new]
            ids = [each.now.member_id for each in joined]
        generation, leader = new.now.generation_id, new.now.leader
        for each in sorted(ids, key=lambda one: one != leader):
            self.sync(each, generation, {one: one.encode() for one in ids} if each == leader else None)
        return ids
