"""Where the last batches of idempotent producers went, so that one sent again is acknowledged with its offset.

The log itself knows what was sent before, and drops it. This only knows where it was, as long as the broker runs; as
many batches a producer as clients have unacknowledged at most, and the producers that sent last.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from framework.log.header import Header
from framework.log.partition import Partition

BATCHES = 5
MAX_PRODUCERS = 10_000


class SentBefore:
    """Offsets of batches by partition, producer, epoch and sequence number."""

    def __init__(self, max_producers: int = MAX_PRODUCERS) -> None:
        """Knows of none yet."""
        self._max_producers = max_producers
        self._batches: OrderedDict[tuple[Partition, int], deque[tuple[int, int, int, int]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._batches)

    def add(self, partition: Partition, header: Header, offset: int) -> None:
        """A batch with this *header* was appended at *offset*."""
        key = (partition, header.producer_id)
        batches = self._batches.get(key)
        if batches is None:
            batches = self._batches[key] = deque(maxlen=BATCHES)
            if len(self._batches) > self._max_producers:
                self._batches.popitem(last=False)
        else:
            self._batches.move_to_end(key)
        batches.append((header.producer_epoch, header.base_sequence, header.records, offset))

    def offset_of(self, partition: Partition, header: Header) -> int | None:
        """Where the batch with this *header* went, None if that is not known any more."""
        sought = (header.producer_epoch, header.base_sequence, header.records)
        for *sent, offset in self._batches.get((partition, header.producer_id), ()):
            if tuple(sent) == sought:
                return offset
        return None
