"""A partition that is compacted only when a test says so, beside a model of what compaction has to keep."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any
from unittest import mock

from framework.log import Clock, Files, Log, NewRecord, Partition, StoredRecord, TopicSettings, decode, encode
from framework.log.clock import EPOCH
from framework.log.compaction import Compactor
from framework.log.doorbell import Doorbell
from framework.log.header import Header, read_header
from framework.log.manifest import Manifest
from framework.log.verify import Verification
from tests.faults.log_power import in_memory
from tests.log.conftest import MAX_BATCH_BYTES, TIMEOUT_S, ManualClock

COMPACT: dict[str, Any] = {"cleanup_policy": "compact", "segment_bytes": 4096, "index_interval_bytes": 512}
UNLIMITED = 1 << 30
TORTURE = os.environ.get("FRAMEWORK_TORTURE") == "1"
Plain = tuple[int, bytes | None, bytes | None, int, list[tuple[str, bytes | None]]]
"""Offset, key, value, timestamp, headers."""


def plain(record: StoredRecord) -> Plain:
    """A record of the log, to be compared."""
    return record.offset, record.key, record.value, record.timestamp, list(record.headers)


@contextmanager
def scratch() -> Iterator[Path]:
    """A data directory, in memory if that can be: an example of a property has no `tmp_path` of its own."""
    with tempfile.TemporaryDirectory(dir=in_memory()) as place:
        yield Path(place) / "data"


def open_quiet(path: Path, clock: Clock | None = None, files: Files | None = None) -> Log:
    """The log in *path*, which neither compacts nor removes anything by itself."""
    log = Log(path, create=True, clock=clock or ManualClock(), files=files)
    log._committer._rolled = lambda partition: None
    return log


def make(log: Log, **settings: Any) -> Partition:
    """A topic of one partition with small segments, which is compacted."""
    return log.partition(log.create_topic("t", 1, TopicSettings(**{**COMPACT, **settings})), 0)


def put(log: Log, partition: Partition, *records: NewRecord, **options: Any) -> int:
    """Append *records* as one batch; its offset, once it is durable."""
    batches = encode(records, max_batch_bytes=MAX_BATCH_BYTES, **options)
    return log.append(partition, batches).result(TIMEOUT_S)


def keyed(key: bytes, value: bytes | None = b"", at: int = 0) -> NewRecord:
    """A record with nothing but a key and a value."""
    return NewRecord(key, value, at)


def fill(log: Log, partition: Partition, count: int, *, keys: int = 3, size: int = 900) -> None:
    """Append *count* records, four of which fill a segment, with *keys* keys in turn."""
    for at in range(count):
        put(log, partition, keyed(b"k%d" % (at % keys), b"%d:" % at + bytes(size)))


def records_of(log: Log, start: Any = "beginning") -> list[Plain]:
    """All records of topic t from *start* on."""
    return [plain(record) for _, record in log.read("t", start)]


def offsets_of(log: Log, start: Any = "beginning", topic: str = "t") -> list[int]:
    """The offsets of all records of *topic* from *start* on."""
    return [record.offset for _, record in log.read(topic, start)]


def batches_of(log: Log, partition: Partition) -> dict[int, bytes]:
    """Every batch by its base offset."""
    reader, found = log.reader(partition, partition.log_start), dict[int, bytes]()
    while batches := reader.read().batches:
        found |= {header.base_offset: bytes(batch) for header, batch in batches}
    reader.close()
    return found


def names_in(partition: Partition) -> set[str]:
    """The files of the partition's directory."""
    return {path.name for path in partition.directory.iterdir()}


def names_that_should_be(partition: Partition) -> set[str]:
    """The files that the manifest on the disk names, and itself."""
    rows = Manifest.read(partition.directory).segments
    closed = {f"{row.stem}.index" for row in rows[:-1]}
    return {"manifest", *closed} | {f"{row.stem}{end}" for row in rows for end in (".log", ".appended", ".producers")}


def findings(path: Path) -> list[str]:
    """What `verify --deep` has to say."""
    return [str(finding) for finding in Verification(path, deep=True).findings()]


@contextmanager
def limited_map(max_keys: int) -> Iterator[None]:
    """Compactions put about so many keys into their map."""
    with mock.patch.object(Compactor.map_keys, "__defaults__", (max_keys,)):
        yield


def until(log: Log, condition: Callable[[], bool]) -> None:
    """Return when *condition* is true."""
    doorbell, deadline = Doorbell(log.shared.path, log.shared.fd), monotonic() + TIMEOUT_S
    try:
        while not condition():
            assert monotonic() < deadline, "it does not come true"
            doorbell.wait(0.002)
    finally:
        doorbell.close()


