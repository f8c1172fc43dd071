"""Produce and InitProducerId.

A batch is acknowledged when the log has it at the level of its topic. What a connection sends in one request after the
other is appended in that order, whether or not the one before has been acknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

from framework.log.broker.batches import AT_ONCE_BYTES, BadRecords, check_records, header_of, is_quick
from framework.log.broker.codes import Code, Refusal, code_of
from framework.log.broker.context import Context, HangUp, Node, is_internal
from framework.log.broker.sent_before import find_batch
from framework.log.broker.table_records import (
    InitProducerIdRequest,
    InitProducerIdResponse,
    ProducedPartition,
    ProducedTopic,
    ProducePartition,
    ProduceRequest,
    ProduceResponse,
)
from framework.log.catalogue import TopicInfo
from framework.log.errors import Error
from framework.log.header import Header
from framework.log.partition import Partition
from framework.log.producers import TASK_PRODUCER_BIT

ACKS = (-1, 0, 1)
FIRST_VERSION = 3
"""The first one whose batches are of the one format there is."""
SENT_BEFORE = -1
"""What the log says instead of an offset."""
MAX_EXPLAINED = 100
"""Of so many batches of a request it is said why they are refused, of all others only by a code: a request of a
megabyte may name a hundred thousand partitions, and the text may quote the name of their topic."""


@dataclass(slots=True, eq=False)
class _Part:
    """The batch for one partition, and what became of it."""

    asked: ProducePartition
    partition: Partition | None = None
    topic: TopicInfo | None = None
    header: Header | None = None
    answer: ProducedPartition | None = None

    @property
    def is_quick(self) -> bool:
        return self.header is None or is_quick(self.header)

    def check_records(self) -> None:
        """Look through its records."""
        if self.answer is None:
            assert self.asked.records is not None
            assert self.header is not None
            assert self.topic is not None
            try:
                check_records(self.asked.records, self.header, self.topic)
            except Refusal as refusal:
                self.refuse(refusal)

    def refuse(self, error: Exception) -> None:
        """It is not appended."""
        # A producer that the log has forgotten begins anew only when it is told where the log starts.
        start = -1 if self.partition is None else _log_start(self.partition)
        self.answer = ProducedPartition(
            index=self.asked.index,
            error_code=code_of(error),
            log_start_offset=start,
            error_message=str(error),
            record_errors=error.faults if isinstance(error, BadRecords) else (),
        )


class _Producing:
    """One request: its batches are checked, appended, and when the last one is durable the request is answered."""

    def __init__(self, context: Context, version: int, body: ProduceRequest) -> None:
        self._node, self._body = context.node, body
        self.topics: list[tuple[str, list[_Part]]] = []
        for topic in body.topics:
            info = self._topic(topic.name, version)
            self.topics.append((topic.name, [self._part(info, part) for part in topic.partitions]))
        self._left = 0
        self._done: asyncio.Future[ProduceResponse | None] = asyncio.get_running_loop().create_future()

    def parts(self) -> Iterator[_Part]:
        for _, parts in self.topics:
            yield from parts

    def _topic(self, name: str, version: int) -> TopicInfo | Error | OSError:
        """The topic, or why nothing is appended to it; asked once, however many of its partitions there are."""
        try:
            self._check_request(name, version)
            return self._node.log.topic(name)
        except (Error, OSError) as error:
            return error

    def _part(self, topic: TopicInfo | Error | OSError, asked: ProducePartition) -> _Part:
        part = _Part(asked)
        if isinstance(topic, Exception):
            part.refuse(topic)
            return part
        try:
            part.topic = topic
            part.partition = self._node.log.partition(topic, asked.index)
            part.header = header_of(asked.records, topic)
        except (Error, OSError) as error:
            part.refuse(error)
        return part

    def _check_request(self, topic: str, version: int) -> None:
        if self._body.acks not in ACKS:
            raise Refusal(Code.INVALID_REQUIRED_ACKS, f"acks is {self._body.acks}, it must be -1 (all), 0 or 1")
        if version < FIRST_VERSION:
            raise Refusal(Code.UNSUPPORTED_VERSION, f"version {version} has batches of a format that is not kept")
        if self._body.transactional_id is not None:
            raise Refusal(Code.INVALID_TXN_STATE, "this broker has no transactions")
        if is_internal(topic):
            raise Refusal(Code.INVALID_TOPIC_EXCEPTION, f"{topic!r} is an internal topic, which clients only read")

    def append(self) -> asyncio.Future[ProduceResponse | None]:
        """Append what can be; the future is the response, None if the client wants none."""
        taken = [part for part in self.parts() if part.answer is None]
        self._left = len(taken)
        for part in taken:
            assert part.asked.records is not None
            assert part.partition is not None
            try:
                # A copy, because the log writes the offset into it.
                appended = self._node.log.append(part.partition, [bytearray(part.asked.records)])
            except Error as error:
                appended = Future()
                appended.set_exception(error)
            appended.add_done_callback(lambda done, part=part: self._post(part, done))  # type: ignore[misc]
        if not taken:
            self._answer()
        return self._done

    def _post(self, part: _Part, done: Future[int]) -> None:
        """In whatever thread has appended it."""
        self._node.relay.post(lambda: self._appended(part, done))

    def _appended(self, part: _Part, done: Future[int]) -> None:
        assert part.header is not None
        assert part.partition is not None
        try:
            offset: int | None = done.result()
            if offset == SENT_BEFORE:
                offset = self._node.sent_before.offset_of(part.partition, part.header)
                if offset is None and self._looked_for(part):
                    return
            elif part.header.producer_id >= 0:
                self._node.sent_before.add(part.partition, part.header, done.result())
            self._acknowledge(part, offset)
        except (Error, OSError) as error:
            part.refuse(error)
        self._settled()

    def _looked_for(self, part: _Part) -> bool:
        """Whether somebody looks for where it is; `_found` is told."""
        assert part.header is not None
        assert part.partition is not None
        try:
            finding = self._node.reading.submit(find_batch, self._node.log, part.partition, part.header)
        except RuntimeError:  # The broker is at its end, and the client gone.
            return False
        finding.add_done_callback(lambda found: self._node.relay.post(lambda: self._found(part, found)))
        return True

    def _found(self, part: _Part, found: Future[int | None]) -> None:
        assert part.header is not None
        assert part.partition is not None
        try:
            offset = found.result()
            if offset is not None:
                self._node.sent_before.add(part.partition, part.header, offset)
            self._acknowledge(part, offset)
        except (Error, OSError) as error:
            part.refuse(error)
        self._settled()

    def _acknowledge(self, part: _Part, offset: int | None) -> None:
        """It is there, at *offset* if that is known."""
        assert part.partition is not None
        if offset is None:
            # Clients take it for an acknowledgement without an offset.
            part.answer = ProducedPartition(index=part.asked.index, error_code=Code.DUPLICATE_SEQUENCE_NUMBER)
            return
        part.answer = ProducedPartition(
            index=part.asked.index, base_offset=offset, log_start_offset=_log_start(part.partition)
        )

    def _settled(self) -> None:
        self._left -= 1
        if not self._left:
            self._answer()

    def _answer(self) -> None:
        if self._body.acks == 0:
            failed = next((part.answer for part in self.parts() if part.answer and part.answer.error_code), None)
            if failed is None:
                self._done.set_result(None)
            else:
                # Else it would go on sending what is not taken, and never know.
                code = Code(failed.error_code).name
                self._done.set_exception(HangUp(f"sent, with acks=0, what is refused: {code}, {failed.error_message}"))
            return
        explained = [part for part in self.parts() if part.answer and part.answer.error_message is not None]
        for part in explained[MAX_EXPLAINED:]:
            part.answer = part.answer._replace(error_message=None)  # type: ignore[union-attr]  # it is a tuple
        topics = [
            ProducedTopic(name=name, partitions=[part.answer for part in parts if part.answer])
            for name, parts in self.topics
        ]
        self._done.set_result(ProduceResponse(topics=topics))


def _log_start(partition: Partition) -> int:
    """Where *partition* begins, -1 if that cannot be read; what was appended is appended all the same."""
    try:
        return partition.log_start
    except (Error, OSError):
        return -1


def produce(
    context: Context, version: int, body: ProduceRequest
) -> Awaitable[ProduceResponse | None | Awaitable[ProduceResponse | None]]:
    """Append batches; what takes longer to check than a moment holds up the connection, and no other one."""
    producing = _Producing(context, version, body)
    slow, left = [], AT_ONCE_BYTES
    for part in producing.parts():
        size = 0 if part.header is None else part.header.size
        if part.is_quick and size <= left:
            part.check_records()
            left -= size
        else:
            slow.append(part)
    return _produce_slowly(context.node, producing, slow) if slow else producing.append()


async def _produce_slowly(node: Node, producing: _Producing, slow: list[_Part]) -> Awaitable[ProduceResponse | None]:
    for part in slow:
        await asyncio.get_running_loop().run_in_executor(node.checking, part.check_records)
    return producing.append()


def init_producer_id(context: Context, _: int, body: InitProducerIdRequest) -> InitProducerIdResponse:
    """A new producer id, drawn so that no two are the same in any process; those of tasks have the bit above."""
    if body.transactional_id is not None:
        return InitProducerIdResponse(error_code=Code.INVALID_REQUEST)
    drawn = int.from_bytes(context.node.log.random.token(8), "big")
    return InitProducerIdResponse(producer_id=drawn & (TASK_PRODUCER_BIT - 1), producer_epoch=0)
