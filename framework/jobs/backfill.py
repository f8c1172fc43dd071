"""Backfills: the handler of a job over old records, in runs of its own, beside the job and its schedule.

    since                                until
      |-- part 1 --|-- part 2 --|-- part 3 --|             split at midnights of the job's time zone, at hours, ...

A part has the records *stamped* in it. Its offsets reach from the first of them to the last, in each partition, and
what lies between them and is stamped otherwise is passed over: so records that came late are in the part of their time,
and in no other. One pass over the log finds all parts, and counts them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Literal, get_args
from zoneinfo import ZoneInfo

from framework.jobs.job import Job
from framework.jobs.runs import RunRow, iso
from framework.log import Log, Partition, TopicInfo, decode
from framework.log.clock import EPOCH, to_ms
from framework.log.codec import decode_stamped
from framework.log.cursor import first_at
from framework.log.errors import UsageError
from framework.log.header import Header

MAX_PARTS = 10_000
MIN_SPLIT = timedelta(seconds=1)
Tables = Literal["scratch", "live"]
Unit = Literal["hour", "day", "week", "month"]
Split = Unit | timedelta
UNITS = get_args(Unit)
Seen = Callable[[int], None]
"""Called with how many bytes of the log have been looked at."""


@dataclass(slots=True)
class Part:
    """The records of one stretch of time, as a plan."""

    since_ms: int
    until_ms: int
    plan: list[list[int]] = field(default_factory=list)
    """Partition, start, end, and start again, as in `RunRow.plan`."""
    records: int = 0
    bytes: int = 0

    def meet(self, number: int, offset: int, behind: int, records: int, size: int) -> None:
        """There are so many of its *records* in partition *number*, from *offset* up to *behind*."""
        if not self.plan or self.plan[-1][0] != number:
            self.plan.append([number, offset, offset, offset])
        self.plan[-1][2] = max(self.plan[-1][2], behind)
        self.records += records
        self.bytes += size


@dataclass(frozen=True, slots=True)
class Backfill:
    """What somebody wants done again."""

    since: datetime
    until: datetime
    split: Split | None = None
    tables: Tables = "scratch"
    max_active: int = 1

    def check(self) -> None:
        """Refuse what no run could do.

        Raises:
            UsageError: It says more at once than there can be, or no unit there is.
        """
        if self.since.tzinfo is None or self.until.tzinfo is None:
            raise UsageError(f"{self.since} and {self.until} do not both say of which time zone they are")
        if isinstance(self.split, timedelta):
            if self.split < MIN_SPLIT:
                raise UsageError(f"--split is {self.split}, {MIN_SPLIT} is least")
        elif self.split not in (None, *UNITS):
            raise UsageError(f"--split {self.split!r} is none of {', '.join(UNITS)}, nor a time like 90m or 6h")
        if self.tables not in get_args(Tables):
            raise UsageError(f"--tables is {self.tables!r}, it must be one of {', '.join(get_args(Tables))}")
        if self.max_active < 1:
            raise UsageError(f"--max-active is {self.max_active}, it must be 1 or more")
        if self.max_active > 1 and self.tables == "live":
            raise UsageError("runs that write the live tables follow each other: --max-active 1 with --tables live")
        if self.since >= self.until:
            raise UsageError(f"--from {self.since.isoformat()} is not before --to {self.until.isoformat()}")

    def parts(self, zone: ZoneInfo) -> list[Part]:
        """The stretches of time, without records yet; of what `check` has passed.

        Raises:
            UsageError: There are too many.
        """
        bounds = [self.since]
        while bounds[-1] < self.until:
            bounds.append(min(next_bound(bounds[-1], self.split, zone), self.until) if self.split else self.until)
            if len(bounds) > MAX_PARTS + 1:
                raise UsageError(f"more than {MAX_PARTS} parts between --from and --to: split into larger ones")
        return [Part(to_ms(since), to_ms(until)) for since, until in pairwise(bounds)]


def next_bound(at: datetime, split: Split, zone: ZoneInfo) -> datetime:
    """The first instant after *at* at which a part ends: a multiple since the epoch, or by the clocks of *zone*."""
    if isinstance(split, timedelta):
        return EPOCH + ((at - EPOCH) // split + 1) * split
    if split == "hour":
        shift = at.astimezone(zone).utcoffset() or timedelta(0)  # Some clocks are half an hour off.
        return next_bound(at + shift, timedelta(hours=1), zone) - shift
    wall = at.astimezone(zone).replace(tzinfo=None, fold=0, hour=0, minute=0, second=0, microsecond=0)
    if split == "day":
        wall += timedelta(days=1)
    elif split == "week":
        wall += timedelta(days=7 - wall.weekday())
    else:
        wall = wall.replace(year=wall.year + wall.month // 12, month=wall.month % 12 + 1, day=1)
    return wall.replace(tzinfo=zone).astimezone(UTC)


class Survey:
    """One pass over the records between two times: which parts they belong to, and how many there are."""

    def __init__(self, log: Log, topic: TopicInfo, parts: Sequence[Part], seen: Seen = lambda _: None) -> None:
        """*parts* follow each other; they are filled by `run`."""
        self._log, self._topic, self._parts, self._seen = log, topic, parts, seen
        self._bounds = [part.since_ms for part in parts]
        self._until_ms = parts[-1].until_ms
        self._stopped = False

    def stop(self) -> None:
        """Have `run` end, from another thread; what it has found by then is of no use."""
        self._stopped = True

    def run(self) -> None:
        """Look at every record that is there now."""
        for number in range(self._topic.partitions):
            partition = self._log.partition(self._topic, number)
            for header, batch in self._batches(partition):
                if header.max_timestamp >= self._bounds[0]:
                    self._meet(number, header, batch)
        for part in self._parts:
            missing = set(range(self._topic.partitions)) - {entry[0] for entry in part.plan}
            part.plan = sorted([*part.plan, *([number, 0, 0, 0] for number in missing)])

    def _batches(self, partition: Partition) -> Iterator[tuple[Header, memoryview]]:
        end = partition.high_watermark
        reader = self._log.reader(partition, first_at(self._log.reader, partition, self._bounds[0]))
        try:
            while reader.offset < end and not self._stopped:
                fetched = reader.read()
                yield from fetched.batches
                self._seen(sum(header.size for header, _ in fetched.batches))
        finally:
            reader.close()

    def _meet(self, number: int, header: Header, batch: memoryview) -> None:
        most = self._topic.settings.most_uncompressed_bytes
        stamps = decode_stamped(batch, most)[1]
        if not stamps:
            return
        first, last = self._part_of(min(stamps)), self._part_of(max(stamps))
        if first == last and first is not None:
            self._parts[first].meet(number, header.base_offset, header.next_offset, len(stamps), header.size)
            return
        offsets = (
            range(header.base_offset, header.next_offset)
            if header.dense
            else [record.offset for record in decode(batch, most)]
        )
        size = header.size // len(stamps)
        for offset, stamp in zip(offsets, stamps, strict=True):
            at = self._part_of(stamp)
            if at is not None:
                self._parts[at].meet(number, offset, offset + 1, 1, size)

    def _part_of(self, stamp: int) -> int | None:
        if not self._bounds[0] <= stamp < self._until_ms:
            return None
        return bisect_right(self._bounds, stamp) - 1


def total(parts: Sequence[Part]) -> str:
    """What *parts* come to, in words."""
    records, size = sum(part.records for part in parts), sum(part.bytes for part in parts)
    empty = sum(not part.records for part in parts)
    return (
        f"{len(parts):,} run{'s' * (len(parts) != 1)} over {records:,} record{'s' * (records != 1)} of "
        f"{size / 1e6:,.1f} MB{f', {empty:,} without any' if empty else ''}"
    )


def rows_of(
    job: Job, topic: TopicInfo, parts: Sequence[Part], wanted: Backfill, backfill: str, now: datetime
) -> list[RunRow]:
    """The runs of the backfill called *backfill*, one a part."""
    width = len(str(len(parts)))
    rows = []
    for number, part in enumerate(parts, 1):
        is_empty = not part.records and job.policies.on_empty == "skip"
        row = RunRow(
            f"{job.name}@{backfill}-{number:0{width}}",
            part.until_ms / 1000,
            "empty" if is_empty else "planned",
            part.plan,
            topic_id=topic.id,
            job=job.name,
            trigger="backfill",
            planned=now.timestamp(),
            since_ms=part.since_ms,
            until_ms=part.until_ms,
            backfill=backfill,
            scratch=wanted.tables == "scratch",
            max_active=wanted.max_active,
        )
        if is_empty:
            row.attempt, row.started, row.ended = 1, row.planned, row.planned
        rows.append(row)
    return rows


def backfill_id(now: datetime) -> str:
    """What a backfill that is planned now is called."""
    return iso(now.timestamp()).replace("-", "").replace(":", "")
