"""Following a topic: its records as they come, from all partitions, for as long as somebody wants them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from time import monotonic
from typing import TYPE_CHECKING

from framework.log.catalogue import TopicInfo
from framework.log.codec import StoredRecord, decode
from framework.log.doorbell import Doorbell
from framework.log.errors import UnknownTopic
from framework.log.partition import Partition

if TYPE_CHECKING:
    from framework.log.log import Log


class Follower:
    """A position in the partitions of a topic, which goes on at their ends. Not thread-safe.

    Iterating waits for the next record, for ever or until `timeout_s` has passed without any.
    """

    def __init__(
        self, log: Log, topic: TopicInfo, starts: Mapping[int, int], *, timeout_s: float | None = None
    ) -> None:
        """Begins at the offsets in *starts*; if they are of all partitions, those that are added later join."""
        self._log, self._topic = log, topic
        self.timeout_s = timeout_s
        """How long iterating waits for a record before it ends; None waits for ever."""
        self._all = len(starts) == topic.partitions
        self._readers = [log.reader(log.partition(topic, number), start) for number, start in starts.items()]
        self._catalogue_version = -1  # So it looks at least once: *topic* may be older than the catalogue by now.
        self._pending = deque[tuple[Partition, StoredRecord]]()
        self.doorbell: Doorbell = log.doorbell()
        """Rings when there may be more."""

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[tuple[Partition, StoredRecord]]:
        """The records, each with its partition, waiting for them.

        Raises:
            UnknownTopic: The topic has been deleted.
            OffsetOutOfRange: Retention was faster.
        """
        while True:
            deadline = None if self.timeout_s is None else monotonic() + self.timeout_s
            while not (records := self.take_nowait()):
                left = _FOREVER_S if deadline is None else deadline - monotonic()
                if left <= 0:
                    return
                self.doorbell.wait(left)
            self._pending += records
            while self._pending:  # Whoever stops in the middle goes on there.
                yield self._pending.popleft()

    def take_nowait(self) -> list[tuple[Partition, StoredRecord]]:
        """What can be read now, at most one read of each partition."""
        if self._pending:
            taken = list(self._pending)
            self._pending.clear()
            return taken
        self._refresh()
        taken = []
        for reader in self._readers:
            first, limit = reader.offset, reader.partition.topic.settings.most_uncompressed_bytes
            for _, batch in reader.read().batches:
                taken += [(reader.partition, record) for record in decode(batch, limit) if record.offset >= first]
        return taken

    def close(self) -> None:
        """Close its files; more calls do nothing."""
        for reader in self._readers:
            reader.close()
        self.doorbell.close()

    def _refresh(self) -> None:
        """Take up partitions that were added."""
        version = self._log.catalogue_version
        if version == self._catalogue_version:
            return
        topic = self._log.topic(self._topic.name)
        if topic.id != self._topic.id:  # There is another one of its name.
            raise UnknownTopic(f"topic {self._topic.name!r} has been deleted")
        self._catalogue_version = version
        if self._all:
            for number in range(len(self._readers), topic.partitions):
                self._readers.append(self._log.reader(self._log.partition(topic, number), 0))


_FOREVER_S = 3600.0
