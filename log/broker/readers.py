"""Open readers: each client goes on where it was in each partition, without looking for the place again."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Executor

from framework.log.errors import UnknownTopic
from framework.log.log import Log
from framework.log.partition import Partition
from framework.log.reader import Reader

Key = tuple[int, Partition]


class Readers:
    """Readers that nobody reads with just now, by client and partition; those not used for longest are closed."""

    def __init__(self, log: Log, limit: int, closing: Executor) -> None:
        """Keep *limit* at most; *closing* closes them, which may wait for a disk."""
        self._log, self._limit, self._closing = log, limit, closing
        self._readers: OrderedDict[Key, Reader] = OrderedDict()

    def __len__(self) -> int:
        return len(self._readers)

    def take(self, client: int, partition: Partition, offset: int) -> Reader:
        """A reader of *partition* at *offset*, for the caller alone until it is given back."""
        reader = self._readers.pop((client, partition), None)
        if reader is None:
            return self._log.reader(partition, offset)
        if reader.offset != offset:
            reader.seek(offset)
        return reader

    def give_back(self, client: int, reader: Reader) -> None:
        """Keep *reader* for the next time."""
        self._readers[client, reader.partition] = reader
        if len(self._readers) > self._limit:
            _, oldest = self._readers.popitem(last=False)
            self._closing.submit(oldest.close)

    def drop(self, client: int) -> None:
        """Close the readers of a *client* that has gone."""
        for key in [key for key in self._readers if key[0] == client]:
            self._closing.submit(self._readers.pop(key).close)

    def prune(self) -> None:
        """Close those of topics that have been deleted: as long as they are open, the disk keeps the files."""
        for key in list(self._readers):
            try:
                key[1].check_exists()
            except UnknownTopic:
                self._closing.submit(self._readers.pop(key).close)

    def close(self) -> None:
        """Close all."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
