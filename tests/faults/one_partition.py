"""What the scenarios share: the one partition of a log, appending to it, reading all of it, and cutting its power."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from framework.log import Log, NewRecord, Partition, decode, encode
from tests.faults.crash_files import CrashFiles
from tests.faults.log_disk import State, materialize


def the(log: Log) -> Partition:
    """The one partition."""
    return log.partition(log.topic("t"), 0)


def batch(value: bytes, **options: Any) -> bytearray:
    """*value* as one batch."""
    [one] = encode([NewRecord(None, value, 0)], max_batch_bytes=1 << 23, **options)
    return one


def append(log: Log, *values: bytes) -> int:
    """Append a batch of each value; the first offset, once it is durable."""
    return log.append(the(log), [batch(value) for value in values]).result(60)


def read_all(log: Log, start: int = 0) -> list[bytes]:
    """Every value from offset *start* on; offsets must be dense."""
    reader, records = log.reader(the(log), start), []
    while batches := reader.read(1 << 23).batches:
        records += [record for _, batch in batches for record in decode(batch)]
    reader.close()
    assert [record.offset for record in records] == list(range(start, start + len(records)))
    return [record.value or b"" for record in records]


def after_cut(files: CrashFiles, root: Path, style: str, keep: str = "") -> State:
    """A directory as a power cut leaves it; the file named *keep* has lost nothing."""
    cut = files.cut("")
    state, identity = cut.fall(random.Random(0), style)
    whole, _ = cut.fall(random.Random(0), "everything")
    state |= {path: data for path, data in whole.items() if path == keep}
    root.mkdir()
    materialize(state, identity, root)
    return state
