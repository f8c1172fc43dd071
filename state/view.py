"""Committed state as seen from outside: by another agent's process, a web application, the command line.

Reads go through RocksDB secondaries, refreshed at most every 100 ms, so they work while a worker runs and while none
does. Two reads may see two commits.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from math import inf

from framework.log import Log, TopicInfo, partition_of
from framework.log.errors import NewerFormat
from framework.state import rows
from framework.state.database import Snapshot
from framework.state.shards import SHARDS

REFRESH_S = 0.1
JOBS = "jobs"


class StateView:
    """The committed state of one data directory; thread-safe."""

    def __init__(self, log: Log) -> None:
        """Opens a database when it is first asked."""
        self._log = log
        self._open: dict[str, tuple[Snapshot, float]] = {}
        self._table_partitions: dict[str, int] = {}
        self._guard = threading.Lock()

    def table_row(self, table: str, key: bytes) -> bytes | None:
        """The value of one row of *table*, None if it is not there."""
        partitions = self.partitions_of(table)
        partition = partition_of(key, partitions) if partitions else 0
        shard = self._snapshot(str(partition % SHARDS) if partitions else JOBS)
        return shard.get(rows.table_prefix(table, partition) + key) if shard else None

    def table_rows(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Every row of *table* whose key bytes begin with *prefix*, partition by partition, each in their order."""
        partitions = self.partitions_of(table)
        places = [(str(partition % SHARDS), partition) for partition in range(partitions)] or [(JOBS, 0)]
        for name, partition in places:
            shard = self._snapshot(name)
            if shard is not None:
                head = rows.table_prefix(table, partition)
                for key, value in shard.scan(head + prefix):
                    yield key[len(head) :], value

    def partitions_of(self, table: str) -> int:
        """How many partitions the rows of *table* are spread over; 0 if a job writes it, or nobody yet."""
        known = self._table_partitions.get(table)
        if known is not None:
            return known
        owner = self.owners().get(table)
        topics = {info.id: info for info in self._log.topics().values()}
        for agent, topic_id, _, _ in self.offsets():
            if agent == owner and topic_id in topics:
                self._table_partitions[table] = topics[topic_id].partitions
                return topics[topic_id].partitions
        return 0

    def owners(self) -> dict[str, str]:
        """The agent that writes each table."""
        shards = [self._snapshot(name) for name in [*map(str, range(SHARDS)), JOBS]]
        return {
            key[1:].decode(): value.decode() for shard in shards if shard is not None for key, value in shard.scan(b"w")
        }

    def offset(self, agent: str, topic: TopicInfo, partition: int) -> int | None:
        """The committed offset of *agent*, None if it never committed."""
        shard = self._snapshot(str(partition % SHARDS))
        value = shard.get(rows.offset_key(agent, topic.id, partition)) if shard else None
        return None if value is None else rows.unpack_offset(value)

    def offsets(self) -> list[tuple[str, str, int, int]]:
        """(agent, topic id, partition, offset) of every committed offset."""
        found = []
        for name in map(str, range(SHARDS)):
            shard = self._snapshot(name)
            for key, value in shard.scan(b"o") if shard else ():
                found.append((*rows.split_offset_key(key), rows.unpack_offset(value)))
        return found

    def job_rows(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """The rows of the jobs database whose keys begin with *prefix*."""
        jobs = self._snapshot(JOBS)
        return list(jobs.scan(prefix)) if jobs else []

    def expire(self) -> None:
        """Have the next read see all that is committed by then."""
        with self._guard:
            self._open = {name: (snapshot, -inf) for name, (snapshot, _) in self._open.items()}

    def close(self) -> None:
        """Close what was opened."""
        for snapshot, _ in self._open.values():
            snapshot.close()
        self._open.clear()

    def _snapshot(self, name: str) -> Snapshot | None:
        """The database of that name, not older than `REFRESH_S`; None if there is none yet."""
        with self._guard:
            return self._refreshed(name)

    def _refreshed(self, name: str) -> Snapshot | None:
        now, known = self._log.clock.monotonic(), self._open.get(name)
        if known is None:
            path = self._log.path / "state" / name
            if not (path / "CURRENT").exists():
                return None
            known = self._open[name] = (_readable(Snapshot(path)), now)
        snapshot, refreshed = known
        if now - refreshed > REFRESH_S:
            snapshot.refresh()
            self._open[name] = (snapshot, now)
        return snapshot


def _readable(snapshot: Snapshot) -> Snapshot:
    """*snapshot*, if this version can read it.

    Raises:
        NewerFormat: It cannot.
    """
    try:
        rows.check_version(snapshot.get(rows.meta_key("store")), snapshot.path)
    except NewerFormat:
        snapshot.close()
        raise
    return snapshot
