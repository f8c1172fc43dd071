"""Where the last batches of idempotent producers went, so that one sent again is acknowledged with its offset.

The log itself knows what was sent before, and drops it. `SentBefore` only knows where it was, as long as the broker
runs; as many batches a producer as clients have unacknowledged at most, and the producers that sent last. After a
start, what its clients send again is looked for at the end of the log: a client that is told no offset takes it for -1,
and counts the records of the batch from there.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from framework.log.header import Header
from framework.log.log import Log
from framework.log.partition import Partition

BATCHES = 5
MAX_PRODUCERS = 10_000
MAX_SOUGHT_BYTES = 16 << 20
"""How far behind the end of a partition a batch is looked for."""
FIRST_SOUGHT, SOUGHT_MORE = 256, 4
"""So many records at the end come first, then so many times as many before them, and so on."""


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


def find_batch(log: Log, partition: Partition, header: Header) -> int | None:
    """Where the batch with this *header* is, None if it is not near the end of *partition*; reads files.

    Raises:
        Damaged: What is there cannot be read.
    """
    sought = (header.producer_id, header.producer_epoch, header.base_sequence, header.last_offset_delta)
    stop, count, left = partition.high_watermark, FIRST_SOUGHT, MAX_SOUGHT_BYTES
    while left > 0 and stop > (start := partition.log_start):
        begin = max(start, stop - count)
        reader = log.reader(partition, begin)
        try:
            while reader.offset < stop:
                for each, batch in reader.read().batches:
                    if (each.producer_id, each.producer_epoch, each.base_sequence, each.last_offset_delta) == sought:
                        return each.base_offset
                    left -= len(batch)
        finally:
            reader.close()
        stop, count = begin, count * SOUGHT_MORE
    return None
