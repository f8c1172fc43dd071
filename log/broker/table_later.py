"""The table, part six: what is not served yet, transactions and passwords."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from framework.log.broker.schema import Struct, i16, i32, i64, prose


class TransactionTopic(Struct):
    """Partitions of one topic that a transaction is about to write to."""

    name: str
    partitions: Sequence[i32]


class AddPartitionsToTxnRequest(Struct):
    """My transaction is about to write there."""

    transactional_id: str
    producer_id: i64
    producer_epoch: i16
    topics: Sequence[TransactionTopic]


class AddedPartition(Struct):
    """Whether it may write to one partition."""

    index: i32
    error_code: i16 = 0


class AddedTopic(Struct):
    """Whether it may write to one topic."""

    name: str
    partitions: Sequence[AddedPartition]


class AddPartitionsToTxnResponse(Struct):
    """Whether it may."""

    throttle_time_ms: i32 = 0
    topics: Sequence[AddedTopic]


class AddOffsetsToTxnRequest(Struct):
    """My transaction is about to commit offsets of this group."""

    transactional_id: str
    producer_id: i64
    producer_epoch: i16
    group_id: str


class AddOffsetsToTxnResponse(Struct):
    """Whether it may."""

    throttle_time_ms: i32 = 0
    error_code: i16 = 0


class EndTxnRequest(Struct):
    """My transaction is done, or it is off."""

    transactional_id: str
    producer_id: i64
    producer_epoch: i16
    committed: bool


class EndTxnResponse(Struct):
    """Whether it is."""

    throttle_time_ms: i32 = 0
    error_code: i16 = 0


class TxnCommitPartition(Struct):
    """How far one partition will have been read."""

    index: i32
    committed_offset: i64
    committed_leader_epoch: Annotated[i32, "2+"] = -1
    committed_metadata: str | None = ""


class TxnCommitTopic(Struct):
    """How far one topic will have been read."""

    name: str
    partitions: Sequence[TxnCommitPartition]


class TxnOffsetCommitRequest(Struct):
    """Remember how far the group has read, if the transaction is committed."""

    transactional_id: str
    group_id: str
    producer_id: i64
    producer_epoch: i16
    generation_id: Annotated[i32, "3+"] = -1
    member_id: Annotated[str, "3+"] = ""
    group_instance_id: Annotated[str | None, "3+"] = None
    topics: Sequence[TxnCommitTopic]


class TxnCommittedPartition(Struct):
    """Whether that will be remembered for one partition."""

    index: i32
    error_code: i16 = 0


class TxnCommittedTopic(Struct):
    """Whether that will be remembered for one topic."""

    name: str
    partitions: Sequence[TxnCommittedPartition]


class TxnOffsetCommitResponse(Struct):
    """Whether that will be remembered."""

    throttle_time_ms: i32 = 0
    topics: Sequence[TxnCommittedTopic]


class SaslHandshakeRequest(Struct):
    """This is how I will say who I am."""

    mechanism: str


class SaslHandshakeResponse(Struct):
    """Whether it is one of the ways there are."""

    error_code: i16 = 0
    mechanisms: Sequence[str]


class SaslAuthenticateRequest(Struct):
    """A step of the mechanism."""

    auth_bytes: bytes


class SaslAuthenticateResponse(Struct):
    """The step that answers it."""

    error_code: i16 = 0
    error_message: prose | None = None
    auth_bytes: bytes = b""
    session_lifetime_ms: Annotated[i64, "1+"] = 0
