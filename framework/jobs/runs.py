"""What is stored of jobs and timers: what each has come to, and the runs there were. All of it in the jobs' database.

    state row = {"last_fire", "schedule", "paused"}                   meta "job NAME" or "timer NAME"
    run row   = the fields of `RunRow`                                "r" job 0 run id
    plan      = [[partition, start, end, next], ...]                  next moves with each committed chunk

    planned -> running -> succeeded | failed | timeout | cancelled | abandoned
               running <-> waiting        between two attempts, or until a worker that was stopped is started again
    empty, skipped                        recorded, and never run

A run owns offset ranges, not a slot of time: its plan is written down before the first record is read, and its ends
never move, through crash and retry. A missed time loses nothing; the next run's ranges begin where the last one's
ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta

import orjson

from framework.batch import Run
from framework.log.clock import EPOCH
from framework.log.errors import Damaged
from framework.state import rows
from framework.state.store import Store

UNFINISHED = frozenset({"planned", "running", "waiting"})
FAILURES = frozenset({"failed", "timeout", "abandoned"})
KEEP_FAILED = timedelta(days=30)
"""How long a failed run is remembered, however many there were since."""
MICROSECOND = timedelta(microseconds=1)


@dataclass(slots=True)
class RunRow:
    """What is stored of one run; times in seconds since the epoch."""

    id: str
    nominal: float
    """When it was due."""
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
    """schedule, manual or backfill."""
    notes: list[str] = field(default_factory=list)
    """What is not as usual with it, in words."""
    failures: int = 0
    """How many of its attempts the handler, or its time, has ended."""
    crashes: int = 0
    """How many in a row its worker has not survived, without a chunk in between."""
    begun_chunk: int = 0
    """Which chunk the attempt began with."""
    traceback: str = ""
    planned: float = 0.0
    since_ms: int | None = None
    """Of a backfill: it reads the records stamped from here ..."""
    until_ms: int | None = None
    """... up to here."""
    backfill: str = ""
    """The id of the backfill that it is a part of."""
    scratch: bool = False
    """Whether it has tables and outputs of its own."""
    max_active: int = 1
    """How many runs of its backfill may be at work at once."""

    @property
    def run(self) -> Run:
        """The run as its handler sees it."""
        since, until = (None if ms is None else EPOCH + timedelta(milliseconds=ms) for ms in self.bounds)
        return Run(self.id, datetime.fromtimestamp(self.nominal, UTC), self.attempt, since, until)

    @property
    def bounds(self) -> tuple[int | None, int | None]:
        """Which record times it reads, in milliseconds; None for any."""
        return self.since_ms, self.until_ms

    @property
    def is_detached(self) -> bool:
        """Whether it leaves the job's own position alone."""
        return bool(self.backfill)

    @property
    def unfinished(self) -> bool:
        """Whether there is something left to be done of it."""
        return self.state in UNFINISHED

    @property
    def size(self) -> int:
        """How many offsets it spans, which may be more than there are records."""
        return sum(end - start for _, start, end, _ in self.plan)

    @property
    def done(self) -> int:
        """How many of them are committed."""
        return sum(at - start for _, start, _, at in self.plan)

    def become(self, other: RunRow) -> None:
        """Say what *other* says, which is stored now."""
        for each in fields(self):
            setattr(self, each.name, getattr(other, each.name))

    def change(self) -> rows.Change:
        """The row as a commit writes it."""
        return run_key(self.job, self.id), orjson.dumps(asdict(self))

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


@dataclass(slots=True)
class DueState:
    """What is remembered of a job, or timer, between its runs."""

    last_fire: int
    """The latest due time that was taken care of, in microseconds since the epoch."""
    schedule: str
    """By which it was due; when it is another one now, what the old one has missed is nobody's."""
    paused: dict[str, str] | None = None
    """`{"at", "by", "why"}`, if somebody has paused it."""

    @property
    def last(self) -> datetime:
        """`last_fire` as a time."""
        return EPOCH + self.last_fire * MICROSECOND

    def fired(self, when: datetime) -> None:
        """*when* is taken care of."""
        self.last_fire = (when - EPOCH) // MICROSECOND

    def pack(self) -> bytes:
        """The value of the row."""
        return orjson.dumps(asdict(self))

    @classmethod
    def load(cls, value: bytes) -> DueState:
        """The row that was stored.

        Raises:
            Damaged: It is none.
        """
        try:
            return cls(**orjson.loads(value))
        except (TypeError, ValueError) as error:
            raise Damaged(f"a row of the jobs database cannot be read: {error}") from error


def due_key(kind: str, name: str) -> bytes:
    """The row of a `DueState`; *kind* is job or timer."""
    return rows.meta_key(f"{kind} {name}")


def run_key(job: str, run: str) -> bytes:
    """The row of a run."""
    return rows.run_prefix(job) + run.encode()


def run_id(job: str, nominal: datetime) -> str:
    """The id of the run of *job* that is due at *nominal*; sorts by time, and can stand in a file name."""
    return f"{job}-{nominal.astimezone(UTC):%Y%m%dT%H%M%S}Z"


class History:
    """The runs in one store."""

    def __init__(self, store: Store) -> None:
        """Reads nothing yet."""
        self._database = store.database

    def of(self, job: str) -> list[RunRow]:
        """The runs of *job*, oldest first."""
        return in_order(self._database.scan(rows.run_prefix(job)))

    def free_id(self, job: str, wanted: str) -> str:
        """*wanted*, or with a number behind it if there is a run of that id."""
        name, again = wanted, 1
        while self._database.get(run_key(job, name)) is not None:
            again += 1
            name = f"{wanted}-{again}"
        return name

    def was_due(self, job: str, nominal: datetime) -> bool:
        """Whether the schedule has run, or skipped, *job* for that time."""
        stored = self._database.get(run_key(job, run_id(job, nominal)))
        return stored is not None and RunRow.load(stored).trigger == "schedule"

    def trimmed(self, job: str, keep: int, now: datetime) -> list[rows.Change]:
        """What removes the oldest runs of *job*, so that *keep* are left and those that failed lately.

        Those of backfills go with their backfill.
        """
        mine = [row for row in self.of(job) if not row.is_detached]
        failed_since = (now - KEEP_FAILED).timestamp()
        return [
            (run_key(job, row.id), None)
            for row in mine[:-keep]
            if not row.unfinished and not (row.state in FAILURES and row.ended > failed_since)
        ]


def in_order(stored: Iterable[tuple[bytes, bytes]]) -> list[RunRow]:
    """The runs in these rows, oldest first."""
    found = [RunRow.load(value) for _, value in stored]
    return sorted(found, key=lambda row: (row.nominal, row.planned, row.id))


def iso(seconds: float) -> str:
    """Seconds since the epoch as UTC in ISO 8601, to the second."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
