"""The error codes of the protocol that the broker uses, and which of our errors is which.

`retriable` is what clients make of a code: whether they try again by themselves.
"""

from __future__ import annotations

from enum import IntEnum

from framework.log import errors


class Code(IntEnum):
    """What a response says about a request, or a part of it."""

    retriable: bool

    def __new__(cls, code: int, retriable: bool = False) -> Code:
        """A line of the table."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.retriable = retriable
        return member

    UNKNOWN_SERVER_ERROR = -1
    NONE = 0
    OFFSET_OUT_OF_RANGE = 1
    CORRUPT_MESSAGE = 2, True
    UNKNOWN_TOPIC_OR_PARTITION = 3, True
    LEADER_NOT_AVAILABLE = 5, True
    NOT_LEADER_OR_FOLLOWER = 6, True
    REQUEST_TIMED_OUT = 7, True
    MESSAGE_TOO_LARGE = 10
    OFFSET_METADATA_TOO_LARGE = 12
    NETWORK_EXCEPTION = 13, True
    COORDINATOR_LOAD_IN_PROGRESS = 14, True
    COORDINATOR_NOT_AVAILABLE = 15, True
    NOT_COORDINATOR = 16, True
    INVALID_TOPIC_EXCEPTION = 17
    RECORD_LIST_TOO_LARGE = 18
    INVALID_REQUIRED_ACKS = 21
    ILLEGAL_GENERATION = 22
    INCONSISTENT_GROUP_PROTOCOL = 23
    INVALID_GROUP_ID = 24
    UNKNOWN_MEMBER_ID = 25
    INVALID_SESSION_TIMEOUT = 26
    REBALANCE_IN_PROGRESS = 27
    INVALID_COMMIT_OFFSET_SIZE = 28
    TOPIC_AUTHORIZATION_FAILED = 29
    GROUP_AUTHORIZATION_FAILED = 30
    CLUSTER_AUTHORIZATION_FAILED = 31
    INVALID_TIMESTAMP = 32
    UNSUPPORTED_SASL_MECHANISM = 33
    ILLEGAL_SASL_STATE = 34
    UNSUPPORTED_VERSION = 35
    TOPIC_ALREADY_EXISTS = 36
    INVALID_PARTITIONS = 37
    INVALID_REPLICATION_FACTOR = 38
    INVALID_REPLICA_ASSIGNMENT = 39
    INVALID_CONFIG = 40
    INVALID_REQUEST = 42
    UNSUPPORTED_FOR_MESSAGE_FORMAT = 43
    POLICY_VIOLATION = 44
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45
    DUPLICATE_SEQUENCE_NUMBER = 46
    INVALID_PRODUCER_EPOCH = 47
    INVALID_TXN_STATE = 48
    INVALID_PRODUCER_ID_MAPPING = 49
    INVALID_TRANSACTION_TIMEOUT = 50
    CONCURRENT_TRANSACTIONS = 51, True
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53
    SECURITY_DISABLED = 54
    KAFKA_STORAGE_ERROR = 56, True
    LOG_DIR_NOT_FOUND = 57
    SASL_AUTHENTICATION_FAILED = 58
    UNKNOWN_PRODUCER_ID = 59
    NON_EMPTY_GROUP = 68
    GROUP_ID_NOT_FOUND = 69
    FETCH_SESSION_ID_NOT_FOUND = 70, True
    INVALID_FETCH_SESSION_EPOCH = 71, True
    FENCED_LEADER_EPOCH = 74, True
    UNKNOWN_LEADER_EPOCH = 75, True
    UNSUPPORTED_COMPRESSION_TYPE = 76
    STALE_BROKER_EPOCH = 77
    OFFSET_NOT_AVAILABLE = 78, True
    MEMBER_ID_REQUIRED = 79
    GROUP_MAX_SIZE_REACHED = 81
    FENCED_INSTANCE_ID = 82
    GROUP_SUBSCRIBED_TO_TOPIC = 86
    INVALID_RECORD = 87
    UNSTABLE_OFFSET_COMMIT = 88, True
    THROTTLING_QUOTA_EXCEEDED = 89, True
    PRODUCER_FENCED = 90
    UNKNOWN_TOPIC_ID = 100, True
    INCONSISTENT_TOPIC_ID = 103, True


_CODES: list[tuple[type[Exception], Code]] = [
    (errors.InvalidName, Code.INVALID_TOPIC_EXCEPTION),
    (errors.InvalidSetting, Code.INVALID_CONFIG),
    (errors.RecordTooLarge, Code.MESSAGE_TOO_LARGE),
    (errors.KeyRequired, Code.INVALID_RECORD),
    (errors.UnknownTopic, Code.UNKNOWN_TOPIC_OR_PARTITION),
    (errors.UnknownPartition, Code.UNKNOWN_TOPIC_OR_PARTITION),
    (errors.TopicExists, Code.TOPIC_ALREADY_EXISTS),
    (errors.PartitionBusy, Code.REQUEST_TIMED_OUT),
    (errors.OffsetOutOfRange, Code.OFFSET_OUT_OF_RANGE),
    (errors.ProducerFenced, Code.INVALID_PRODUCER_EPOCH),
    (errors.UnknownProducer, Code.UNKNOWN_PRODUCER_ID),
    (errors.OutOfOrderSequence, Code.OUT_OF_ORDER_SEQUENCE_NUMBER),
    (errors.PartitionFailed, Code.KAFKA_STORAGE_ERROR),
    (errors.Damaged, Code.KAFKA_STORAGE_ERROR),
    (errors.LogClosed, Code.NOT_LEADER_OR_FOLLOWER),
    (errors.UsageError, Code.INVALID_REQUEST),
    (OSError, Code.KAFKA_STORAGE_ERROR),
]
"""The first line that fits counts. What a client sent damaged is not here: for that, `CORRUPT_MESSAGE` is the code."""


class Refusal(errors.Error):
    """What was asked for is not done, for a reason that has a code; `str` is what to tell the client."""

    def __init__(self, code: Code, text: str) -> None:
        """*text* carries values, and the way out."""
        super().__init__(text)
        self.code = code


def code_of(error: Exception) -> Code:
    """The code of what went wrong with the log; `UNKNOWN_SERVER_ERROR` for what should not happen."""
    if isinstance(error, Refusal):
        return error.code
    return next((code for kind, code in _CODES if isinstance(error, kind)), Code.UNKNOWN_SERVER_ERROR)
