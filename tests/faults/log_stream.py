"""One partition as its writers know it: what was sent, what was answered, what was seen, what was to be removed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from framework.log import decode
from framework.log.header import CRC_START, Header, read_header

Key = tuple[str, int]
Found = list[tuple[Header, bytes]]
What = int | tuple[tuple[bytes, int | None], ...]
"""A batch to send: the size of its value, or keys with the sizes of theirs, None for a tombstone."""


class Violation(AssertionError):
    """A promise that was not kept; `check` names it."""

    def __init__(self, check: str, what: str) -> None:
        super().__init__(f"{check}: {what}")
        self.check = check


@dataclass(frozen=True)
class Sent:
    """One batch that was handed to the log, once or more often; `body` is what the log never changes of it."""

    batch: bytes
    producer: int | None
    what: What
    stamp: int
    """The time of its records, which no other batch has."""

    @property
    def body(self) -> bytes:
        """Everything from the attributes on."""
        return self.batch[CRC_START:]


class Marks(NamedTuple):
    """How far one partition was at one moment."""

    visible: int
    acknowledged: int
    """How many of the answers count."""
    sent: int
    starts: int
    """How many of the log starts were acknowledged."""
    moving: bool
    """Whether the next of them may be in force."""
    compacted_to: int
    """Below this only the last record of each key is left, and that was acknowledged."""
    droppable: frozenset[int]
    """The tombstones that were kept for long enough."""


@dataclass
class Stream:
    """One partition as its writers know it: every batch in the order it was first sent, and the answers."""

    sent: list[Sent] = field(default_factory=list)
    answers: list[tuple[int, int]] = field(default_factory=list)
    """Of each acknowledged batch: its place in `sent`, and its offset, -1 for a duplicate."""
    outbox: dict[int, list[int]] = field(default_factory=dict)
    sequences: dict[int, int] = field(default_factory=dict)
    final: dict[int, bytes] = field(default_factory=dict)
    """The body, as it was sent, of every batch that was ever looked at, by its offset."""
    times: dict[int, int] = field(default_factory=dict)
    """Where each append second began."""
    starts: list[int] = field(default_factory=lambda: [0])
    moving: bool = False
    asked: int | None = None
    """Where the log start was moved last; None if retention did."""
    compacted_to: int = 0
    marked: dict[int, int] = field(default_factory=dict)
    """When the tombstone at an offset was first compacted."""
    droppable: set[int] = field(default_factory=set)

    def after_a_crash(self, marks: Marks) -> Stream:
        """What is still true of it for those who go on."""
        after = Stream(self.sent[: marks.sent], self.answers[: marks.acknowledged])
        answered = {at for at, _ in after.answers}
        for at, sent in enumerate(after.sent):
            if sent.producer is not None:
                after.sequences[sent.producer] = read_header(sent.batch).last_sequence + 1
                if at not in answered:
                    after.outbox.setdefault(sent.producer, []).append(at)
        after.final = {base: body for base, body in self.final.items() if base < marks.visible}
        after.times = {base: second for base, second in self.times.items() if base < marks.visible}
        after.starts, after.moving, after.asked = self.starts[: marks.starts], marks.moving, self.asked
        after.compacted_to, after.droppable, after.marked = marks.compacted_to, set(marks.droppable), dict(self.marked)
        return after


class Record(NamedTuple):
    """One record, without its offset."""

    key: bytes | None
    value: bytes | None
    stamp: int


def records_of(bodies: dict[int, bytes]) -> dict[int, Record]:
    """The records of batches, by offset."""
    found = {}
    for base, body in bodies.items():
        for record in decode(base.to_bytes(8) + bytes(CRC_START - 8) + body):
            found[record.offset] = Record(record.key, record.value, record.timestamp)
    return found
