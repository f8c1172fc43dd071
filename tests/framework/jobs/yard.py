"""What the tests of commands and backfills share: an app with a topic of stamped numbers, whose jobs a test owns."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from framework import App, Batch, Retry
from framework.jobs.backfill import Backfill
from framework.jobs.commands import Commands
from framework.jobs.job import Job
from framework.jobs.runner import JobRunner
from framework.jobs.runs import RunRow
from framework.log import NewRecord, encode
from framework.log.clock import to_ms
from framework.state.shards import Shards
from tests.log.conftest import ManualClock

START = datetime(2024, 3, 8, tzinfo=UTC)
DAY = timedelta(days=1)
ONCE = Retry(0)
MAX_BATCH_BYTES = 1 << 20
LIMIT_S = 60.0


class Yard:
    """An app with a topic of two partitions, a table and an output; started, killed and started again by a test."""

    def __init__(self, data: Path) -> None:
        self.clock = ManualClock()
        self.clock.ms = to_ms(START)
        self.app = App("yard", data=data, clock=self.clock)
        self.numbers, self.out = self.app.topic("numbers", int, partitions=2), self.app.topic("out", int)
        self.sums = self.app.table("sums", int)
        self._shards: Shards | None = None

    def start(self) -> None:
        """Open everything, and own the jobs."""
        self._shards = Shards(self.app.open(create=True))
        self._shards.own_jobs()
        self.runner = JobRunner(self.app, self._shards.of_jobs())
        self.commands = Commands(self.runner)

    def stop(self) -> None:
        """Close everything."""
        if self._shards is not None:
            self._shards.close()
        self._shards = None
        self.app.close()

    def kill(self) -> None:
        """Let nothing more be committed of what is at work, and start again."""
        self.runner.kill()
        self.stop()
        self.start()

    def append(self, at: datetime, *values: int | bytes, partition: int = 0) -> None:
        """Append *values* as one batch, all stamped *at*."""
        self.append_stamped([(at, value) for value in values], partition)

    def append_stamped(self, stamped: list[tuple[datetime, int | bytes]], partition: int = 0) -> None:
        """Append values as one batch, each with its stamp."""
        records = [
            NewRecord(b"k", value if isinstance(value, bytes) else b"%d" % value, to_ms(at)) for at, value in stamped
        ]
        where = self.app.log.partition(self.app.topic_info(self.numbers), partition)
        self.app.log.append(where, encode(records, max_batch_bytes=MAX_BATCH_BYTES)).result(60)

    async def backfill(self, job: Job, since: datetime, until: datetime, **options: Any) -> list[RunRow]:
        """A backfill of *job*, planned and run to its end."""
        _, planned = await self.commands.plan_backfill(job.name, Backfill(since, until, **options))
        await self.commands.finish_backfill(planned)
        return planned

    def rows(self, prefix: bytes) -> dict[bytes, bytes]:
        """What the jobs' database holds."""
        return dict(self.runner.store.database.scan(prefix))

    def live(self) -> dict[bytes, bytes]:
        """What is live of the jobs: positions, tables, due times; but not their runs, and not what the log holds."""
        kinds = (b"o", b"t", b"w", b"mjob")
        return {key: value for kind in kinds for key, value in self.rows(kind).items() if b"@" not in key}

    def sent(self, topic: str) -> Counter[int]:
        """The numbers in *topic*, and how often each."""
        return Counter(int(record.value or b"") for _, record in self.app.log.read(topic))


def summing(yard: Yard, name: str = "total", **options: Any) -> Job:
    """A job that adds numbers up, and sends each on; 13 is more than it can do."""

    def total(batch: Batch[int]) -> None:
        for chunk in batch.chunks(2):
            for number in chunk:
                if number == 13:
                    raise ValueError("thirteen")
                yard.sums["all"] += number
                yard.out.send(number)

    return yard.app.job(yard.numbers, schedule="@daily", name=name, **{"retries": ONCE, **options})(total)
