"""The load that processes put on a log while faults happen to them: what they send, and what they say of it.

A batch can be made again from its producer and its number, so that a record that is found says what it must look
like, and what was sent can be sent again. What happens is said in lines, at once:

    acknowledged <topic> <partition> <producer> <number> <count> <offset>     survives a power cut
    written      <topic> <partition> <producer> <number> <count> <offset>     survives a kill
    seen         <topic> <partition> <high watermark>                         by a reader, who may rely on it
    starting     <topic> <partition>                                          records may be deleted from now on
    started      <topic> <partition> <log start>                              records were deleted below
    created <topic>       deleting <topic>       deleted <topic>

An offset of -1 says that the batch was there before.
"""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, NamedTuple

from framework.log import Files, Log, NewRecord, Partition, TopicSettings, encode
from framework.log.producers import TASK_PRODUCER_BIT

RECORDS = 2
"""In every batch."""
IN_FLIGHT = 8
SMALL = TopicSettings(segment_bytes=4096, index_interval_bytes=512)
TOPICS = {
    "group": (2, SMALL),
    "always": (1, replace(SMALL, durability="always")),
    "os": (1, replace(SMALL, durability="os")),
    "large": (1, TopicSettings(segment_bytes=1 << 20)),
    "kept": (1, replace(SMALL, retention_bytes=8192)),
}


class Producer(NamedTuple):
    """Who sent a batch, and how large its batches are."""

    id: int
    idempotent: bool
    least_bytes: int
    most_bytes: int

    def __str__(self) -> str:
        return f"{self.id}/{self.idempotent:d}/{self.least_bytes}/{self.most_bytes}"

    @classmethod
    def parse(cls, text: str) -> Producer:
        """The producer that `str` wrote."""
        number, idempotent, least, most = map(int, text.split("/"))
        return cls(number, bool(idempotent), least, most)

    @property
    def wire_id(self) -> int:
        """The producer id in its batches."""
        return self.id | TASK_PRODUCER_BIT if self.idempotent else -1

    def values(self, number: int) -> list[bytes]:
        """The values of its batch *number*: of any size, and different in every byte."""
        chance = random.Random(f"{self} {number}")
        size = self.least_bytes * (self.most_bytes / self.least_bytes) ** chance.random() / RECORDS
        heads = [f"{self} {number} {at} ".encode() for at in range(RECORDS)]
        return [head + chance.randbytes(max(0, int(size) - len(head))) for head in heads]

    def batch(self, number: int) -> bytearray:
        """Its batch *number*, the same each time."""
        options: dict[str, Any] = {}
        if self.idempotent:
            options = {"producer_id": self.wire_id, "producer_epoch": 0, "base_sequence": RECORDS * number}
        records = [NewRecord(b"k", value, number) for value in self.values(number)]
        [batch] = encode(records, max_batch_bytes=1 << 24, **options)
        return batch


def who_sent(values: Sequence[bytes | None]) -> tuple[Producer, int] | None:
    """The producer of a batch and its number; None for what no producer would send."""
    try:
        name, number, _ = (values[0] or b"").split(b" ", 2)
        sent = Producer.parse(name.decode()), int(number)
    except (ValueError, IndexError):
        return None
    return sent if sent[0].values(sent[1]) == list(values) else None


def say(*words: object) -> None:
    """One line, in one write: whoever is killed has said all of it or nothing."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


class Unsynced(Files):
    """A log that forgot to sync."""

    def fdatasync(self, fd: int) -> None:
        """Leave it to chance."""


class Load:
    """One process's load; `run` goes on until it is killed."""

    def __init__(self, directory: str, run: int, seed: int, *, synced: bool = True) -> None:
        """*run* tells its producers from those of other processes."""
        self.log = Log(directory, create=True, files=Files() if synced else Unsynced())
        self._run, self._chance = run, random.Random(f"{seed} {run}")
        self._numbers: dict[Producer, int] = {}
        self._producers: dict[tuple[str, int, bool], Producer] = {}
        self._waiting: deque[Future[int]] = deque()
        self._made = 0

    def run(self) -> None:
        """Append to all topics; make, shorten and delete some."""
        for name, (partitions, settings) in TOPICS.items():
            if name not in self.log.topics():
                self.log.create_topic(name, partitions, settings)
                say("created", name)
        while True:
            self._step()

    def _step(self) -> None:
        chance = self._chance.random()
        if chance < 0.03:
            self._make()
        elif chance < 0.05:
            self._delete()
        elif chance < 0.08:
            self._shorten()
        elif chance < 0.12:
            self._look()
        else:
            topic = self.log.topic(self._chance.choice(sorted(self.log.topics())))
            self.send(self.log.partition(topic, self._chance.randrange(topic.partitions)))

    def send(self, partition: Partition) -> None:
        """Append up to three batches of one producer; what comes of it is said as soon as it is known."""
        name, number = partition.topic.name, partition.number
        producer = self._producer(name, number, idempotent=self._chance.random() < 0.7)
        first, count = self._numbers[producer], self._chance.choice((1, 1, 2, 3))
        self._numbers[producer] += count
        durable = partition.topic.settings.durability != "os" or self._chance.random() < 0.1
        word = "acknowledged" if durable else "written"

        def tell(done: Future[int]) -> None:
            say(word, name, number, producer, first, count, done.result())

        batches = [producer.batch(first + at) for at in range(count)]
        future = self.log.append(partition, batches, durable=durable)
        future.add_done_callback(tell)
        self._waiting.append(future)
        self._wait(IN_FLIGHT)

    def _producer(self, name: str, number: int, *, idempotent: bool) -> Producer:
        key = (name, number, idempotent)
        if key not in self._producers:
            most = 100_000 if name == "large" else 6000
            producer = Producer(1000 * self._run + len(self._producers), idempotent, 20, most)
            self._producers[key], self._numbers[producer] = producer, 0
        return self._producers[key]

    def _wait(self, left: int) -> None:
        while len(self._waiting) > left:
            self._waiting.popleft().result(60)

    def _make(self) -> None:
        self._made += 1
        name = f"made-{self._run}-{self._made}"
        topic = self.log.create_topic(name, 1, replace(SMALL, durability=self._chance.choice(("group", "os"))))
        say("created", name)
        self.send(self.log.partition(topic, 0))

    def _delete(self) -> None:
        made = sorted(name for name in self.log.topics() if name.startswith("made-"))
        if made:
            name = self._chance.choice(made)
            self._wait(0)
            say("deleting", name)
            self.log.delete_topic(name)
            say("deleted", name)

    def _shorten(self) -> None:
        self.log.retain()
        partition = self.log.partition(self.log.topic("kept"), 0)
        if partition.high_watermark > partition.log_start:
            start = self._chance.randint(partition.log_start, partition.high_watermark)
            say("started", "kept", 0, partition.delete_records(start))

    def _look(self) -> None:
        for topic in self.log.topics().values():
            if topic.settings.durability != "os":
                for number in range(topic.partitions):
                    say("seen", topic.name, number, self.log.partition(topic, number).high_watermark)
