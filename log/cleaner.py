"""The cleaner: the one thread of a process that compacts, when a segment was closed or somebody asks.

One process compacts in a directory at a time; who finds another at it leaves the work to it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from framework.log.compaction import Compacted, Stopped
from framework.log.errors import Error
from framework.log.locks import COMPACTION_LOCK
from framework.log.partition import Partition
from framework.log.shared import Shared

logger = logging.getLogger(__name__)


class Cleaner:
    """The thread, and the partitions it has to look at."""

    def __init__(self, name: str, shared: Shared) -> None:
        """The thread starts with the first `submit`."""
        self._name, self._shared = name, shared
        self._waiting: dict[Partition, None] = {}
        self._changed, self._compacting = threading.Condition(), threading.Lock()
        self._closing = False
        self._at_work = 0  # Whoever compacts in a thread of their own needs the shared file to the end.
        self._thread: threading.Thread | None = None

    def submit(self, partition: Partition) -> None:
        """Compact *partition* soon, if enough of it is dirty then."""
        with self._changed:
            if self._closing:
                return
            self._waiting[partition] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def compact(self, partitions: Iterable[Partition], *, force: bool = False) -> Compacted | int:
        """Compact *partitions* now, in the caller's thread; the pid of another process that is at it already.

        Raises:
            Damaged: A batch is not what was appended.
            Stopped: The log was closed meanwhile.
            OSError: The disk refuses.
        """
        with self._changed:
            if self._closing:
                raise Stopped
            self._at_work += 1
        try:
            with self._compacting:
                return self._compact(partitions, force=force)
        finally:
            with self._changed:
                self._at_work -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """End the compactions that are going on, wait for that, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._at_work)
        if self._thread is not None:
            self._thread.join()

    def _compact(self, partitions: Iterable[Partition], *, force: bool) -> Compacted | int:
        holder = self._shared.try_own(COMPACTION_LOCK)
        if holder is not None:
            return holder
        try:
            done = Compacted()
            for partition in partitions:
                done += partition.compact(force=force, stop=lambda: self._closing)
            return done
        finally:
            self._shared.disown(COMPACTION_LOCK)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                partition = next(iter(self._waiting))
                del self._waiting[partition]
            try:
                self.compact([partition])
            except Stopped:
                return
            except (Error, OSError) as error:
                logger.warning("compaction of %s: %s", partition.name, error)