class Model:
    """A log and what must be in it, after any steps; every step checks itself."""

    def __init__(self, path: Path, **settings: Any) -> None:
        """An empty log."""
        self.path, self.clock = path, ManualClock()
        self.log = open_quiet(path, self.clock)
        self.partition = make(self.log, **settings)
        self.settings = self.partition.topic.settings
        self.written: dict[int, Plain] = {}
        self.kept: list[int] = []
        self.horizons: dict[int, int] = {}
        """When tombstones may go, by their offsets."""

    def append(self, rows: Sequence[tuple[Any, ...]], compression: str, max_batch_bytes: int = 2000) -> None:
        """Append a record for each of *rows*, in as many batches as they take."""
        records = [NewRecord(k, bytes(v) if isinstance(v, int) else v, time, headers) for k, v, time, headers in rows]
        batches = encode(records, max_batch_bytes=max_batch_bytes, compression=compression)
        base = self.log.append(self.partition, batches).result(TIMEOUT_S)
        for at, record in enumerate(records, base):
            self.written[at] = (at, record.key, record.value, record.timestamp, list(record.headers))
            self.kept.append(at)

    def compact(self, max_keys: int = UNLIMITED) -> None:
        """Compact by force, and predict what is left."""
        before, active = batches_of(self.log, self.partition), self.partition.segments()[-1:]
        active_bytes = [segment.path.read_bytes() for segment in active]
        with limited_map(max_keys):
            self.log.compact("t")
        manifest = self._manifest()
        if manifest is not None:
            self._predict(manifest.compacted_to, self._old_enough(manifest))
        self.check()
        after = batches_of(self.log, self.partition)
        assert [segment.path.read_bytes() for segment in self.partition.segments()[-1:]] == active_bytes
        for base, batch in after.items():
            self._check_batch(before[base], batch, manifest.compacted_to if manifest else 0)
        assert names_in(self.partition) == names_that_should_be(self.partition) if manifest else True

    def _manifest(self) -> Manifest | None:
        return Manifest.read(self.partition.directory) if (self.partition.directory / "manifest").exists() else None

    def _old_enough(self, manifest: Manifest) -> int:
        """Up to where `min.compaction.lag.ms` lets tombstones go."""
        dirt = self.partition.dirt()
        assert dirt is not None
        return dirt.end_offset if dirt.rows else manifest.segments[0].base_offset

    def _predict(self, compacted_to: int, looked_at_to: int) -> None:
        last = {self.written[at][1]: at for at in self.kept if at < compacted_to}
        left = list[int]()
        for at in self.kept:
            _, key, value, *_ = self.written[at]
            if at < compacted_to and key is not None:
                if at != last[key] or (at < looked_at_to and self.horizons.get(at, UNLIMITED**3) <= self.clock.ms):
                    continue
                if value is None:
                    self.horizons.setdefault(at, self.clock.ms + self.settings.delete_retention_ms)
            left.append(at)
        self.kept = left

    def _check_batch(self, before: bytes, after: bytes, compacted_to: int) -> None:
        """What is left of a batch says the same about itself, and it is as it was where there was nothing to do."""
        old, new = read_header(before), read_header(after)
        assert _told(old) == _told(new)
        whole = old.records == new.records and all(record.value is not None for record in decode(after))
        if whole or old.base_offset >= compacted_to:
            assert after == before

    def delete_records(self, share: float) -> None:
        """Move the log start up, over a *share* of what there is."""
        end = self.partition.high_watermark
        before = self.partition.log_start + int(share * (end - self.partition.log_start))
        if end:
            self.partition.delete_records(before)
        self._started_at(before)

    def retain(self) -> None:
        """Let retention remove what is too old."""
        self._started_at(self.partition.retain())

    def _started_at(self, log_start: int) -> None:
        self.kept = [at for at in self.kept if at >= log_start]
        self.check()

    def reopen(self) -> None:
        """Close the log and open it."""
        self.log.close()
        self.log = open_quiet(self.path, self.clock)
        self.partition = self.log.partition(self.log.topic("t"), 0)
        self.check()

    def check(self) -> None:
        """The log holds what it must, as it was written."""
        found = records_of(self.log)
        assert [record[0] for record in found] == self.kept
        assert found == [self.written[at] for at in self.kept]

    def check_everywhere(self) -> None:
        """Reading from every offset, counting, the last few and times agree; `verify` finds nothing."""
        log, start, end = self.log, self.partition.log_start, self.partition.high_watermark
        for offset in range(start, end + 1):
            expected = [at for at in self.kept if at >= offset]
            reader, found = log.reader(self.partition, offset), list[int]()
            while batches := reader.read(400).batches:
                found += [record.offset for _, batch in batches for record in decode(batch) if record.offset >= offset]
            reader.close()
            assert found == expected == offsets_of(log, offset)
            assert reader.offset == end
            assert log.read("t", offset).count() == len(expected)
            assert log.read("t", "beginning", offset).count() == len(self.kept) - len(expected)
        for last in range(1, len(self.kept) + 2):
            assert offsets_of(log, -last) == self.kept[-last:]
        for time in {self.written[at][3] + more for at in self.kept for more in (0, 1)}:
            expected = [at for at in self.kept if self.written[at][3] >= time]
            place = log.offset_of(self.partition, _moment(time))
            assert place == (expected[0] if expected else end)
        assert findings(self.path) == []
        self.log.close()
        assert findings(self.path) == []


def _moment(milliseconds: int) -> Any:
    return EPOCH + timedelta(milliseconds=milliseconds)


def _told(header: Header) -> tuple[int, ...]:
    return *header[9:12], header.last_offset_delta, header.max_timestamp
