"""`framework jobs`: when they are due, what they did, and running one now."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from framework.cli.options import directory_options, json_option, wait_option

if TYPE_CHECKING:
    from framework.cli.directory import Directory
    from framework.jobs.job import Job
from framework.jobs.runs import RunRow

COLUMNS = ("job", "topic", "schedule", "next", "due", "last_run", "last_state", "lag")
RUN_COLUMNS = ("run", "state", "attempt", "records", "trigger", "due", "started", "seconds", "error")


@click.group()
def jobs() -> None:
    """See when jobs are due and what they did, or run one now."""


@jobs.command()
@directory_options
@json_option
def ls(app_name: str | None, data: str | None, as_json: bool) -> None:
    """List the jobs of an app.

    JSON: {"job", "topic", "schedule", "next", "due", "last_run", "last_state", "lag"}. Due means that a
    fire was missed, which a worker runs at once; next is then when that was. Lag is how many records the
    next run has.
    """
    from framework.cli.directory import app_for_running, opened
    from framework.cli.output import print_rows

    app = app_for_running(app_name, data)
    with opened(app) as directory:
        rows = [_job_row(directory, job) for _, job in sorted(app.jobs.items())]
        if not print_rows(rows, COLUMNS, as_json=as_json):
            click.echo(f"app {app.name!r} declares no jobs", err=True)


@jobs.command()
@click.argument("name")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Only the last N.")
@directory_options
@json_option
def runs(name: str, limit: int | None, app_name: str | None, data: str | None, as_json: bool) -> None:
    """List the runs of the job NAME, the latest first.

    JSON: {"run", "job", "state", "attempt", "chunk", "records", "trigger", "due", "started", "ended",
    "seconds", "error", "plan": [{"partition", "start", "end", "next"}]}. State is running, succeeded,
    failed or empty; one that was interrupted is running until it is resumed.
    """
    from framework.cli.directory import reading
    from framework.cli.output import print_rows
    from framework.log.errors import NotFound

    with reading(app_name, data) as directory:
        history = _history(directory, name)
        if not history and not (directory.app and name in directory.app.jobs):
            raise NotFound(f"there is no job {name!r}: no app declares it, and no run of it is in {directory.path}")
        rows = [run_document(row) for row in history[:limit]]
        if not print_rows(rows, RUN_COLUMNS, as_json=as_json):
            click.echo(f"no runs of job {name!r}", err=True)


@jobs.command()
@click.argument("name")
@directory_options
@wait_option
@json_option
def run(name: str, app_name: str | None, data: str | None, wait_s: float, as_json: bool) -> None:
    """Run the job NAME now, over all records since its last run.

    A run that was interrupted is finished first. Ctrl-C interrupts this one at its next chunk. Not beside a
    worker: that owns the jobs of its data directory. JSON: the runs as in `jobs runs`.
    """
    from framework.cli.directory import app_for_running, known, opened
    from framework.cli.foreground import run_in_foreground
    from framework.cli.output import print_rows

    app = app_for_running(app_name, data)
    job = known("job", name, app.jobs, f"in app {app.name!r}")
    with opened(app):
        done = run_in_foreground(app, job, wait_s)
        if as_json:
            print_rows(map(run_document, done), [], as_json=True)


def run_document(row: RunRow) -> dict[str, Any]:
    """A run as it is printed."""
    from framework.cli.output import iso

    ended = row.ended or None
    return {
        "run": row.id,
        "job": row.job,
        "state": row.state,
        "attempt": row.attempt,
        "chunk": row.chunk,
        "records": row.records,
        "trigger": row.trigger,
        "due": iso(row.nominal),
        "started": iso(row.started),
        "ended": iso(ended) if ended else None,
        "seconds": round(ended - row.started, 3) if ended else None,
        "error": row.error or None,
        "plan": [dict(zip(("partition", "start", "end", "next"), part, strict=True)) for part in row.plan],
    }


def _history(directory: Directory, name: str) -> list[RunRow]:
    from framework.jobs.runs import RunRow
    from framework.state import rows

    found = [RunRow.load(value) for _, value in directory.view.job_rows(rows.run_prefix(name))]
    return sorted(found, key=lambda row: (row.nominal, row.started), reverse=True)


def _job_row(directory: Directory, job: Job) -> dict[str, Any]:
    from framework.cli.output import iso
    from framework.state import rows

    assert directory.app is not None
    now = datetime.fromtimestamp(directory.app.clock.now_ms() / 1000, UTC)
    last = next(iter(_history(directory, job.name)), None)
    fired = directory.view.job_rows(rows.meta_key(f"job {job.name}"))
    missed = job.schedule.previous_at_or_before(now)
    due = bool(fired) and missed.timestamp() > rows.unpack_u64(fired[0][1])
    return {
        "job": job.name,
        "topic": job.source.name,
        "schedule": str(job.schedule),
        "next": iso((missed if due else job.schedule.next_after(now)).timestamp()),
        "due": due,
        "last_run": last.id if last else None,
        "last_state": last.state if last else None,
        "lag": _lag(directory, job),
    }


def _lag(directory: Directory, job: Job) -> int:
    from framework.state import rows

    info = directory.log.topics().get(job.source.name)
    if info is None:
        return 0
    lag = 0
    for number in range(info.partitions):
        partition = directory.log.partition(info, number)
        stored = directory.view.job_rows(rows.offset_key(job.name, info.id, number))
        start = rows.unpack_u64(stored[0][1]) if stored else partition.log_start
        lag += max(0, partition.high_watermark - start)
    return lag
