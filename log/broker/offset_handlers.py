"""The handlers of committed offsets: what groups have read, by topic and partition.

A commit is answered when it is durable. Topics are named over the wire and kept by id: offsets of a topic that is gone
are not there, also when another one has its name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Protocol, TypeVar

from framework.log.broker.codes import Code, code_of
from framework.log.broker.coordinator import Coordinator
from framework.log.broker.group_settings import GroupSettings
from framework.log.broker.offsets import Committed, ForeignGroup, ForeignGroups, OffsetStore, Place
from framework.log.broker.schema import Struct
from framework.log.broker.table_groups import (
    CommitPartition,
    CommittedPartition,
    CommittedTopic,
    OffsetCommitRequest,
    OffsetCommitResponse,
    OffsetDeletedPartition,
    OffsetDeletedTopic,
    OffsetDeleteRequest,
    OffsetDeleteResponse,
    OffsetFetchedGroup,
    OffsetFetchedPartition,
    OffsetFetchedTopic,
    OffsetFetchGroup,
    OffsetFetchRequest,
    OffsetFetchResponse,
    OffsetFetchTopic,
)
from framework.log.catalogue import TopicInfo
from framework.log.errors import Error, TooManyGroups, UnknownTopic
from framework.log.log import Log

SEVERAL_GROUPS_FROM, GROUP_ERRORS_FROM = 8, 2
"""The versions of OffsetFetch that ask about several groups, and that have a code for a group."""
T = TypeVar("T")
Answer = Struct | Awaitable[Struct]
Codes = list[tuple[str, list[tuple[int, Code]]]]
"""The code of each partition, topic by topic, in the order of the request."""
logger = logging.getLogger(__name__)


class Asking(Protocol):
    """A client, for people."""

    @property
    def client_id(self) -> str | None:
        """What it calls itself."""

    @property
    def host(self) -> str:
        """Where it is."""


class Context(Protocol):
    """Where a request comes from."""

    @property
    def client(self) -> Asking:
        """Who asks."""


class OffsetHandlers:
    """OffsetCommit, OffsetFetch and OffsetDelete."""

    def __init__(
        self,
        log: Log,
        offsets: OffsetStore,
        settings: GroupSettings,
        coordinator: Coordinator,
        foreign: ForeignGroups,
    ) -> None:
        """*coordinator* says who may commit; the offsets of *foreign* groups are only shown."""
        self._log, self._offsets, self._settings = log, offsets, settings
        self._coordinator, self._foreign = coordinator, foreign

    def commit(self, context: Context, version: int, body: OffsetCommitRequest) -> Answer:
        """Remember how far a group has read, where it may; an offset below zero says that it has read nothing."""
        refusal = self._coordinator.check_commit(body)
        if refusal is Code.NONE and self._is_foreign(body.group_id):
            refusal = Code.GROUP_AUTHORIZATION_FAILED
        now_ms = self._log.clock.now_ms()
        codes: Codes = []
        offsets: dict[Place, Committed] = {}
        forgotten: list[Place] = []
        for topic in body.topics:
            info = self._topic(topic.name)
            parts = []
            for part in topic.partitions:
                code = refusal or self._check(info, part)
                parts.append((part.index, code))
                if code is Code.NONE and info is not None and part.committed_offset < 0:
                    # kafkajs begins anew in this way where its committed offset is gone, and ends if it is refused.
                    forgotten.append((info.id, part.index))
                elif code is Code.NONE and info is not None:
                    metadata = part.committed_metadata or ""
                    committed = Committed(part.committed_offset, part.committed_leader_epoch, metadata, now_ms)
                    offsets[info.id, part.index] = committed
            codes.append((topic.name, parts))
        done = [self._offsets.delete(body.group_id, forgotten)] if forgotten else []
        try:
            done += [self._offsets.commit(body.group_id, offsets)] if offsets else []
        except TooManyGroups as error:
            logger.warning("%s", error)
            return _committed(codes, Code.GROUP_MAX_SIZE_REACHED)
        if len(done) > 1:
            return self._all_committed(done, codes)
        return answered(done[0], partial(_committed, codes)) if done else _committed(codes, Code.NONE)

    async def fetch(self, context: Context, version: int, body: OffsetFetchRequest) -> OffsetFetchResponse:
        """How far groups have read."""
        several = version >= SEVERAL_GROUPS_FROM
        asked = _once(body.groups if several else [OffsetFetchGroup(group_id=body.group_id, topics=body.topics)])
        foreign: Mapping[str, ForeignGroup] | Error | OSError = {}
        if any(self._is_foreign(each.group_id) for each in asked):
            try:
                foreign = await asyncio.to_thread(self._foreign.groups)
            except (Error, OSError) as error:
                foreign = error
        found = [self._fetched(each, foreign, version) for each in asked]
        if several:
            return OffsetFetchResponse(groups=found)
        return OffsetFetchResponse(topics=found[0].topics, error_code=found[0].error_code)

    def delete(self, context: Context, version: int, body: OffsetDeleteRequest) -> Answer:
        """Forget how far a group has read, in topics that it does not subscribe to."""
        code, subscribed = self._coordinator.check_forgets(body.group_id)
        if self._is_foreign(body.group_id):
            code = Code.GROUP_AUTHORIZATION_FAILED
        elif body.group_id not in self._offsets.groups() and self._coordinator.described(body.group_id) is None:
            code = Code.GROUP_ID_NOT_FOUND
        codes: Codes = []
        places: list[Place] = []
        for topic in body.topics if code is Code.NONE else ():
            info = self._topic(topic.name)
            parts = []
            for part in topic.partitions:
                each = Code.NONE
                if info is None or not 0 <= part.index < info.partitions:
                    each = Code.UNKNOWN_TOPIC_OR_PARTITION
                elif topic.name in subscribed:
                    each = Code.GROUP_SUBSCRIBED_TO_TOPIC
                else:
                    places.append((info.id, part.index))
                parts.append((part.index, each))
            codes.append((topic.name, parts))
        if not places:
            return _deleted(code, codes, Code.NONE)
        return answered(self._offsets.delete(body.group_id, places), partial(_deleted, code, codes))

    # How it is done.

    async def _all_committed(self, done: Sequence[Future[None]], codes: Codes) -> OffsetCommitResponse:
        end = Code.NONE
        for each in done:
            try:
                await settled(each)
            except Error:
                end = Code.COORDINATOR_NOT_AVAILABLE
        return _committed(codes, end)

    def _check(self, info: TopicInfo | None, part: CommitPartition) -> Code:
        if info is None or not 0 <= part.index < info.partitions:
            return Code.UNKNOWN_TOPIC_OR_PARTITION
        if len((part.committed_metadata or "").encode()) > self._settings.offset_metadata_max_bytes:
            return Code.OFFSET_METADATA_TOO_LARGE
        return Code.NONE

    def _fetched(
        self, asked: OffsetFetchGroup, foreign: Mapping[str, ForeignGroup] | Error | OSError, version: int
    ) -> OffsetFetchedGroup:
        """What one group has read; *foreign* are those that are not the broker's, or why they cannot be read."""
        try:
            if isinstance(foreign, Exception):
                if self._is_foreign(asked.group_id):
                    raise foreign
                foreign = {}
            topics = self._topics(asked, foreign.get(asked.group_id))
            return OffsetFetchedGroup(group_id=asked.group_id, topics=topics)
        except (Error, OSError) as error:
            logger.warning("the offsets of group %r cannot be read: %s", asked.group_id, error)
            code = code_of(error)
        if version >= GROUP_ERRORS_FROM or asked.topics is None:
            return OffsetFetchedGroup(group_id=asked.group_id, topics=(), error_code=code)
        topics = [
            OffsetFetchedTopic(
                name=topic.name,
                partitions=[OffsetFetchedPartition(index=index, error_code=code) for index in topic.partitions],
            )
            for topic in asked.topics
        ]
        return OffsetFetchedGroup(group_id=asked.group_id, topics=topics)

    def _topics(self, asked: OffsetFetchGroup, foreign: ForeignGroup | None) -> list[OffsetFetchedTopic]:
        """What was asked for, or without topics everything that there is."""
        if foreign is not None:
            there = {place: Committed(offset) for place, offset in foreign.offsets.items()}
        elif asked.topics is None:
            there = self._offsets.fetch(asked.group_id)
        else:
            infos = [(self._topic(topic.name), topic.partitions) for topic in asked.topics]
            wanted = [
                (info.id, index)
                for info, indexes in infos
                if info is not None
                for index in indexes
                if 0 <= index < info.partitions  # A client may ask for any number.
            ]
            there = self._offsets.fetch(asked.group_id, wanted)
        if asked.topics is not None:
            return [self._asked(topic, there) for topic in asked.topics]
        names = {info.id: name for name, info in self._log.topics().items()}
        found: dict[str, list[OffsetFetchedPartition]] = {}
        for (topic_id, index), committed in sorted(there.items()):
            if topic_id in names:
                found.setdefault(names[topic_id], []).append(_partition(index, committed))
        return [OffsetFetchedTopic(name=name, partitions=parts) for name, parts in sorted(found.items())]

    def _asked(self, topic: OffsetFetchTopic, there: Mapping[Place, Committed]) -> OffsetFetchedTopic:
        info = self._topic(topic.name)
        topic_id = "" if info is None else info.id
        parts: Sequence[OffsetFetchedPartition] = [
            _partition(index, there.get((topic_id, index))) for index in topic.partitions
        ]
        return OffsetFetchedTopic(name=topic.name, partitions=parts)

    def _topic(self, name: str) -> TopicInfo | None:
        try:
            return self._log.topic(name)
        except UnknownTopic:
            return None

    def _is_foreign(self, group_id: str) -> bool:
        return not self._coordinator.has_members(group_id) and group_id in self._foreign.names()


