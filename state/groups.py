"""Committed offsets of the broker's groups: the database `state/groups`, and reading it from outside.

    meta      = "m" name                                             -> as in `rows`
    group     = "g" group                                            -> ms:u64 when it committed, or was seen, last
    offset    = "o" length:u16 group topic_id:16 partition:u32       -> ms:u64 offset:u64 leader_epoch:i32 metadata

Big-endian; the length is that of the group's name, which may hold any characters. There is a group row as long as there
are offsets. One process has the database, by a lock in the shared file; others read it through `GroupsView`.

Changes are made by one thread: it takes what has come in, writes that in the order of the calls, syncs once, and only
then are the futures done. So however many clients commit, the disk syncs one commit after the other.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import threading
import time
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from framework.log import Log
from framework.log.broker.offsets import Committed, Place, expired, too_many
from framework.log.errors import Error, LogClosed
from framework.log.locks import GROUPS_LOCK
from framework.state import rows
from framework.state.database import Database, Snapshot
from framework.state.errors import GroupsBusy, StateDamaged, StateFailed
from framework.state.rows import Change

FOLDER = "groups"
MAX_GROUPS = 10_000
MOST_AT_ONCE = 1_000
"""So many changes are synced together at most."""
_POLL_S = 0.05
_NAME, _PLACE, _TIME, _OFFSET = struct.Struct(">H"), struct.Struct(">16sI"), struct.Struct(">Q"), struct.Struct(">QQi")
_MANIFEST, _STORE = rows.meta_key("manifest"), rows.meta_key("store")
Scan = Callable[[bytes], Iterator[tuple[bytes, bytes]]]
logger = logging.getLogger("framework.state")


class _Change(NamedTuple):
    """What one call asked for: rows, or a function that finds them when it is its turn; and what it returns."""

    rows: list[Change] | Callable[[], tuple[list[Change], int]]
    done: Future[Any]


class GroupStore:
    """An `OffsetStore` on RocksDB, owned by this process; thread-safe."""

    def __init__(
        self,
        log: Log,
        *,
        wait_s: float = 0.0,
        max_groups: int = MAX_GROUPS,
        open_database: Callable[[Path], Database] = Database,
    ) -> None:
        """Own and open the database of the log's directory.

        Raises:
            GroupsBusy: Another process has it for *wait_s* seconds, or this one has it open already.
            NewerFormat, StateDamaged: It cannot be read.
            StateFailed: The disk refused what opening it writes.
        """
        self._log, self._max_groups = log, max_groups
        self._closed, self._failed, self._given_back, self._guard = False, False, False, threading.Lock()
        self._synced_sequence = 0
        self._queue: SimpleQueue[_Change | None] = SimpleQueue()
        self._own(wait_s)
        try:
            self._database = open_database(log.path / "state" / FOLDER)
            try:
                self._load()
            except BaseException:
                self._database.close()
                raise
        except BaseException:
            log.shared.disown(GROUPS_LOCK)
            raise
        self._thread = threading.Thread(target=self._run, name=f"framework-groups-{log.path.name}", daemon=True)
        self._thread.start()

    def commit(self, group: str, offsets: Mapping[Place, Committed]) -> Future[None]:
        """As `OffsetStore.commit`.

        Raises:
            TooManyGroups: There are `max_groups` others.
            LogClosed: It is closed.
        """
        if group not in self._known and len(self._known) >= self._max_groups:
            raise too_many(group, self._max_groups)
        head = _offset_prefix(group)
        changes: list[Change] = [(head + _pack_place(place), _pack(each)) for place, each in offsets.items()]
        if changes:
            changes.append((_group_key(group), _TIME.pack(max(each.time_ms for each in offsets.values()))))
        return self._submit(changes)

    def fetch(self, group: str, places: Iterable[Place] | None = None) -> dict[Place, Committed]:
        """As `OffsetStore.fetch`.

        Raises:
            StateDamaged: A row cannot be read.
        """
        if places is None:
            return _offsets(self._database.scan, group)
        head, found = _offset_prefix(group), dict[Place, Committed]()
        for place in places:
            value = self._database.get(head + _pack_place(place))
            if value is not None:
                found[place] = _unpack(value)
        return found

    def groups(self) -> list[str]:
        """As `OffsetStore.groups`."""
        return list(self._known)

    def delete_group(self, group: str) -> Future[None]:
        """As `OffsetStore.delete_group`."""
        return self._submit(lambda: (self._emptied(group), 0))

    def delete(self, group: str, places: Collection[Place]) -> Future[None]:
        """As `OffsetStore.delete`."""
        return self._submit(lambda: (self._without(group, places), 0))

    def expire(self, before_ms: int, now_ms: int, live: Collection[str], topics: Container[str]) -> Future[int]:
        """As `OffsetStore.expire`."""
        return self._submit(lambda: self._expired(before_ms, now_ms, live, topics))

    def close(self) -> None:
        """Make what was asked for, close the database and give it back; more calls do nothing."""
        with self._guard:
            if self._given_back:
                return
            self._closed = self._given_back = True
            self._queue.put(None)
        self._thread.join()
        self._database.close()
        self._log.shared.disown(GROUPS_LOCK)

    def _own(self, wait_s: float) -> None:
        deadline = self._log.clock.monotonic() + wait_s
        while (pid := self._log.shared.try_own(GROUPS_LOCK)) is not None:
            if self._log.clock.monotonic() >= deadline:
                who = "this process" if pid == os.getpid() else f"process {pid}"
                raise GroupsBusy(
                    f"{who} has the groups of {self._log.path}: a broker is running there. Stop it, wait for it with "
                    "--wait SECONDS, or ask it over the Kafka protocol, as kafka-consumer-groups does"
                )
            time.sleep(_POLL_S)

    def _load(self) -> None:
        rows.check_version(self._database.get(_STORE), self._database.path)
        self._database.check_manifest(self._database.get(_MANIFEST))
        self._known = {key[1:].decode() for key, _ in self._database.scan(b"g")}

    # In the thread that writes.

    def _submit(self, change: list[Change] | Callable[[], tuple[list[Change], int]]) -> Future[Any]:
        done: Future[Any] = Future()
        with self._guard:
            if self._closed:
                raise LogClosed(f"the groups of {self._log.path} are closed")
            self._queue.put(_Change(change, done))
        return done

    def _run(self) -> None:
        try:
            self._serve()
        finally:
            # Nobody waits for ever, should it have ended by a fault of ours.
            with self._guard:
                self._closed = True
            while not self._queue.empty():
                change = self._queue.get()
                if change is not None:
                    change.done.set_exception(LogClosed(f"the groups of {self._log.path} are closed"))

    def _serve(self) -> None:
        change = self._queue.get()
        while change is not None:
            taken = [change]
            while len(taken) < MOST_AT_ONCE and not self._queue.empty():
                change = self._queue.get()
                if change is None:
                    break
                taken.append(change)
            self._make(taken)
            change = change and self._queue.get()

    def _make(self, taken: list[_Change]) -> None:
        """Write *taken*, sync, and say so to those who wait; or say to all of them that it failed."""
        # Whoever asked may have given up, but what was asked for counts.
        waiting = [change for change in taken if change.done.set_running_or_notify_cancel()]
        try:
            if self._failed:
                self._reopen()
            results = self._write(taken)
            self._database.sync()
            self._synced_sequence = self._database.sequence
        except BaseException as error:  # whoever waits must hear of it; what is no error of ours goes on
            # It takes no more writes until it is opened anew, which the next change does.
            self._failed = self._failed or isinstance(error, StateFailed)
            logger.error("committed offsets could not be written: %s", error)
            for change in waiting:
                change.done.set_exception(error)
            if not isinstance(error, Error):
                raise
            return
        for change, result in zip(taken, results, strict=True):
            if not change.done.cancelled():
                change.done.set_result(result)

    def _reopen(self) -> None:
        self._database.reopen()
        if self._database.sequence < self._synced_sequence:
            raise StateDamaged(
                f"the state in {self._database.path} has lost commits while it was in use: the disk did not keep what "
                "it said it had. Restore state and log from a backup, or remove this part of the state to start anew"
            )
        self._load()
        self._failed = False

    def _write(self, taken: list[_Change]) -> list[int | None]:
        gathered: list[Change] = []
        results: list[int | None] = []
        for change in taken:
            if callable(change.rows):
                self._put(gathered)  # It looks at what is there, so that must be there.
                gathered, result = change.rows()
                self._put(gathered)
                gathered = []
                results.append(result)
            else:
                gathered += change.rows
                results.append(None)
        self._put(gathered)
        return results

    def _put(self, changes: list[Change]) -> None:
        if not changes:
            return
        version = json.dumps({"version": rows.VERSION}).encode()
        self._database.write([*changes, (_STORE, version), (_MANIFEST, self._database.manifest_mark())])
        for key, value in changes:
            if key.startswith(b"g"):
                (self._known.discard if value is None else self._known.add)(key[1:].decode())

    def _emptied(self, group: str) -> list[Change]:
        keys = [key for key, _ in self._database.scan(_offset_prefix(group))]
        return [(key, None) for key in [*keys, _group_key(group)]]

    def _without(self, group: str, places: Collection[Place]) -> list[Change]:
        there = _offsets(self._database.scan, group)
        gone = there.keys() & set(places)  # A client may name one twice.
        changes: list[Change] = [(_offset_prefix(group) + _pack_place(place), None) for place in sorted(gone)]
        if len(gone) == len(there):
            changes.append((_group_key(group), None))
        return changes

    def _expired(
        self, before_ms: int, now_ms: int, live: Collection[str], topics: Container[str]
    ) -> tuple[list[Change], int]:
        changes: list[Change] = []
        count = 0
        for group, seen_ms in _groups(self._database.scan).items():
            if group in live:
                changes.append((_group_key(group), _TIME.pack(now_ms)))
            last_ms = now_ms if group in live else seen_ms
            gone = expired(_offsets(self._database.scan, group), last_ms, before_ms, topics)
            changes += self._without(group, gone)
            count += len(gone)
        return changes, count


class GroupsView:
    """The committed offsets as seen from outside, while a broker runs and while none does."""

    def __init__(self, log: Log) -> None:
        """Opens the database if there is one.

        Raises:
            NewerFormat, StateDamaged: It cannot be read.
        """
        path = log.path / "state" / FOLDER
        self._snapshot = Snapshot(path) if (path / "CURRENT").exists() else None
        if self._snapshot is not None:
            try:
                rows.check_version(self._snapshot.get(_STORE), path)
            except BaseException:
                self.close()
                raise

    def groups(self) -> dict[str, int]:
        """When each group has committed or was seen last, in milliseconds."""
        return {} if self._snapshot is None else _groups(self._snapshot.scan)

    def fetch(self, group: str) -> dict[Place, Committed]:
        """What *group* has committed."""
        return {} if self._snapshot is None else _offsets(self._snapshot.scan, group)

    def close(self) -> None:
        """Stop reading."""
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None


def _groups(scan: Scan) -> dict[str, int]:
    return {key[1:].decode(): int(_TIME.unpack(value)[0]) for key, value in scan(b"g")}


def _offsets(scan: Scan, group: str) -> dict[Place, Committed]:
    head = _offset_prefix(group)
    return {_unpack_place(key[len(head) :]): _unpack(value) for key, value in scan(head)}


def _group_key(group: str) -> bytes:
    return b"g" + group.encode()


def _offset_prefix(group: str) -> bytes:
    name = group.encode()
    return b"o" + _NAME.pack(len(name)) + name


def _pack_place(place: Place) -> bytes:
    topic_id, partition = place
    return _PLACE.pack(bytes.fromhex(topic_id), partition)


def _unpack_place(data: bytes) -> Place:
    topic_id, partition = _PLACE.unpack(data)
    return topic_id.hex(), partition


def _pack(committed: Committed) -> bytes:
    head = _OFFSET.pack(committed.time_ms, committed.offset, committed.leader_epoch)
    return head + committed.metadata.encode()


def _unpack(value: bytes) -> Committed:
    time_ms, offset, leader_epoch = _OFFSET.unpack_from(value)
    return Committed(offset, leader_epoch, value[_OFFSET.size :].decode(), time_ms)
