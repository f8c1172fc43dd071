"""The errors of the whole project, one tree, rooted here.

    Error
    |-- UsageError              what was asked for cannot be: a name, a setting, an argument      exit 2
    |   |-- InvalidName
    |   |-- InvalidSetting
    |   |-- RecordTooLarge
    |   |-- KeyRequired
    |   `-- TooManyGroups
    |-- NotFound                a topic, partition or data directory is not there                 exit 4
    |   |-- UnknownTopic
    |   |-- UnknownPartition
    |   `-- NoDataDirectory
    |-- Conflict                somebody else holds it, or it is already so                       exit 5
    |   |-- TopicExists
    |   |-- PartitionBusy
    |   |-- OpenAfterFork
    |   `-- UnsafeFileSystem
    |-- Damaged                 bytes on disk are not what was written                            exit 6
    |   `-- NewerFormat
    |-- OffsetOutOfRange        below the log start, or above the log end
    |-- ProducerFenced          a newer producer of the same id has taken over
    |-- OutOfOrderSequence      an idempotent producer skipped a sequence number
    |   `-- UnknownProducer     nothing is known of it, and it does not begin at 0
    |-- PartitionFailed         a write or sync failed; nobody may append until it is reopened
    |-- LogClosed               used after `close`
    |-- MalformedFrame          a client of the broker sent what is not the Kafka protocol
    |-- UnsupportedRequest      it asked for what the broker does not speak
    `-- state.errors, framework.errors: the rest of the tree

`exit_code` is what the command line exits with; codes not named here are 1.
"""

from __future__ import annotations


class Error(Exception):
    """Any error this project raises on purpose."""

    exit_code = 1


class UsageError(Error):
    """What was asked for cannot be done, and asking again will not help."""

    exit_code = 2


class InvalidName(UsageError):
    """A name holds characters that cannot stand in a file name or a Kafka topic."""


class InvalidSetting(UsageError):
    """A setting is unknown or its value is out of range."""


class RecordTooLarge(UsageError):
    """One record is larger than `max_batch_bytes` of its topic."""


class KeyRequired(UsageError):
    """A record without a key was sent to a compacted topic."""


class TooManyGroups(UsageError):
    """A group more would have committed offsets than the broker's settings allow."""


class NotFound(Error):
    """What was named does not exist."""

    exit_code = 4


class UnknownTopic(NotFound):
    """No topic of this name."""


class UnknownPartition(NotFound):
    """The topic has no partition of this number."""


class NoDataDirectory(NotFound):
    """There is no data directory where one was looked for."""


class Conflict(Error):
    """Another process holds it, or it exists already."""

    exit_code = 5


class TopicExists(Conflict):
    """A topic of this name exists with other settings."""


class PartitionBusy(Conflict):
    """Another process held a lock for longer than `lock_timeout`."""


class OpenAfterFork(Conflict):
    """A log that was open at `fork` is used in the child."""


class UnsafeFileSystem(Conflict):
    """The data directory is where other kernels may write to it as well."""


class Damaged(Error):
    """Bytes on disk are not what was written; names file and position."""

    exit_code = 6


class NewerFormat(Damaged):
    """A file was written by a newer version of this software."""


class OffsetOutOfRange(Error):
    """The offset is below the log start or above the log end."""


class ProducerFenced(Error):
    """A producer of the same id and a newer epoch has taken over."""


class OutOfOrderSequence(Error):
    """An idempotent producer's sequence number leaves a gap."""


class UnknownProducer(OutOfOrderSequence):
    """An idempotent producer goes on of which the log knows nothing, or nothing any more."""


class PartitionFailed(Error):
    """A write or sync of the partition failed; it takes no appends until it is reopened."""


class LogClosed(Error):
    """The log, or the committer behind it, is closed."""


class MalformedFrame(Error):
    """A frame is not what the protocol says; `field` is the path to what cannot be read, `offset` where in the frame.

    Whoever reads it closes the connection: there is no telling where the next frame begins, or what this one meant.
    """

    def __init__(self, reason: str, offset: int, field: str = "") -> None:
        """*reason* goes on with what was found, the field comes first."""
        super().__init__(reason, offset, field)
        self.reason, self.offset, self.field = reason, offset, field

    def __str__(self) -> str:
        """Field, place and reason."""
        return f"{self.field or 'frame'} at byte {self.offset}: {self.reason}"


class UnsupportedRequest(Error):
    """A request is of an API, or of a version of one, that the broker does not speak.

    `answer` is what to send before the connection goes on; without one it is closed, as no client would understand.
    """

    def __init__(self, text: str, answer: list[bytes | bytearray | memoryview] | None = None) -> None:
        """*text* names API, version and the versions that there are."""
        super().__init__(text)
        self.answer = answer
