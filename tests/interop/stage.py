"""What a scenario has: drivers of one client, a broker in a process of its own, and a look into its directory."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from framework.log import Log
from framework.log.header import Header
from tests.interop.driver import ROOT, Driver

Seen = TypeVar("Seen")
LIMIT_S = 45.0
PAUSE_S = 0.05
"""Between two looks at what is waited for: a client tells nobody what it has seen."""


@dataclass(frozen=True)
class Served:
    """A broker in its own process, and the directory that it serves."""

    address: str
    data: Path


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """`framework broker` on a port that was free."""
    data = folder / "data"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FRAMEWORK_")}
    with (folder / "broker.log").open("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "framework", "broker", "--listen", ":0", "--data", str(data)],
            cwd=folder,
            env={**environment, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                if found := re.match(r"listen (\S+)", line):
                    break
            else:
                raise AssertionError(f"the broker ended with {process.wait()}")
            # Nothing reads on, and a broker that has much to say must not wait for it.
            drain = subprocess.Popen(["cat"], stdin=lines, stdout=said)
        try:
            yield Served(found[1], data)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT_S) == 0, said.read()
            drain.wait()


@dataclass
class Stage:
    """A scenario's own: its name is in the names of its topics and groups."""

    name: str
    log: Log
    judge: AdminClient
    """Another client, which says what the broker believes of groups."""
    driver: Callable[[], Awaitable[Driver]]
    """Gives a driver that nobody else uses until the scenario has ended."""

    async def topic(self, partitions: int) -> str:
        """A new topic, made by us: how clients make one is a scenario of its own."""
        await asyncio.to_thread(self.log.create_topic, self.name, partitions)
        return self.name

    def codecs(self, topic: str) -> set[str]:
        """How the batches in the log are compressed, whatever the client believes."""
        return {CODECS[header.attributes & 7] for header in self._headers(topic)}

    def producers(self, topic: str) -> set[int]:
        """The ids of the producers of the batches in the log."""
        return {header.producer_id for header in self._headers(topic)}

    def _headers(self, topic: str) -> list[Header]:
        reader = self.log.reader(self.log.partition(self.log.topic(topic), 0), 0)
        try:
            return [header for header, _ in reader.read().batches]
        finally:
            reader.close()

    def values(self, topic: str) -> list[str]:
        """What is in the log, in the order of partitions and offsets."""
        return [value for value, _ in self.stamped(topic)]

    def stamped(self, topic: str) -> list[tuple[str, int]]:
        """The same with their times."""
        return [((record.value or b"").decode(), record.timestamp) for _, record in self.log.read(topic)]

    async def committed(self, group: str) -> dict[int, int]:
        """The committed offset of each partition of the topic of this scenario."""

        def ask() -> dict[int, int]:
            [found] = self.judge.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
            places = found.result(LIMIT_S).topic_partitions
            return {place.partition: place.offset for place in places if place.offset >= 0}

        return await asyncio.to_thread(ask)

    async def commit(self, group: str, offsets: dict[int, int]) -> None:
        """Commit for a group without members."""
        places = [TopicPartition(self.name, number, offset) for number, offset in offsets.items()]
        [done] = self.judge.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, places)]).values()
        await asyncio.to_thread(done.result, LIMIT_S)

    async def until(self, what: str, look: Callable[[], Awaitable[tuple[bool, Seen]]]) -> Seen:
        """Look again and again until it says that what is waited for is there, and give what is seen then."""
        seen: Seen | None = None
        try:
            async with asyncio.timeout(LIMIT_S):
                while True:
                    there, seen = await look()
                    if there:
                        return seen
                    await asyncio.sleep(PAUSE_S)
        except TimeoutError:
            raise AssertionError(f"not within {LIMIT_S:.0f} s: {what}; last seen: {seen!r}") from None


CODECS = {0: "none", 1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
