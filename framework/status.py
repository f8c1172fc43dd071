"""What a worker is doing, written down each second for `agents show` and whoever else wants to see it.

`worker.json` in the data directory: {"pid": its process, "tasks": [`TaskStatus` of each]}. It is replaced in one step
and not synced: it says nothing that has to survive. It is true as long as the process owns the first shard.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from framework.log import Log
from framework.log.locks import SHARD_LOCK

if TYPE_CHECKING:
    from framework.agent import Agent
    from framework.fetch import Fetch

FILE = "worker.json"
INTERVAL_S = 1.0
Doing = Literal["idle", "handling", "retrying", "stalled"]


@dataclass(frozen=True, slots=True)
class Counts:
    """What a task has done since its worker started."""

    handled: int
    """Records committed."""
    failures: int
    buried: int
    """Records that are dead letters now."""
    skipped: int
    busy_s: float
    """How long it has had records in hand."""
    attempt: int
    """How often the record that failed last has."""
    last_error: str | None


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """One agent on one partition, at one moment."""

    agent: str
    topic: str
    partition: int
    doing: Doing
    offset: int | None
    """The record in hand, the oldest where there are several."""
    since: float | None
    """When it was first seen to be, in seconds since the epoch."""
    counts: Counts

    @property
    def text(self) -> str:
        """What it is doing, in words."""
        if self.offset is None or self.since is None:
            return self.doing
        seconds = max(0, int(time.time() - self.since))
        what = {"handling": "waiting on", "retrying": "retrying", "stalled": "stalled at"}[self.doing]
        return f"{what} {self.topic}-{self.partition}@{self.offset} for {seconds} s"


class Observed(Protocol):
    """What is known of a task."""

    agent: Agent[Any, Any]
    handled: int

    @property
    def fetch(self) -> Fetch:
        """Where its records come from."""

    @property
    def in_hand(self) -> int | None:
        """The offset of the record it is at, None between records."""

    @property
    def doing(self) -> Doing:
        """What it is at."""

    @property
    def counts(self) -> Counts:
        """What it has done."""


class Observer:
    """Notices for how long each task has been at its record: a look each second costs nothing per record."""

    def __init__(self, tasks: Sequence[Observed], path: Path, now_s: Callable[[], float] = time.time) -> None:
        """Writes to *path*; *tasks* may grow."""
        self._tasks, self._path, self._now_s = tasks, path, now_s
        self._seen: list[TaskStatus | None] = []
        self._written: list[TaskStatus] | None = None

    def look(self) -> list[TaskStatus]:
        """Each task as it is now."""
        self._seen += [None] * (len(self._tasks) - len(self._seen))
        looked = [self._look(task, seen) for task, seen in zip(self._tasks, self._seen, strict=True)]
        self._seen = [*looked]
        return looked

    def _look(self, task: Observed, seen: TaskStatus | None) -> TaskStatus:
        doing = task.doing
        if seen is not None and doing == "idle" == seen.doing and task.handled == seen.counts.handled:
            return seen  # As most of a thousand are, most of the time.
        offset, partition = task.in_hand, task.fetch.partition
        since = None if offset is None else self._now_s()
        if seen is not None and (seen.doing, seen.offset) == (doing, offset):
            since = seen.since
        return TaskStatus(task.agent.name, partition.topic.name, partition.number, doing, offset, since, task.counts)

    def write(self) -> None:
        """Replace the file, if it says something else by now."""
        looked = self.look()
        if looked != self._written:
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text(json.dumps({"pid": os.getpid(), "tasks": [asdict(status) for status in looked]}))
            temporary.replace(self._path)
            self._written = looked

    def remove(self) -> None:
        """The worker has ended."""
        self._path.unlink(missing_ok=True)


def read_status(log: Log) -> tuple[int, list[TaskStatus]] | None:
    """Process and tasks of the worker that runs on the directory of *log*; None if none does, or has said anything."""
    try:
        document = json.loads((log.path / FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        return None  # It is not synced: after a power cut it may be empty.
    # A process is not told of its own locks, so it asks what its threads hold.
    is_ours = document["pid"] == os.getpid() and log.shared.mutex(SHARD_LOCK).locked()
    if not is_ours and log.shared.holder(SHARD_LOCK) != document["pid"]:
        return None
    tasks = [TaskStatus(**task | {"counts": Counts(**task["counts"])}) for task in document["tasks"]]
    return document["pid"], tasks
