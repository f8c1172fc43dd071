"""What a program declares of a job: the function, when it is due, which records it gets, and what if it fails."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from typing_extensions import TypedDict, TypeVar

from framework.batch import Batch
from framework.errors import DeclarationError
from framework.log import TopicInfo
from framework.retry import Retry
from framework.schedule import Schedule, stable_delay
from framework.topic import Topic

if TYPE_CHECKING:
    from framework.app import App

V = TypeVar("V")
K = TypeVar("K", default=str)

Reads = Literal["new", "all"] | timedelta
Until = Literal["fire", "start"]
Catchup = Literal["coalesce", "each", "none"]
Overlap = Literal["coalesce", "skip", "cancel"]
OnFailure = Literal["hold", "pause", "skip"]
OnGap = Literal["fail", "earliest"]
OnEmpty = Literal["skip", "run"]
Executor = Literal["thread", "process"]
CHOICES = {
    "until": Until,
    "catchup": Catchup,
    "overlap": Overlap,
    "on_failure": OnFailure,
    "on_gap": OnGap,
    "on_empty": OnEmpty,
    "executor": Executor,
}
MILLISECOND = timedelta(milliseconds=1)
RETRIES = Retry(3, wait=timedelta(seconds=30), max_wait=timedelta(minutes=10))
"""What a job does about a handler that raises, unless it says otherwise."""


class JobOptions(TypedDict, total=False):
    """What can be said of a job beside its topic and schedule: see `App.job`."""

    name: str | None
    """What it is known by, the function's name unless given: its position in the topic hangs on it."""
    reads: Reads
    """`new`: what came since the last run. `all`: whatever the topic keeps. A timedelta: what was appended in that
    time before the run was due."""
    until: Until
    """`fire`: a run ends with the last record appended before it was due, however late it starts. `start`: with what
    is there when it starts."""
    catchup: Catchup
    """Of times that were missed, because no worker ran or the machine slept: `coalesce` runs once, for the latest;
    `each` runs once for each, over the records between them; `none` waits for the next time, which gets them all."""
    overlap: Overlap
    """If a run is still at work when the next is due: `coalesce` begins it afterwards, once; `skip` waits for the time
    after that; `cancel` stops the one at work at its next record, and the next goes on where that had committed."""
    retries: Retry
    """How often a handler that raises is called again, inside the same run and over the same records. `then` and
    `outage_after` are for agents."""
    on_failure: OnFailure
    """When a run has failed for good: `hold` leaves its records to the next run, `pause` does so and stops the schedule
    until `framework jobs resume`, `skip` goes on behind them."""
    on_gap: OnGap
    """If records were removed before they were read: the run fails, or goes on with the `earliest` that is kept."""
    on_empty: OnEmpty
    """Over no records at all the handler is not called, unless this says `run`."""
    timeout: timedelta | None
    """How long an attempt may take; then it is stopped, and has failed: an `async def` where it waits, a `def` when it
    asks for records, or 10 seconds later left to itself, and a process at once."""
    jitter: timedelta
    """Runs start up to so much later than they are due, each job always by the same time: not all at midnight."""
    history: int
    """How many runs are remembered; failed ones are for 30 days."""
    executor: Executor
    """Where a plain `def` runs: a thread of the worker, or a process of its own, for handlers that compute. A process
    takes about half a second to start, imports the app's module, and lives within a lifespan of its own."""


