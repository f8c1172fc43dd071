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
from framework.log.header import Header, read_header, walk

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

    def fold(self, read: Callable[[int, int], bytes], position: int, end: int) -> None:
        """Add the batches between two positions of a segment; *read* takes a size and a position."""
        while position < end:
            data = read(min(_FOLD_BYTES, end - position), position)
            whole = 0
            for at, base_offset, length in walk(data):
                header = read_header(data, at)
                if header.producer_id >= 0:
                    self.add(header, base_offset)
                whole = at + length
            if not whole:  # A batch larger than a chunk.
                header = read_header(data)
                if header.producer_id >= 0:
                    self.add(header, header.base_offset)
                whole = header.size
            position += whole

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