async def settled(future: Future[T]) -> T:
    """What *future* comes to. Whoever waits may be cancelled; what was asked for is done all the same."""
    return await asyncio.shield(asyncio.wrap_future(future))


def answered(done: Future[None], build: Callable[[Code], Struct]) -> asyncio.Future[Struct]:
    """What *build* makes of the end of a change of committed offsets, when it has ended.

    The disk's refusals pass, so clients are told to try again.
    """
    answer: asyncio.Future[Struct] = asyncio.get_running_loop().create_future()

    def finish(ended: asyncio.Future[None]) -> None:
        error = ended.exception()
        if answer.done():
            return  # Cancelled, when its client is gone.
        if error is None or isinstance(error, Error):
            answer.set_result(build(Code.NONE if error is None else Code.COORDINATOR_NOT_AVAILABLE))
        else:
            answer.set_exception(error)

    asyncio.wrap_future(done).add_done_callback(finish)
    return answer


def _once(asked: Sequence[OffsetFetchGroup]) -> list[OffsetFetchGroup]:
    """Each group, topic and partition once: with its metadata each time, a small request would be a huge answer."""
    groups: dict[str, OffsetFetchGroup] = {}
    for group in asked:
        if group.group_id in groups:
            continue
        wanted: dict[str, dict[int, None]] = {}
        for topic in group.topics or ():
            wanted.setdefault(topic.name, {}).update(dict.fromkeys(topic.partitions))
        topics = [OffsetFetchTopic(name=name, partitions=tuple(indexes)) for name, indexes in wanted.items()]
        groups[group.group_id] = OffsetFetchGroup(
            group_id=group.group_id, topics=None if group.topics is None else topics
        )
    return list(groups.values())


def _committed(codes: Codes, end: Code) -> OffsetCommitResponse:
    topics = [
        CommittedTopic(
            name=name, partitions=[CommittedPartition(index=index, error_code=code or end) for index, code in parts]
        )
        for name, parts in codes
    ]
    return OffsetCommitResponse(topics=topics)


def _deleted(refusal: Code, codes: Codes, end: Code) -> OffsetDeleteResponse:
    topics = [
        OffsetDeletedTopic(
            name=name,
            partitions=[OffsetDeletedPartition(index=index, error_code=code or end) for index, code in parts],
        )
        for name, parts in codes
    ]
    return OffsetDeleteResponse(error_code=refusal, topics=topics)


def _partition(index: int, committed: Committed | None) -> OffsetFetchedPartition:
    if committed is None:
        return OffsetFetchedPartition(index=index)
    return OffsetFetchedPartition(
        index=index,
        committed_offset=committed.offset,
        committed_leader_epoch=committed.leader_epoch,
        metadata=committed.metadata,
    )
