"""Writers and readers of one log, each a process of its own that may be killed at any time; `test_many_processes.py`.

They are forked by a process that has imported everything (`serve`), so that a killed one is back at once, and all talk
through its pipe. Besides the lines of `log_load` they say

    process <who> <pid>                                      here it is
    read <who> <topic> <partition> <offset> <checksum>       a reader saw this batch
    broken <who> <error>                                     what none of them should say
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import sys
import zlib
from collections import deque
from concurrent.futures import Future
from functools import partial
from typing import Any

from framework.log import Log, Partition, TopicSettings
from framework.log.header import CRC_START
from tests.faults.log_load import Producer, say

TOPICS = {
    "t": (2, TopicSettings(segment_bytes=300_000)),
    "o": (1, TopicSettings(segment_bytes=30_000, durability="os")),
}
KEYS = [(name, number) for name, (count, _) in TOPICS.items() for number in range(count)]
LARGE, SMALL = (20, 2_000_000), (20, 3000)
"""Sizes of batches: unaligned, and more than one write can bring to a page at once; and what most are like."""
IN_FLIGHT = 4


def producer_of(writer: int, at: int) -> Producer:
    """The producer of writer number *writer* in the partition `KEYS[at]`."""
    return Producer(10 * writer + at, True, *(LARGE if writer % 2 and at == 0 else SMALL))


def write(directory: str, who: str, seed: int, numbers: list[int]) -> None:
    """Append to all partitions, from these *numbers* of batches on: some may have been appended before."""
    chance, writer = random.Random(f"{seed} {os.getpid()}"), int(who[1:])
    log, waiting = Log(directory), deque[Future[int]]()
    while True:
        at = chance.randrange(len(KEYS))
        partition, producer = the(log, at), producer_of(writer, at)
        number, count = numbers[at], chance.choice((1, 1, 2))
        numbers[at] += count
        word = "written" if partition.topic.settings.durability == "os" else "acknowledged"
        for each in range(number, number + count):
            # One append a batch: of two in one append, the first may have been there and the other not.
            future = log.append(partition, [producer.batch(each)])
            future.add_done_callback(partial(_tell, (word, *KEYS[at], producer, each, 1)))
            waiting.append(future)
        if chance.random() < 0.1:
            # In this thread, while the committer is at work: as a task does when it starts.
            partition.last_sequence(producer.wire_id)
        if chance.random() < 0.05:
            log.retain()
        while len(waiting) > IN_FLIGHT:
            waiting.popleft().result(60)


def _tell(words: tuple[object, ...], done: Future[int]) -> None:
    say(*words, done.result())


def read(directory: str, who: str, seed: int, offsets: list[int]) -> None:
    """Read all partitions, from these *offsets* on, as soon as there is something."""
    log = Log(directory)
    doorbell = log.doorbell()
    readers = [log.reader(the(log, at), offset) for at, offset in enumerate(offsets)]
    while True:
        rest = 0
        for key, reader in zip(KEYS, readers, strict=True):
            for header, batch in reader.read().batches:
                say("read", who, *key, header.base_offset, zlib.crc32(batch[CRC_START:]))
                rest += 1
        if not rest:
            doorbell.wait(1.0)


def the(log: Log, at: int) -> Partition:
    """The partition `KEYS[at]`."""
    return log.partition(log.topic(KEYS[at][0]), KEYS[at][1])


def serve() -> None:
    """Fork a process for each line: a list of directory, name, seed and where to begin."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        if os.fork() == 0:
            _child(*json.loads(line))


def _child(directory: str, who: str, *arguments: Any) -> None:
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        say("process", who, os.getpid())
        (write if who.startswith("w") else read)(directory, who, *arguments)
    finally:
        say("broken", who, repr(sys.exception()))
        os._exit(1)


_PR_SET_PDEATHSIG = 1
