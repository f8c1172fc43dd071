"""Where the records of a partition end: compaction and control records leave offsets behind without any."""

from __future__ import annotations

from framework.log import Log, Partition, decode

LOOK_BACK = 64
"""How many offsets are looked at first."""


def end_of_records(log: Log, partition: Partition) -> int:
    """The offset behind the last record below the high watermark; the log start if there is no record.

    Raises:
        Damaged: A batch is not what was appended.
    """
    end, back = partition.high_watermark, LOOK_BACK
    limit = partition.topic.settings.most_uncompressed_bytes
    while True:
        start = partition.log_start
        first = max(start, end - back)
        last = start
        reader = log.reader(partition, first)
        try:
            while reader.offset < end:
                for header, batch in reader.read().batches:
                    last = max(last, header.next_offset if header.dense else decode(batch, limit)[-1].offset + 1)
        finally:
            reader.close()
        if last > start or first == start:
            return min(last, end)
        back *= 8
