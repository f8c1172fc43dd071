"""Committed state as seen from outside: by another agent's process, a web application, the command line.

Reads go through RocksDB secondaries, refreshed at most every 100 ms, so they work while a worker runs and while none
does; single rows of shards that this process owns come from their open databases. Two reads may see two commits.

A row whose ttl is over is not there, although its bytes may be: the time of the agent that writes the table says so.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Iterator
from math import inf
from operator import itemgetter

from framework.log import Log, TopicInfo, partition_of
from framework.log.errors import NewerFormat
from framework.state import rows
from framework.state.database import Database, Snapshot
from framework.state.shards import SHARDS, Shards

REFRESH_S = 0.1
JOBS = "jobs"
DATABASES = (*map(str, range(SHARDS)), JOBS)


class StateView:
    """The committed state of one data directory; thread-safe."""

    def __init__(self, log: Log) -> None:
        """Opens a database when it is first asked."""
        self.own: Shards | None = None
        """The shards of this process, while it runs a worker."""
        self._log = log
        self._open: dict[str, tuple[Snapshot, float]] = {}
        self._table_partitions: dict[str, int] = {}
        self._owners: tuple[dict[str, str], float] | None = None
        self._guard = threading.Lock()

    def table_row(
        self, table: str, key: bytes, *, ttl_ms: int | None = None, partitions: int | None = None
    ) -> bytes | None:
        """The value of one row of *table*, None if it is not there.

        *ttl_ms* is the table's, 0 for none; None where it is not known, but each row tells what it was. *partitions*
        is over how many the rows are spread, None to find out.
        """
        if partitions is None:
            partitions = self.partitions_of(table)
        partition = partition_of(key, partitions) if partitions else 0
        name = _database_of(partition, partitions)
        shard = self._owned(name) or self._snapshot(name)
        value = shard.get(rows.table_prefix(table, partition) + key) if shard else None
        if shard is None or value is None or not value.startswith(rows.STAMPED):
            return value
        return _Judge(self, shard, table, partition, ttl_ms).value(value)

    def table_rows(
        self, table: str, prefix: bytes = b"", *, ttl_ms: int | None = None, partitions: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Every row of *table* whose key bytes begin with *prefix*, partition by partition, each in their order."""
        count = self.partitions_of(table) if partitions is None else partitions
        for partition in range(max(count, 1)):
            yield from self._rows(table, partition, count, ttl_ms, prefix)

    def table_range(
        self, table: str, start: bytes, end: bytes | None, *, ttl_ms: int | None = None, partitions: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """The rows of *table* from key *start* on up to *end*, of all partitions, in the order of their keys."""
        count = self.partitions_of(table) if partitions is None else partitions
        parts = [self._rows(table, partition, count, ttl_ms, b"", start) for partition in range(max(count, 1))]
        for key, value in heapq.merge(*parts, key=itemgetter(0)):
            if end is not None and key >= end:
                return
            yield key, value

    def _rows(
        self, table: str, partition: int, partitions: int, ttl_ms: int | None, prefix: bytes, start: bytes = b""
    ) -> Iterator[tuple[bytes, bytes]]:
        # Not from a database of our own: somebody may be at it when the worker closes that.
        shard = self._snapshot(_database_of(partition, partitions))
        if shard is None:
            return
        head, judge = rows.table_prefix(table, partition), _Judge(self, shard, table, partition, ttl_ms)
        for key, stored in shard.scan(head + prefix, start):
            value = judge.value(stored) if stored.startswith(rows.STAMPED) else stored
            if value is not None:
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
        released = self._released(table) if owner is None else None
        return 0 if released is None else released[0]

    def _released(self, table: str) -> tuple[int, str] | None:
        """(partitions, agent) of a table that was released."""
        key = rows.spread_key(table)
        found = (shard.get(key) for name in DATABASES if (shard := self._snapshot(name)) is not None)
        return next((rows.split_spread(value) for value in found if value is not None), None)

    def owners(self) -> dict[str, str]:
        """The agent that writes each table."""
        shards = [self._snapshot(name) for name in DATABASES]
        return {
            key[1:].decode(): value.decode() for shard in shards if shard is not None for key, value in shard.scan(b"w")
        }

    def owner_of(self, table: str) -> str | None:
        """The agent that writes *table*, or did before it was released; None without; may be `REFRESH_S` late."""
        if self.own is not None and (known := self.own.owner_of(table)) is not None:
            return known
        now = self._log.clock.monotonic()
        if self._owners is None or now - self._owners[1] > REFRESH_S:
            self._owners = self.owners(), now
        owner = self._owners[0].get(table)
        if owner is None and (released := self._released(table)) is not None:
            owner = released[1]
        return owner

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

    def name_rows(self) -> list[tuple[bytes, bytes]]:
        """The rows of what is known of agents and jobs by their names, see `framework.identity`."""
        agents = self._snapshot("0")
        return [*(agents.scan(b"n") if agents else ()), *self.job_rows(b"n")]

    def job_offsets(self) -> list[tuple[str, str, int, int]]:
        """(job, topic id, partition, offset) of every committed offset of a job."""
        return [(*rows.split_offset_key(key), rows.unpack_offset(value)) for key, value in self.job_rows(b"o")]

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

    def _owned(self, name: str) -> Database | None:
        return None if self.own is None else self.own.database_of(name)

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


def _database_of(partition: int, partitions: int) -> str:
    """Where the rows of a partition lie; those of no partition at all are a job's."""
    return str(partition % SHARDS) if partitions else JOBS


class _Judge:
    """Says which rows of one table in one partition are still there."""

    def __init__(
        self, view: StateView, shard: Database | Snapshot, table: str, partition: int, ttl_ms: int | None
    ) -> None:
        self._view, self._shard, self._ttl_ms = view, shard, ttl_ms
        self._table, self._partition = table, partition
        self._now_ms: int | None = None

    def value(self, stored: bytes) -> bytes | None:
        """The value in a stamped row, None if its time is over."""
        stamped = rows.split_stamped(stored)
        if stamped is None:
            return stored
        written_ms, ttl_ms, value = stamped
        if self._ttl_ms is not None:
            ttl_ms = self._ttl_ms
        return None if ttl_ms and written_ms + ttl_ms <= self._now() else value

    def _now(self) -> int:
        if self._now_ms is None:
            owner = self._view.owner_of(self._table)
            stored = None if owner is None else self._shard.get(rows.time_key(owner, self._partition))
            self._now_ms = 0 if stored is None else rows.unpack_u64(stored)
        return self._now_ms
