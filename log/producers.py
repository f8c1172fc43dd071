"""What the log remembers of idempotent producers, so that an append sent twice is stored once.

    snapshot  = document "producers" {"rows": [[producer id, epoch, last sequence, last offset, timestamp], ...]}

`<base>.<generation>.producers` holds the state at the start of a segment and is written when the segment
begins: data, not cache, because the batches it was folded from may be gone. From there on the state is
folded from the batch headers of the segment.

Any sequence at or before the last one, modulo 2^31 by half range, is a duplicate: a task that replays an outbox
of ten batches meets ten duplicates, not Kafka's five.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from framework.log.document import read_document, write_document
from framework.log.errors import Damaged, OutOfOrderSequence
from framework.log.files import Files
from framework.log.header import HEADER_BYTES, Header, fault, read_header

VERSION = 1
TASK_PRODUCER_BIT = 1 << 62
_FOLD_BYTES = 1 << 20
_HALF, _MASK = 1 << 30, (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class ProducerState:
    """The last batch of one producer in one partition."""

    epoch: int
    last_sequence: int
    last_offset: int
    timestamp: int


class Producers:
    """The producers of one partition."""

    def __init__(self) -> None:
        """No producers yet."""
        self._states: dict[int, ProducerState] = {}

    def is_duplicate(self, header: Header) -> bool:
        """Whether the batch has been appended before.

        Raises:
            OutOfOrderSequence: A batch in between is missing.
        """
        state = self._states.get(header.producer_id)
        if state is None or header.producer_epoch > state.epoch:
            if header.base_sequence != 0 and not header.producer_id & TASK_PRODUCER_BIT:
                raise OutOfOrderSequence(
                    f"producer {header.producer_id} begins at sequence {header.base_sequence}, not 0"
                )
            return False
        ahead = (header.last_sequence - state.last_sequence) & _MASK
        if ahead == 0 or ahead > _HALF:
            return True
        if header.base_sequence != (state.last_sequence + 1) & _MASK:
            raise OutOfOrderSequence(
                f"producer {header.producer_id} sent sequence {header.base_sequence} after {state.last_sequence}"
            )
        return False

    def add(self, header: Header, base_offset: int) -> None:
        """Remember an appended batch."""
        self._states[header.producer_id] = ProducerState(
            header.producer_epoch,
            header.last_sequence,
            base_offset + header.last_offset_delta,
            header.max_timestamp,
        )

    def fold(self, read: Callable[[int, int], bytes], position: int, end: int, path: Path) -> None:
        """Add the batches between two positions of the segment at *path*; *read* takes a size and a position.

        Raises:
            Damaged: A batch is not what was appended. What it says of its producer would drop batches or double them.
        """
        chunk = _FOLD_BYTES
        while position < end:
            left = end - position
            data, at, size = memoryview(read(min(chunk, left), position)), 0, HEADER_BYTES
            while len(data) - at >= HEADER_BYTES:
                header = read_header(data, at)
                size = header.size
                if len(data) - at < size <= left - at:
                    break  # It may be whole: read more.
                if reason := fault(data, at, 0):
                    raise Damaged(f"{path} is damaged at byte {position + at}, offset {header.base_offset}: {reason}")
                if header.producer_id >= 0:
                    self.add(header, header.base_offset)
                at += size
            if not at and size <= chunk:
                raise Damaged(f"{path} is damaged at byte {position}: {len(data)} of {left} bytes are left")
            position, chunk = position + at, _FOLD_BYTES if at else size

    def last_sequence(self, producer_id: int) -> int | None:
        """The sequence of the producer's last record here, None if it has none."""
        state = self._states.get(producer_id)
        return None if state is None else state.last_sequence

    def write(self, files: Files, path: Path) -> None:
        """Write a snapshot."""
        rows = [[pid, s.epoch, s.last_sequence, s.last_offset, s.timestamp] for pid, s in self._states.items()]
        write_document(files, path, "producers", VERSION, {"rows": rows})

    @classmethod
    def read(cls, path: Path) -> Producers:
        """The snapshot at *path*.

        Raises:
            Damaged: It is missing although its segment is there.
        """
        producers = cls()
        try:
            rows = read_document(path, "producers", VERSION)["rows"]
        except FileNotFoundError:
            raise Damaged(f"{path} is missing: what its producers sent twice cannot be told any more") from None
        for pid, epoch, sequence, offset, timestamp in rows:
            producers._states[pid] = ProducerState(epoch, sequence, offset, timestamp)
        return producers
