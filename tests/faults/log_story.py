"""A short life of a log, the same each time, for those who want to stop it at every system call.

Everything happens in one thread, the committer's work too, and by a clock that stands still, so that the calls can be
counted. What happens is said as `log_load` says it. A process that has imported everything forks another for each
story (`serve`), which saves most of the time.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from framework.log import TopicSettings
from framework.log.errors import Error
from tests.faults.log_history import DirectLog, SteppingClock
from tests.faults.log_load import RECORDS, Producer, say

SMALL = TopicSettings(segment_bytes=4096, index_interval_bytes=512)
SIZES = {"small": (200, 201), "half": (2500, 2501), "large": (9000, 9001)}


class StoryClock(SteppingClock):
    """Its seconds go by, and nothing becomes due: a sync by the clock would be one in another thread."""

    def monotonic(self) -> float:
        """Always the same."""
        return 0.0


class Story:
    """One process's part."""

    def __init__(self, directory: str) -> None:
        """Opens nothing yet."""
        self._directory, self._clock = Path(directory), StoryClock()
        self._numbers: dict[Producer, int] = {}
        self._pending: dict[Producer, list[int]] = {}

    def prepare(self) -> None:
        """What was there before: a topic with some segments, and the beginning of a write that was killed."""
        self._log = DirectLog(self._directory, create=True, clock=self._clock)
        self._log.create_topic("t", 1, SMALL)
        self._log.create_topic("os", 1, TopicSettings(segment_bytes=4096, durability="os"))
        for _ in range(3):
            self.send("t", "half", 1)
        self.send("os", "small", 1)
        self._log.close()
        for path in self._directory.glob("topics/*/0/*.log"):
            with path.open("ab") as file:
                file.write(bytes(100))

    def run(self) -> None:
        """All of it, step by step; a step that fails says so, and the next one comes."""
        steps: list[tuple[Callable[..., object], tuple[object, ...]]] = [
            (self.open, ()),
            (self.send, ("t", "small", 1)),
            (self.send, ("t", "half", 2)),
            (self.send_plain, ("t", "small")),
            (self.send, ("os", "small", 1)),
            (self.create, ("u",)),
            (self.send, ("u", "small", 1)),
            (self.send, ("t", "large", 2)),
            (self.shorten, ("t",)),
            (self.send, ("os", "half", 2)),
            (self.retain, ("t",)),
            (self.send, ("t", "half", 1)),
            (self.delete, ("u",)),
            (self.send_plain, ("t", "half")),
            (self.close, ()),
            (self.open, ()),
            (self.send, ("t", "small", 1)),
        ]
        for number, (step, arguments) in enumerate(steps):
            self._clock.ms += 500  # An append second ends now and then.
            try:
                step(*arguments)
            except (Error, OSError) as error:
                say("failed", number, step.__name__, type(error).__name__, str(error).replace("\n", " "))
        with suppress(OSError):
            self.close()

    def open(self) -> None:
        """Open the log."""
        self._log = DirectLog(self._directory, clock=self._clock)

    def close(self) -> None:
        """Close it."""
        self._log.close()

    def send(self, topic: str, size: str, count: int) -> None:
        """An idempotent producer appends *count* batches at once, but those first that failed before."""
        producer = Producer(10 * ord(topic[0]) + [*SIZES].index(size), True, *SIZES[size])
        pending = self._pending.setdefault(producer, [])
        old, first = list(pending), self._numbers.setdefault(producer, 0)
        self._numbers[producer] += count
        pending += range(first, first + count)
        for group in [*([number] for number in old), list(range(first, first + count))]:
            self._append(topic, producer, group)
            del pending[: len(group)]

    def send_plain(self, topic: str, size: str) -> None:
        """Another producer appends one batch; what fails is not sent again."""
        producer = Producer(10 * ord(topic[0]) + [*SIZES].index(size), False, *SIZES[size])
        number = self._numbers.setdefault(producer, 0)
        self._append(topic, producer, [number])
        self._numbers[producer] += 1

    def _append(self, topic: str, producer: Producer, group: list[int]) -> None:
        info = self._log.topic(topic)
        offset = self._log.commit(self._log.partition(info, 0), [producer.batch(number) for number in group])
        word = "written" if info.settings.durability == "os" else "acknowledged"
        for at, number in enumerate(group):
            say(word, topic, 0, producer, number, 1, offset + RECORDS * at if offset >= 0 else -1)

    def create(self, name: str) -> None:
        """Make a topic."""
        self._log.create_topic(name, 1, SMALL)
        say("created", name)

    def delete(self, name: str) -> None:
        """Delete it."""
        say("deleting", name)
        self._log.delete_topic(name)
        say("deleted", name)

    def shorten(self, name: str) -> None:
        """Remove all but the last records."""
        partition = self._log.partition(self._log.topic(name), 0)
        say("starting", name, 0)
        say("started", name, 0, partition.delete_records(partition.high_watermark - 2 * RECORDS))

    def retain(self, name: str) -> None:
        """Let retention remove all closed segments."""
        say("starting", name, 0)
        self._log.alter_topic(name, TopicSettings(segment_bytes=4096, retention_bytes=0))
        self._log.retain()


def serve() -> None:
    """Fork a process for each directory that is named in a line; it stops before its story begins."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _child(line.strip())
        os.waitpid(pid, os.WUNTRACED)
        say("stopped", pid)
        _, status = os.waitpid(pid, 0)
        say("ended", os.waitstatus_to_exitcode(status))


def _child(directory: str) -> None:
    status = 1
    try:
        # Whoever could let it go on may be gone before it has stopped.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        story = Story(directory)
        story.prepare()
        os.kill(os.getpid(), signal.SIGSTOP)
        story.run()
        status = 0
    finally:
        if status:
            traceback.print_exc()
        os._exit(status)


_PR_SET_PDEATHSIG = 1
