"""The partitions that one consumer reads: from several at a time, each in its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable

from framework.faust.alert import Alert
from framework.faust.feeds import Feed
from framework.faust.membership import Place
from framework.log import Log, Partition, StoredRecord

READS_AT_ONCE = 4
"""From how many partitions is read before what was found is handed out."""
OnReset = Callable[[Place, int, int], int]


class Share:
    """Partitions of a log, each with a position. Use it in one event loop."""

    def __init__(self, log: Log, on_reset: OnReset, flows: Callable[[], bool]) -> None:
        """*on_reset* as for `Feed`, with the partition before; nothing is read while *flows* says no."""
        self._log, self._on_reset, self._flows = log, on_reset, flows
        self._alert = Alert(log)
        self._turn = 0
        self.feeds: dict[Place, Feed] = {}
        self.ends: dict[Place, int] = {}
        """The high watermarks as they were when records were taken last."""

    def assign(self, places: Iterable[Place]) -> None:
        """Have these partitions, and no others; none of them gives anything before it is told where to begin."""
        self.close_feeds()
        for place in places:
            self.add(place)

    def add(self, place: Place) -> Feed:
        """Have this partition, too."""
        feed = Feed(self._log, self.partition(place), lambda start, end: self._on_reset(place, start, end))
        self.feeds[place] = feed
        return feed

    def partition(self, place: Place) -> Partition:
        """The partition, whether it is read or not.

        Raises:
            UnknownTopic, UnknownPartition: There is none.
        """
        topic, number = place
        return self._log.partition(self._log.topic(topic), number)

    def close_feeds(self) -> None:
        """Have none."""
        for feed in self.feeds.values():
            feed.close()
        self.feeds, self.ends = {}, {}

    def close(self) -> None:
        """Have none, and let nobody wait."""
        self.close_feeds()
        self._alert.close()

    async def take(
        self, wanted: Container[Place] | None, timeout_s: float, most_records: int | None
    ) -> dict[Place, list[StoredRecord]]:
        """What there is in the *wanted* partitions, None for all; waits for it, until `end_wait` or *timeout_s*.

        It moves no position: who hands the records out does. At most *most_records* of each partition.

        Raises:
            Damaged: The log cannot give them.
        """
        feeds = [(place, feed) for place, feed in self.feeds.items() if wanted is None or place in wanted]
        found = await self._read(feeds, most_records)
        if not found and self._flows():
            await self._alert.wait([feed for _, feed in feeds], timeout_s)
            found = await self._read(feeds, most_records)
        return found

    def end_wait(self) -> None:
        """Whoever waits in `take` has waited long enough."""
        self._alert.end_wait()

    async def _read(self, feeds: list[tuple[Place, Feed]], most: int | None) -> dict[Place, list[StoredRecord]]:
        found: dict[Place, list[StoredRecord]] = {}
        first = self._turn % len(feeds) if feeds else 0
        for place, feed in feeds[first:] + feeds[:first]:
            if len(found) == READS_AT_ONCE or not self._flows():
                break
            self._turn += 1
            if not feed.is_ready:
                continue
            position = feed.position
            records = feed.take() if feed.is_near else await asyncio.to_thread(feed.take)
            # It may have been told to go elsewhere while the disk was waited for.
            if records and feed.position == position and self.feeds.get(place) is feed:
                found[place] = records[:most] if most else records
                self.ends[place] = feed.partition.high_watermark
        return found if self._flows() else {}