@dataclass(frozen=True, slots=True)
class Policies:
    """The options of a job, with their defaults."""

    reads: Reads = "new"
    until: Until = "fire"
    catchup: Catchup = "coalesce"
    overlap: Overlap = "coalesce"
    retries: Retry = RETRIES
    on_failure: OnFailure = "hold"
    on_gap: OnGap = "fail"
    on_empty: OnEmpty = "skip"
    timeout: timedelta | None = None
    jitter: timedelta = timedelta(0)
    history: int = 100
    executor: Executor = "thread"

    def check(self, name: str, function: Callable[..., Any]) -> None:
        """Refuse what cannot be, or does not go together.

        Raises:
            DeclarationError: With the option and the ways out.
        """
        self._check_values(name)
        if self.catchup == "each" and self.until == "start":
            raise DeclarationError(
                f"job {name!r}: catchup='each' gives each run the records up to its time, which until='start' "
                "does not know: leave one of them out"
            )
        if (self.retries.then, self.retries.outage_after) != (RETRIES.then, RETRIES.outage_after):
            raise DeclarationError(f"job {name!r}: of a job, on_failure says what comes after the last retry")
        if self.executor == "process" and inspect.iscoroutinefunction(function):
            raise DeclarationError(
                f"job {name!r}: executor='process' is for a plain def; an async def runs in the loop"
            )
        if self.executor == "process" and not getattr(function, "__qualname__", "").isidentifier():
            raise DeclarationError(
                f"job {name!r}: with executor='process' the function stands at the top of a module, where another "
                "process finds it"
            )

    def _check_values(self, name: str) -> None:
        """Refuse an option that cannot be, whatever the others are."""
        for option, choices in CHOICES.items():
            value = getattr(self, option)
            if value not in get_args(choices):
                raise DeclarationError(
                    f"job {name!r}: {option} is {value!r}, it must be one of {', '.join(get_args(choices))}"
                )
        if not isinstance(self.reads, timedelta) and self.reads not in ("new", "all"):
            raise DeclarationError(f"job {name!r}: reads is {self.reads!r}, it must be 'new', 'all' or a timedelta")
        if not isinstance(self.retries, Retry):
            raise DeclarationError(
                f"job {name!r}: retries is {self.retries!r}, it must be a Retry, like Retry(3, wait=timedelta(0))"
            )
        for option in ("reads", "timeout", "jitter"):
            value = getattr(self, option)
            if not isinstance(value, timedelta) and (option == "jitter" or (option == "timeout" and value is not None)):
                raise DeclarationError(f"job {name!r}: {option} is {value!r}, it must be a timedelta")
            if isinstance(value, timedelta) and value <= timedelta(0) and (option != "jitter" or value):
                raise DeclarationError(f"job {name!r}: {option} is {value}, it must be positive")
        if not isinstance(self.history, int) or self.history < 1:
            raise DeclarationError(f"job {name!r}: history is {self.history!r}, it must be a number of runs, 1 or more")


class Job:
    """A declared job."""

    kind = "job"

    def __init__(
        self,
        app: App,
        name: str,
        source: Topic[Any, Any],
        function: Callable[..., Any],
        schedule: Schedule,
        policies: Policies | None = None,
    ) -> None:
        """Use `App.job`.

        Raises:
            DeclarationError: The policies cannot be.
        """
        self.app, self.name, self.source, self.function, self.schedule = app, name, source, function, schedule
        self.policies = policies or Policies()
        self.policies.check(name, function)

    @property
    def delay(self) -> timedelta:
        """How much later than it is due a run starts: a part of the jitter, by the names of app and job."""
        jitter = self.policies.jitter
        if not jitter:
            return jitter
        # In milliseconds, as clocks are read: what is due by the wall clock is due by the one that wakes.
        return stable_delay(f"{self.app.name}.{self.name}", jitter) // MILLISECOND * MILLISECOND

    def check_retention(self, info: TopicInfo, now: datetime) -> None:
        """Refuse a job for which its topic does not keep records long enough.

        Raises:
            DeclarationError: Records may be removed before the job is due.
        """
        kept_ms = info.settings.retention_ms
        if kept_ms < 0 or not info.settings.deletes:
            return
        kept = timedelta(milliseconds=kept_ms)
        gap, reads = self.schedule.longest_gap(now), self.policies.reads
        if gap > kept:
            raise DeclarationError(
                f"job {self.name!r}, {self.schedule}, is due up to {gap} after the time before, but topic "
                f"{info.name!r} keeps records for {kept} only: keep them longer (retention=, or framework topics alter "
                f"{info.name} --retention), or run the job more often"
            )
        if isinstance(reads, timedelta) and reads > kept:
            raise DeclarationError(
                f"job {self.name!r} reads back {reads}, but topic {info.name!r} keeps records for {kept} only"
            )

    def __repr__(self) -> str:
        return f"<Job {self.name!r} of {self.source.name!r}, {self.schedule}>"


class DecorateJob(Protocol[V, K]):
    """What `App.job` returns."""

    def __call__(self, function: Callable[[Batch[V, K]], Coroutine[Any, Any, None] | None], /) -> Job:
        """Declare *function* as the job."""
