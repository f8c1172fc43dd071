"""The committer: the one thread of a process that appends and syncs.

Whatever arrives while it syncs is the next group, so a busy log syncs seldom and an idle one at once, without
any timer. Encoding happens before, in the caller's thread: between lock and unlock there is a write and nothing else.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from framework.log.clock import Clock
from framework.log.errors import Damaged, Error, LogClosed, UnknownTopic
from framework.log.header import check_batch
from framework.log.partition import Partition
from framework.log.shared import Mark

MAX_PARALLEL_SYNCS = 4
MAX_GROUP_BYTES = 16 << 20
MAX_UNSYNCED_S = 1.0
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Append:
    """Batches for one partition; `done` becomes the base offset once they are durable, -1 if sent before."""

    partition: Partition
    batches: list[bytearray]
    durable: bool = False
    """Whether it is acknowledged only when it is synced, whatever the level of its topic."""
    done: Future[int] = field(default_factory=Future)


class Committer:
    """The thread, and the queue in front of it."""

    def __init__(self, name: str, clock: Clock, rolled: Callable[[Partition], None]) -> None:
        """The thread starts with the first `submit`; *rolled* is told of partitions that have closed a segment."""
        self._clock, self._rolled = clock, rolled
        self._unsynced: dict[Partition, float] = {}
        """Since when partitions of level `os` have something that is not synced."""
        self._queue: deque[Append] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._name = name
        self._thread: threading.Thread | None = None
        self._syncs: ThreadPoolExecutor | None = None

    def submit(self, append: Append) -> Future[int]:
        """Append in the order of the calls; an append without batches only syncs the partition.

        Raises:
            LogClosed: The committer is closed.
        """
        try:
            for batch in append.batches:
                check_batch(batch)
        except Damaged as error:
            append.done.set_exception(error)
            return append.done
        with self._changed:
            if self._closing:
                raise LogClosed("the log is closed")
            append.done.set_running_or_notify_cancel()  # From here on it cannot be cancelled.
            self._queue.append(append)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()
        return append.done

    def close(self) -> None:
        """Append and sync what was submitted, then end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        if self._syncs is not None:
            self._syncs.shutdown()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    if not self._changed.wait(self._sync_due_s()):
                        break
                if self._closing and not self._queue:
                    break
                group: dict[Partition, list[Append]] = {}
                size = 0
                while self._queue and size < MAX_GROUP_BYTES:
                    append = self._queue.popleft()
                    group.setdefault(append.partition, []).append(append)
                    size += sum(map(len, append.batches))
            self._commit(group)
        self._bring_to_disk([(partition, []) for partition in self._unsynced])

    def _sync_due_s(self) -> float | None:
        """In how many seconds what was acknowledged unsynced is to be synced."""
        if not self._unsynced:
            return None
        return max(0.0, min(self._unsynced.values()) + MAX_UNSYNCED_S - self._clock.monotonic())

    def _commit(self, group: dict[Partition, list[Append]]) -> None:
        """Write the whole group, sync each partition once, acknowledge."""
        to_sync: dict[Partition, list[tuple[Append, int]]] = {}
        for partition, appends in group.items():
            if partition.topic.settings.durability == "always":
                for append in appends:
                    self._bring_to_disk([(partition, self._write(partition, [append]))])
                continue
            written = self._write(partition, appends)
            if partition.topic.settings.durability == "os" and not any(append.durable for append in appends):
                for append, answer in written:
                    append.done.set_result(answer)
                self._unsynced.setdefault(partition, self._clock.monotonic())
            else:
                to_sync[partition] = written
        if self._sync_due_s() == 0.0:
            for partition in self._unsynced:
                to_sync.setdefault(partition, [])
        self._bring_to_disk(list(to_sync.items()))
        for partition in group:
            if partition.rolled:
                partition.rolled = False
                self._rolled(partition)

    def _write(self, partition: Partition, appends: list[Append]) -> list[tuple[Append, int]]:
        """Write what *appends* hold; those that were taken, with their answers."""
        try:
            answers = partition.append([append.batches for append in appends])
        except (Error, OSError) as error:
            _fail(appends, error)
            return []
        written: list[tuple[Append, int]] = []
        for append, answer in zip(appends, answers, strict=True):
            if isinstance(answer, Error):
                append.done.set_exception(answer)
            else:
                written.append((append, answer))
        return written

    def _bring_to_disk(self, written: list[tuple[Partition, list[tuple[Append, int]]]]) -> None:
        """Sync the partitions, and acknowledge what was written to them."""
        for (partition, appends), mark in zip(written, self._sync([p for p, _ in written]), strict=True):
            self._unsynced.pop(partition, None)
            try:
                if not isinstance(mark, Mark):
                    raise mark
                partition.advance(mark)
            except (Error, OSError) as error:
                if not appends and not isinstance(error, UnknownTopic):
                    logger.error("%s could not be synced: %s", partition.name, error)
                _fail([append for append, _ in appends], error)
            else:
                for append, answer in appends:
                    append.done.set_result(answer)

    def _sync(self, partitions: list[Partition]) -> list[Mark | Error | OSError]:
        if len(partitions) < 2:
            return [_sync_one(partition) for partition in partitions]
        if self._syncs is None:
            self._syncs = ThreadPoolExecutor(MAX_PARALLEL_SYNCS, thread_name_prefix=f"{self._name}-sync")
        return list(self._syncs.map(_sync_one, partitions))


def _sync_one(partition: Partition) -> Mark | Error | OSError:
    try:
        return partition.sync()
    except (Error, OSError) as error:
        return error


def _fail(appends: list[Append], error: BaseException) -> None:
    for append in appends:
        append.done.set_exception(error)
