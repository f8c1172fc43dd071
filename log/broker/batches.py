"""Whether what a producer sent is a batch that the log may keep.

What the log keeps, agents and other clients read: so everything is looked at before it is appended, the header, the
checksum, and each record. Only the offset is set afterwards.
"""

from __future__ import annotations

from itertools import count, islice
from operator import attrgetter, eq

from aiokafka.errors import KafkaError
from aiokafka.record.default_records import DefaultRecordBatch

from framework.log.broker.codes import Code, Refusal
from framework.log.broker.schema import Buffer
from framework.log.broker.table_records import RecordFault
from framework.log.catalogue import TopicInfo
from framework.log.codec import uncompressed
from framework.log.compression import COMPRESSION_MASK, COMPRESSIONS
from framework.log.errors import Damaged
from framework.log.header import CONTROL, HEADER_BYTES, MAGIC, Header, checksum, read_header
from framework.log.producers import TASK_PRODUCER_BIT

MAX_FAULTS = 10
"""So many records without a key are named; a batch may have a million."""
AT_ONCE_BYTES = 1 << 20
"""So much of a request is looked through in the event loop, if it is not compressed; it takes a millisecond, or twenty
if the records are tiny."""
FIRST_MS, LAST_MS = -62_135_596_800_000, 253_402_300_799_999
"""The years 1 to 9999. Whoever means another one has sent microseconds or nanoseconds."""
_TRANSACTIONAL = 0x10
_LEAST_RECORD_BYTES = 7
_CHUNK_RECORDS = 4096
"""Other threads get the interpreter in between."""
_offset, _key = attrgetter("offset"), attrgetter("key")


class BadRecords(Refusal):
    """Some of the records of a batch cannot be taken."""

    def __init__(self, text: str, faults: list[RecordFault]) -> None:
        """*faults* says which."""
        super().__init__(Code.INVALID_RECORD, text)
        self.faults = faults


def header_of(batch: Buffer | None, topic: TopicInfo) -> Header:
    """The header of *batch*, which is one whole batch with a right checksum that *topic* may take.

    Raises:
        Refusal: It is not.
    """
    size = 0 if batch is None else len(batch)
    if batch is None or size < HEADER_BYTES:
        raise Refusal(Code.INVALID_RECORD, f"{size} bytes are too few for a record batch")
    header, limit = read_header(batch), topic.settings.max_message_bytes
    if header.magic != MAGIC:
        raise Refusal(Code.INVALID_RECORD, f"the batch has format {header.magic}, only format {MAGIC} is taken")
    if size > limit:
        raise Refusal(
            Code.MESSAGE_TOO_LARGE,
            f"a batch of {size} bytes to {topic.name!r} is over its max.message.bytes, {limit}",
        )
    if header.size != size:
        raise Refusal(
            Code.INVALID_RECORD, f"a batch of {header.size} bytes in {size}: a partition takes one batch a request"
        )
    if checksum(batch) != header.crc:
        raise Refusal(Code.CORRUPT_MESSAGE, f"checksum is {checksum(batch):#010x}, the header says {header.crc:#010x}")
    _check_header(header)
    return header


def _check_header(header: Header) -> None:
    """Refuse what may not come from a client."""
    if not 0 < header.records == header.last_offset_delta + 1:
        raise Refusal(
            Code.INVALID_RECORD, f"the batch has {header.records} records up to number {header.last_offset_delta}"
        )
    if header.attributes & COMPRESSION_MASK not in COMPRESSIONS.values():
        kind = header.attributes & COMPRESSION_MASK
        raise Refusal(Code.UNSUPPORTED_COMPRESSION_TYPE, f"compression {kind} is unknown")
    if header.attributes & _TRANSACTIONAL:
        raise Refusal(Code.INVALID_TXN_STATE, "the batch is part of a transaction, which this broker does not have")
    if header.attributes & ~COMPRESSION_MASK:
        what = "a control batch" if header.attributes & CONTROL else f"of attributes {header.attributes:#06x}"
        raise Refusal(Code.INVALID_RECORD, f"the batch is {what}, which only a broker writes")
    for timestamp in (header.first_timestamp, header.max_timestamp):
        if not FIRST_MS <= timestamp <= LAST_MS:
            raise Refusal(
                Code.INVALID_TIMESTAMP,
                f"timestamp {timestamp} is of no year there is; it counts milliseconds since 1970",
            )
    if header.producer_id >= 0:
        if header.producer_id & TASK_PRODUCER_BIT:
            raise Refusal(
                Code.INVALID_PRODUCER_ID_MAPPING, f"producer id {header.producer_id} is none that a broker gives"
            )
        if header.base_sequence < 0 or header.producer_epoch < 0:
            raise Refusal(
                Code.INVALID_RECORD,
                f"producer {header.producer_id} sent epoch {header.producer_epoch}, sequence {header.base_sequence}",
            )


def is_quick(header: Header) -> bool:
    """Whether it is known how long `check_records` takes: that goes with the size."""
    return not header.attributes & COMPRESSION_MASK


def check_records(batch: Buffer, header: Header, topic: TopicInfo) -> None:
    """Look at every record; takes no more memory than the records, decompressed.

    Raises:
        Refusal: They are not what the header says, or more than the topic lets a batch hold.
        BadRecords: Some have no key, which the topic needs.
    """
    try:
        plain = uncompressed(memoryview(batch), topic.settings.most_uncompressed_bytes)
        if header.records * _LEAST_RECORD_BYTES > len(plain) - HEADER_BYTES:
            raise Damaged(f"{header.records} records do not fit in {len(plain) - HEADER_BYTES} bytes")
        _check_offsets(plain, header)
        if topic.settings.compacts:
            _check_keys(plain, topic)
    except (Damaged, KafkaError, ValueError) as error:
        # The checksum is right, so that sending it again will not help.
        raise Refusal(Code.INVALID_RECORD, f"the records of a batch cannot be read: {error}") from error


def _check_offsets(plain: Buffer, header: Header) -> None:
    """Each record has the number that it should have, and none is left over."""
    records = iter(map(_offset, DefaultRecordBatch(plain)))
    right = map(eq, records, count(header.base_offset))
    for begin in range(0, header.records, _CHUNK_RECORDS):
        wanted = min(_CHUNK_RECORDS, header.records - begin)
        if sum(islice(right, wanted)) != wanted:
            raise Damaged(f"records {begin} to {begin + wanted - 1} are not numbered one after the other")
    if next(records, None) is not None:
        raise Damaged(f"there are more than {header.records} records")


def _check_keys(plain: Buffer, topic: TopicInfo) -> None:
    keys = enumerate(map(_key, DefaultRecordBatch(plain)))
    without = list(islice((number for number, key in keys if key is None), MAX_FAULTS))
    if without:
        faults = [RecordFault(batch_index=number, error_message="the record has no key") for number in without]
        raise BadRecords(
            f"{topic.name!r} is compacted, it keeps the last record of each key: record {without[0]} of the batch has "
            f"none{', and others' if len(without) > 1 else ''}",
            faults,
        )
