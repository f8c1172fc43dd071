"""Jobs: functions called on a schedule with the records that have come since.

A run owns offset ranges, not a slot of time: its plan, [start, end) of every partition, is written down before
the first record is read and never moves, through crash and retry. A missed fire loses nothing; the next run's
ranges simply begin where the last one's ended.

    run row  = {"id", "nominal", "state", "attempt", "chunk", "records", "started", "ended", "error",
                "plan": [[partition, start, end, next], ...]}
    state    = "running" | "succeeded" | "failed" | "empty"
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import orjson
from typing_extensions import TypeVar

from framework.batch import Batch, Run
from framework.log.errors import Damaged
from framework.schedule import Schedule
from framework.state import rows
from framework.topic import Topic

if TYPE_CHECKING:
    from framework.app import App

V = TypeVar("V")
K = TypeVar("K", default=str)


class Job:
    """A declared job."""

    def __init__(
        self, app: App, name: str, source: Topic[Any, Any], function: Callable[..., Any], schedule: Schedule
    ) -> None:
        """Use `App.job`."""
        self.app, self.name, self.source, self.function, self.schedule = app, name, source, function, schedule

    def __repr__(self) -> str:
        return f"<Job {self.name!r} of {self.source.name!r}, {self.schedule}>"


class DecorateJob(Protocol[V, K]):
    """What `App.job` returns."""

    def __call__(self, function: Callable[[Batch[V, K]], Coroutine[Any, Any, None] | None], /) -> Job:
        """Declare *function* as the job."""


@dataclass(slots=True)
class RunRow:
    """What is stored of one run; times in seconds since the epoch."""

    id: str
    nominal: float
    state: str
    plan: list[list[int]]
    """Partition, start, end, and the next offset to be read."""
    attempt: int = 0
    chunk: int = 0
    records: int = 0
    started: float = 0.0
    ended: float = 0.0
    error: str = ""
    topic_id: str = ""
    job: str = ""
    trigger: str = "schedule"
    notes: list[str] = field(default_factory=list)

    @property
    def run(self) -> Run:
        """The run as its handler sees it."""
        return Run(self.id, datetime.fromtimestamp(self.nominal, UTC), self.attempt)

    def change(self) -> rows.Change:
        """The row as a commit writes it."""
        return rows.run_prefix(self.job) + self.id.encode(), orjson.dumps(asdict(self))

    @classmethod
    def load(cls, value: bytes) -> RunRow:
        """The row that was stored.

        Raises:
            Damaged: It is none.
        """
        try:
            return cls(**orjson.loads(value))
        except (TypeError, ValueError) as error:
            raise Damaged(f"a row of the jobs database cannot be read: {error}") from error


def run_id(job: str, nominal: datetime) -> str:
    """The id of the run of *job* that is due at *nominal*; sorts by time, and can stand in a file name."""
    return f"{job}-{nominal.astimezone(UTC):%Y%m%dT%H%M%S}Z"
