"""The error codes are Kafka's, and each of our errors has one."""

from __future__ import annotations

import pytest
from kio.schema.errors import ErrorCode

from framework.log import errors
from framework.log.broker import Code, code_of


@pytest.mark.parametrize("code", Code, ids=lambda code: code.name)
def test_a_code_has_the_number_and_the_retries_that_kafka_gives_it(code: Code) -> None:
    theirs = ErrorCode(code.value)
    assert (theirs.name, theirs.retriable) == (code.name.lower(), code.retriable)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UnknownPartition("flights has no partition 7"), Code.UNKNOWN_TOPIC_OR_PARTITION),
        (errors.NewerFormat("version 9"), Code.KAFKA_STORAGE_ERROR),
        (errors.RecordTooLarge("2 of 1 bytes"), Code.MESSAGE_TOO_LARGE),
        (errors.UsageError("no"), Code.INVALID_REQUEST),
        (errors.ProducerFenced("epoch 1"), Code.INVALID_PRODUCER_EPOCH),
        (OSError(28, "No space left on device"), Code.KAFKA_STORAGE_ERROR),
        (errors.Error("what nobody thought of"), Code.UNKNOWN_SERVER_ERROR),
        (KeyError("a bug"), Code.UNKNOWN_SERVER_ERROR),
    ],
)
def test_errors_of_the_log_are_told_by_their_code(error: Exception, code: Code) -> None:
    assert code_of(error) is code
