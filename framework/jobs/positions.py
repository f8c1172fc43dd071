"""Up to where jobs have read, for those who remove records: retention waits for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from framework.jobs.job import Job
from framework.jobs.runs import RunRow
from framework.log import Partition
from framework.state.store import Store

if TYPE_CHECKING:
    from framework.app import App

Position = tuple[Partition, int]


class Positions:
    """The positions of one app's jobs; a thousand of them are asked each second, so what is stored is read once."""

    def __init__(self, app: App, store: Store) -> None:
        """*store* is that of the jobs."""
        self._app, self._store = app, store
        self._known: dict[str, list[tuple[Partition, int | None]]] = {}
        """None where a job has not begun; there it begins where the log does, then."""

    def moved(self, job: Job) -> None:
        """What is stored of *job* has changed."""
        self._known.pop(job.name, None)

    def of_jobs(self) -> Iterator[Position]:
        """Where each job reads on; those that do not go on from where they were need nothing between their runs."""
        starts: dict[Partition, int] = {}
        for job in self._app.jobs.values():
            if job.policies.reads != "new":
                continue
            for part, at in self._of(job):
                if at is None and part not in starts:
                    starts[part] = part.log_start
                yield part, starts[part] if at is None else at

    def of_run(self, row: RunRow) -> Iterator[Position]:
        """What an unfinished run has still to read."""
        job = self._app.jobs.get(row.job)
        info = None if job is None else self._app.topic_info(job.source)
        if info is not None and info.id == row.topic_id:
            for number, _, end, at in row.plan:
                if at < end:
                    yield self._app.log.partition(info, number), at

    def _of(self, job: Job) -> list[tuple[Partition, int | None]]:
        known = self._known.get(job.name)
        if known is not None:
            return known
        info = self._app.topic_info(job.source)
        parts = [self._app.log.partition(info, number) for number in range(info.partitions)]
        found = [(part, self._store.offset(job.name, info, part.number, gap_allowed=True)) for part in parts]
        self._known[job.name] = found
        return found
