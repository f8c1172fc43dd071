"""The handlers of groups on a log, a store and a clock of the test, and a short way to ask them."""

from __future__ import annotations

from collections.abc import Awaitable, Container, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from framework.log import Log
from framework.log.broker import APIS, Code, Request, Struct, encode_response
from framework.log.broker.group_handlers import Address, GroupHandlers
from framework.log.broker.group_settings import GroupSettings
from framework.log.broker.offsets import Committed, ForeignGroup, ForeignMember, MemoryOffsets, Place
from framework.log.broker.table_groups import (
    CommitPartition,
    CommitTopic,
    JoinGroupRequest,
    JoinProtocol,
    OffsetCommitRequest,
    OffsetFetchRequest,
    OffsetFetchTopic,
    SyncAssignment,
    SyncGroupRequest,
)
from tests.log.broker.members import SeededRandom

START_MS = 1_700_000_000_000


class StillClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.passed_ms = 0

    def now_ms(self) -> int:
        """The wall clock."""
        return START_MS + self.passed_ms

    def monotonic(self) -> float:
        """The other one."""
        return self.passed_ms / 1000


class Client(NamedTuple):
    """Who asks."""

    client_id: str | None
    host: str


class Context(NamedTuple):
    """Where a request comes from."""

    client: Client


class Agents:
    """Two groups that are an app's."""

    fault: Exception | None = None
    """Why they cannot be read, while they cannot."""

    def __init__(self, topic_id: str) -> None:
        self.looked = 0
        member = ForeignMember("worker-7", "framework", "127.0.0.1", {"flights": [0, 1]})
        self._groups = {
            "shop.fold": ForeignGroup("shop.fold", {(topic_id, 0): 5}, [member]),
            "shop.rest": ForeignGroup("shop.rest", {(topic_id, 1): 2}),
        }

    def names(self) -> Container[str]:
        """Their names."""
        return self._groups.keys()

    def refresh(self) -> None:
        """There are no others."""
        self.looked += 1
        if self.fault is not None:
            raise self.fault

    def groups(self) -> Mapping[str, ForeignGroup]:
        """Both."""
        if self.fault is not None:
            raise self.fault
        return self._groups


class Slow(MemoryOffsets):
    """A store whose commits are durable when the test says so, or fail."""

    def __init__(self) -> None:
        super().__init__(max_groups=2)
        self.waiting: list[Future[None]] = []

    def commit(self, group: str, offsets: Mapping[Place, Committed]) -> Future[None]:
        """Done later."""
        super().commit(group, offsets)
        self.waiting.append(Future())
        return self.waiting[-1]


class Office:
    """Handlers, and a short way to ask them; answers are encoded as they would be sent."""

    def __init__(
        self,
        log: Log,
        clock: StillClock,
        offsets: MemoryOffsets | None = None,
        settings: GroupSettings | None = None,
    ) -> None:
        self.log, self.clock = log, clock
        self.topic = log.create_topic("flights", 2)
        self.offsets = offsets or MemoryOffsets()
        self.agents = Agents(self.topic.id)
        self.handlers = GroupHandlers(
            log,
            self.offsets,
            settings or GroupSettings(),
            address=lambda: Address(1, "127.0.0.1", 9092),
            foreign=self.agents,
            random=SeededRandom(),
        )

    def ask(self, body: Struct, version: int | None = None) -> Any:
        """What the handler returns."""
        api = next(each for each in APIS.values() if each.request is type(body))
        version = api.served[-1] if version is None else version
        context = Context(Client("reader", "127.0.0.1"))
        answer = self.handlers.table[api.name](context, version, body)
        request = Request(api, version, 1, "reader", body)
        if isinstance(answer, Awaitable):
            return self._sent(answer, request)
        encode_response(request, answer)
        return answer

    async def _sent(self, answer: Awaitable[Struct], request: Request) -> Struct:
        response = await answer
        encode_response(request, response)
        return response

    async def member(self, group: str = "readers") -> str:
        """The one member of a stable group."""
        request = JoinGroupRequest(
            group_id=group,
            session_timeout_ms=10_000,
            rebalance_timeout_ms=10_000,
            member_id="",
            protocol_type="consumer",
            protocols=[JoinProtocol(name="range", metadata=b"\0\0\0\0\0\1\0\7flights\xff\xff\xff\xff")],
        )
        member_id: str = (await self.ask(request, 3)).member_id
        share = SyncAssignment(member_id=member_id, assignment=b"")
        await self.ask(SyncGroupRequest(group_id=group, generation_id=1, member_id=member_id, assignments=[share]))
        return member_id

    def commit(
        self, *parts: tuple[str, int, int], group: str = "readers", metadata: str | None = "", **options: Any
    ) -> Any:
        """Commit (topic, partition, offset)."""
        topics = [
            CommitTopic(
                name=name,
                partitions=[
                    CommitPartition(
                        index=index, committed_offset=offset, committed_leader_epoch=4, committed_metadata=metadata
                    )
                ],
            )
            for name, index, offset in parts
        ]
        return self.ask(OffsetCommitRequest(group_id=group, topics=topics, **options))

    async def codes(self, *parts: tuple[str, int, int], **options: Any) -> list[int]:
        """The codes of a commit."""
        answer = self.commit(*parts, **options)
        response = await answer if isinstance(answer, Awaitable) else answer
        return [part.error_code for topic in response.topics for part in topic.partitions]

    async def fetched(
        self, group: str = "readers", topics: Sequence[tuple[str, Sequence[int]]] | None = None, version: int = 7
    ) -> dict[tuple[str, int], int]:
        """Offsets by topic and partition."""
        wanted = None if topics is None else [OffsetFetchTopic(name=name, partitions=parts) for name, parts in topics]
        response = await self.ask(OffsetFetchRequest(group_id=group, topics=wanted), version)
        assert response.error_code == Code.NONE
        return {
            (topic.name, part.index): part.committed_offset for topic in response.topics for part in topic.partitions
        }
