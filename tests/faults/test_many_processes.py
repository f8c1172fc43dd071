"""Four writers and four readers of one directory, killed, stopped and started again at random.

Every writer is an idempotent producer in each partition, and sends again what it does not know to be there. In the end
each batch is there once and in its producer's order, what was acknowledged is where it was said to be, and all readers
have seen the same batch at an offset: the one that is there. With FRAMEWORK_TORTURE=1 it goes on for longer.
"""

from __future__ import annotations

import json
import os
import random
import signal
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from framework.log import Log
from tests.faults.load_judge import Said, check, check_files, check_going_on, the, violations
from tests.faults.log_crowd import KEYS, TOPICS, producer_of
from tests.faults.log_history import read
from tests.faults.log_power import TORTURE, in_memory
from tests.faults.log_stream import Violation
from tests.log.conftest import TIMEOUT_S, Child, readable

WRITERS, READERS = 4, 4
SECONDS = 30.0 if TORTURE else 4.0
SERVE = """
from tests.faults.log_crowd import serve
serve()
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def directory() -> Iterator[Path]:
    """In memory: many megabytes are written, and no power is cut."""
    with tempfile.TemporaryDirectory(prefix="framework-crowd-", dir=in_memory()) as path:
        yield Path(path) / "data"


class Crowd(Child):
    """The processes, and what they have said."""

    def __init__(self, directory: Path, seed: int) -> None:
        """None runs yet."""
        super().__init__(SERVE)
        self._directory, self._seed, self.chance = directory, seed, random.Random(seed)
        self.lines: list[str] = []
        self.seen: dict[tuple[str, int, int], set[tuple[int, str]]] = {}
        """For each topic, partition and offset: checksums, and which readers saw them."""
        self.numbers: dict[str, list[int]] = {f"w{at}": [0] * len(KEYS) for at in range(WRITERS)}
        """For each writer the first batches that it does not know to be there."""
        self.pids: dict[str, int] = {}
        self.counts = Counter[str]()

    def begin(self, who: str) -> None:
        """Start a process, and wait until it is there."""
        begin = self.numbers.get(who) or self._offsets()
        self.say(json.dumps([str(self._directory), who, self._seed, begin]))
        self.pids.pop(who, None)
        while who not in self.pids:
            self.listen(TIMEOUT_S)

    def end(self, who: str) -> None:
        """SIGKILL; when this returns it is gone."""
        process = os.pidfd_open(self.pids[who])
        try:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            assert readable(process, TIMEOUT_S), f"{who} does not die"
        finally:
            os.close(process)

    def listen(self, timeout_s: float) -> int:
        """Hear what they say, for at most so long until they say something; how many lines it was."""
        assert self.process.stdout is not None
        if not self._heard.count(b"\n"):
            if not readable(self.process.stdout.fileno(), timeout_s):
                return 0
            self._heard += os.read(self.process.stdout.fileno(), 1 << 16)
        whole, _, self._heard = self._heard.rpartition(b"\n")
        lines = whole.decode().split("\n") if whole else []
        for line in lines:
            self._note(line)
        return len(lines)

    def _note(self, line: str) -> None:
        word, who, *rest = line.split(maxsplit=2)
        self.counts[word] += 1
        if word == "broken":
            raise Violation("processes", line)
        if word == "process":
            self.pids[who] = int(rest[0])
        elif word == "read":
            topic, number, offset, checksum = rest[0].split()
            self.seen.setdefault((topic, int(number), int(offset)), set()).add((int(checksum), who))
        else:
            self.lines.append(line)
            _, topic, partition, producer, number = line.split()[:5]
            writer, at = divmod(int(producer.partition("/")[0]), 10)
            assert KEYS[at] == (topic, int(partition))
            mine = self.numbers[f"w{writer}"]
            mine[at] = max(mine[at], int(number) + 1)

    def _offsets(self) -> list[int]:
        """Where a reader begins: anywhere up to where others have been."""
        return [
            self.chance.choice([0, *(offset for *place, offset in self.seen if (place[0], place[1]) == key)])
            for key in KEYS
        ]

    def trouble(self) -> None:
        """One process is killed and comes again, or is stopped for a while."""
        who = self.chance.choice(sorted(self.pids))
        if self.chance.random() < 0.8:
            self.end(who)
            self.begin(who)
            self.counts["kills"] += 1
            return
        os.kill(self.pids[who], signal.SIGSTOP)
        # Whoever waits for a lock that it holds waits for less than would be reported.
        until = time.monotonic() + 0.2
        while (left := until - time.monotonic()) > 0:
            self.listen(left)
        os.kill(self.pids[who], signal.SIGCONT)
        self.counts["stops"] += 1


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs process descriptors, which only Linux has")
def test_processes_that_are_killed_and_come_again_share_one_log(
    directory: Path, seed: int, report: Callable[[str], None]
) -> None:
    """No batch is lost, doubled or out of order, and no reader saw another one than is there."""
    with Log(directory, create=True) as log:
        for name, (count, settings) in TOPICS.items():
            log.create_topic(name, count, settings)
    crowd = Crowd(directory, seed)
    try:
        for who in [*(f"w{at}" for at in range(WRITERS)), *(f"r{at}" for at in range(READERS))]:
            crowd.begin(who)
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            for _ in range(crowd.chance.randrange(20)):
                crowd.listen(TIMEOUT_S)
            crowd.trouble()
        for who in sorted(crowd.pids):
            crowd.end(who)
        while crowd.listen(0):
            pass
    finally:
        crowd.close()
    judge(directory, crowd)
    assert len({who for seen in crowd.seen.values() for _, who in seen}) == READERS
    report(f"{dict(crowd.counts)}, {sum(map(sum, crowd.numbers.values()))} batches in {len(KEYS)} partitions")


def judge(directory: Path, crowd: Crowd) -> None:
    """Hold what is there in the end against what all have said."""
    said = Said.of(crowd.lines, killed=True)
    with violations(), Log(directory) as log:
        for key in KEYS:
            log.sync(the(log, key)).result(TIMEOUT_S)
        check(log, said)
        for key in KEYS:
            there = {header.base_offset: zlib.crc32(body) for header, body in read(log, the(log, key))}
            for (topic, number, offset), seen in crowd.seen.items():
                if (topic, number) == key and {checksum for checksum, _ in seen} != {there.get(offset)}:
                    raise Violation("visible records", f"{key}: at {offset} is {there.get(offset)}, seen was {seen}")
            assert len(the(log, key).segments()) > 1, "segments were rolled"
        check_going_on(log, said)
    with violations():
        check_files(directory)
    for writer, numbers in crowd.numbers.items():
        for at, count in enumerate(numbers):
            sent = {number for who, number in said.acknowledged[KEYS[at]] if who == producer_of(int(writer[1:]), at)}
            assert sent == set(range(count)), f"{writer} was told of all it sent to {KEYS[at]}"
