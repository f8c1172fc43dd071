"""The committer: the one thread of a process that appends and syncs.

Whatever arrives while it syncs is the next group, so a busy log syncs seldom and an idle one at once, without
any timer. Encoding happens before, in the caller's thread: between lock and unlock there is a write and nothing else.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from framework.log.errors import Damaged, Error, LogClosed
from framework.log.header import check_batch
from framework.log.partition import Partition
from framework.log.shared import Mark

MAX_PARALLEL_SYNCS = 4
MAX_GROUP_BYTES = 16 << 20
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Append:
    """Batches for one partition; `done` becomes the base offset once they are durable, -1 if sent before."""

    partition: Partition
    batches: list[bytearray]
    done: Future[int] = field(default_factory=Future)


class Committer:
    """The thread, and the queue in front of it."""

    def __init__(self, name: str) -> None:
        """The thread starts with the first `submit`."""
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
                    self._changed.wait()
                if not self._queue:
                    return
                group: dict[Partition, list[Append]] = {}
                size = 0
                while self._queue and size < MAX_GROUP_BYTES:
                    append = self._queue.popleft()
                    group.setdefault(append.partition, []).append(append)
                    size += sum(map(len, append.batches))
            self._commit(group)

    def _commit(self, group: dict[Partition, list[Append]]) -> None:
        """Write the whole group, sync each partition once, acknowledge."""
        written: list[tuple[Partition, list[tuple[Append, int]]]] = []
        for partition, appends in group.items():
            try:
                answers = partition.append([append.batches for append in appends])
            except (Error, OSError) as error:
                _fail(appends, error)
                continue
            good: list[tuple[Append, int]] = []
            for append, answer in zip(appends, answers, strict=True):
                if isinstance(answer, Error):
                    append.done.set_exception(answer)
                else:
                    good.append((append, answer))
            written.append((partition, good))
        for (partition, good), mark in zip(written, self._sync([p for p, _ in written]), strict=True):
            try:
                if not isinstance(mark, Mark):
                    raise mark
                partition.advance(mark)
            except (Error, OSError) as error:
                _fail([append for append, _ in good], error)
            else:
                for append, answer in good:
                    append.done.set_result(answer)
        for partition in group:
            if partition.rolled:
                partition.rolled = False
                _retain(partition)

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


def _retain(partition: Partition) -> None:
    try:
        partition.retain()
    except (Error, OSError) as error:
        logger.warning("retention of %s: %s", partition.name, error)


def _fail(appends: list[Append], error: BaseException) -> None:
    for append in appends:
        append.done.set_exception(error)
