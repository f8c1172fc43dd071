"""What the log remembers of idempotent producers, so that an append sent twice is stored once.

    snapshot  = document "producers" {"rows": [[producer id, epoch, last sequence, last offset, append second], ...]}

`<base>.<generation>.producers` holds the state at the start of a segment and is written when the segment
begins: data, not cache, because the batches it was folded from may be gone. From there on the state is
folded from the batch headers of the segment.

Other clients' producers are forgotten `producer.id.expiration.ms` after their last append; task producers never are,
for their outbox may be replayed at any time.

Any sequence at or before the last one, modulo 2^31 by half range, is a duplicate: a task that replays an outbox
of ten batches meets ten duplicates, not Kafka's five.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from framework.log.document import read_document, write_document
from framework.log.errors import Damaged, OutOfOrderSequence, ProducerFenced, UnknownProducer
from framework.log.files import Files
from framework.log.header import HEADER_BYTES, Header, fault, read_header
from framework.log.shared import Mark

if TYPE_CHECKING:
    from framework.log.segment import Segment

VERSION = 2
TASK_PRODUCER_BIT = 1 << 62
_UNKNOWN = -1
_FOLD_BYTES = 1 << 20
_HALF, _MASK = 1 << 30, (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class ProducerState:
    """The last batch of one producer in one partition."""

    epoch: int
    last_sequence: int
    last_offset: int
    second: int = field(default=_UNKNOWN, compare=False)
    """When it was appended; not known until `expire`, which is told by the file of append times."""


class Producers:
    """The producers of one partition."""

    def __init__(self) -> None:
        """No producers yet."""
        self._states: dict[int, ProducerState] = {}

    def is_duplicate(self, header: Header) -> bool:
        """Whether the batch has been appended before.

        Raises:
            OutOfOrderSequence: A batch in between is missing.
            ProducerFenced: A newer producer of the same id has taken over.
        """
        state = self._states.get(header.producer_id)
        if state is not None and header.producer_epoch < state.epoch:
            raise ProducerFenced(
                f"producer {header.producer_id} of epoch {header.producer_epoch} was followed by epoch {state.epoch}"
            )
        if state is None or header.producer_epoch > state.epoch:
            if header.base_sequence != 0 and not header.producer_id & TASK_PRODUCER_BIT:
                error = UnknownProducer if state is None else OutOfOrderSequence
                raise error(f"producer {header.producer_id} begins at sequence {header.base_sequence}, not 0")
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

    def expire(self, append_times: Sequence[tuple[int, int]], now_s: int, expiration_ms: int) -> None:
        """Forget the producers of other clients that appended nothing for so long.

        *append_times* holds (second, base offset) of the segment that ends here.
        """
        bases = [base_offset for _, base_offset in append_times]
        for producer_id, state in list(self._states.items()):
            second = state.second
            if second == _UNKNOWN:
                at = bisect_right(bases, state.last_offset) - 1
                second = append_times[at][0] if at >= 0 else now_s
                self._states[producer_id] = replace(state, second=second)
            if not producer_id & TASK_PRODUCER_BIT and (now_s - second) * 1000 >= expiration_ms:
                del self._states[producer_id]

    def write(self, files: Files, path: Path) -> None:
        """Write a snapshot."""
        rows = [[pid, s.epoch, s.last_sequence, s.last_offset, s.second] for pid, s in self._states.items()]
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
        for pid, epoch, sequence, offset, second in rows:
            producers._states[pid] = ProducerState(epoch, sequence, offset, second)
        return producers


class FoldedProducers:
    """The producers of a partition as one process has folded them, up to a mark that it follows."""

    def __init__(self) -> None:
        """Nothing is folded yet."""
        self._producers: Producers | None = None
        self._to = Mark(0, 0, 0)

    def as_of(self, mark: Mark, segment: Segment, read: Callable[[int, int], bytes]) -> Producers:
        """The producers as of *mark*, from the snapshot of its *segment* and the headers behind it.

        Raises:
            Damaged: The snapshot is not there, or it or a batch is not what was written.
        """
        if self._producers is None or self._to.segment != mark.segment:
            self._producers = Producers.read(segment.producers_path)
            self._to = Mark(mark.segment, 0, mark.segment)
        self._producers.fold(read, self._to.position, mark.position, segment.path)
        self._to = mark
        return self._producers

    def move(self, before: Mark, mark: Mark) -> None:
        """What was added since *before* is in the log now, which ends at *mark*."""
        if self._to == before:
            self._to = mark

    def forget(self) -> None:
        """Begin anew: it may count batches that are not there."""
        self._producers = None
