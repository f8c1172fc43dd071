"""`framework jobs`: when they are due, and what they did; what is done with them is in `job_control` and `backfill`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from framework.cli.backfill import backfill, drop, rewind
from framework.cli.job_control import cancel, pause, resume, run
from framework.cli.options import directory_options, json_option

if TYPE_CHECKING:
    from framework.cli.directory import Directory
    from framework.jobs.job import Job
    from framework.jobs.runs import DueState, RunRow

COLUMNS = ("job", "topic", "schedule", "state", "next", "due", "last_run", "last_state", "lag")
RUN_COLUMNS = ("run", "state", "attempt", "records", "trigger", "due", "started", "seconds", "error")
SHOWN_FIRES, SHOWN_RUNS = 3, 5


@click.group()
def jobs() -> None:
    """See when jobs are due and what they did; run, pause, cancel, rewind them; or have old records read again."""


for command in (run, pause, resume, cancel, rewind, backfill, drop):
    jobs.add_command(command)


@jobs.command()
@directory_options
@json_option
def ls(app_name: str | None, data: str | None, as_json: bool) -> None:
    """List the jobs of an app.

    JSON: {"job", "topic", "schedule", "state", "next", "due", "last_run", "last_state", "lag"}. State is active,
    running or paused. Due means that a fire was missed, which a worker runs at once; next is then when that was, and
    null while the job is paused. Lag is how many records the next run has.
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
@directory_options
@json_option
def show(name: str, app_name: str | None, data: str | None, as_json: bool) -> None:
    """Show the job NAME: its schedule and the next times, how it is declared, where it is, and its last runs.

    JSON: {"fires", "policies", "paused", "positions": [{"partition", "offset", "end"}], "runs"}, and what is in `jobs
    ls`; the runs as in `jobs runs`.
    """
    from framework.cli.directory import app_for_running, known, opened
    from framework.cli.output import print_fields, print_json, print_rows

    app = app_for_running(app_name, data)
    job = known("job", name, app.jobs, f"in app {app.name!r}")
    with opened(app) as directory:
        history = history_of(directory, name)
        row = _job_row(directory, job)
        fires = [local(fire, job) for fire in job.schedule.upcoming(_now(directory), SHOWN_FIRES)]
        policies = {each: _said(getattr(job.policies, each)) for each in job.policies.__slots__}
        due = _due_state(directory, name)
        places = [
            {"partition": number, "offset": start, "end": end} for number, start, end in positions(directory, job)
        ]
        runs = [run_document(each) for each in history[:SHOWN_RUNS]]
        paused = due.paused if due else None
        if as_json:
            extra = {"fires": fires, "policies": policies, "paused": paused, "positions": places, "runs": runs}
            print_json({**row, **extra})
            return
        said = (
            f"since {paused['at']}, by {paused['by']}{f': {why}' if (why := paused['why']) else ''}" if paused else None
        )
        print_fields({**row, "paused": said, "next_times": ", ".join(fires)})
        click.echo()
        print_fields(policies)
        click.echo()
        print_rows(places, ("partition", "offset", "end"), as_json=False)
        click.echo()
        print_rows(runs, RUN_COLUMNS, as_json=False)


@jobs.command()
@click.argument("name")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Only the last N.")
@click.option("--backfill", "backfill", metavar="ID", help="Only those of one backfill.")
@directory_options
@json_option
def runs(
    name: str, limit: int | None, backfill: str | None, app_name: str | None, data: str | None, as_json: bool
) -> None:
    """List the runs of the job NAME, the latest first.

    JSON: {"run", "job", "state", "attempt", "chunk", "records", "trigger", "due", "started", "ended",
    "seconds", "error", "notes", "since", "until", "backfill", "plan": [{"partition", "start", "end", "next"}]}.
    State is planned, running, waiting (for another attempt, or a worker), succeeded, failed, timeout, cancelled,
    abandoned, empty or skipped.
    """
    from framework.cli.directory import reading
    from framework.cli.output import print_rows
    from framework.log.errors import NotFound

    with reading(app_name, data) as directory:
        history = history_of(directory, name)
        if not history and not (directory.app and name in directory.app.jobs):
            raise NotFound(f"there is no job {name!r}: no app declares it, and no run of it is in {directory.path}")
        chosen = [row for row in history if backfill in (None, row.backfill)]
        rows = [run_document(row) for row in chosen[:limit]]
        if not print_rows(rows, RUN_COLUMNS, as_json=as_json):
            click.echo(f"no runs of job {name!r}", err=True)


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
        "started": iso(row.started) if row.started else None,
        "ended": iso(ended) if ended else None,
        "seconds": round(ended - row.started, 3) if ended and row.started else None,
        "error": row.error or None,
        "notes": row.notes,
        "since": None if row.since_ms is None else iso(row.since_ms / 1000),
        "until": None if row.until_ms is None else iso(row.until_ms / 1000),
        "backfill": row.backfill or None,
        "plan": [dict(zip(("partition", "start", "end", "next"), part, strict=True)) for part in row.plan],
    }


def _said(option: object) -> str | None:
    """An option of a job as it is printed."""
    from framework.retry import Retry

    if isinstance(option, Retry):
        return f"{option.times}, {option.wait} to {option.max_wait} apart"
    return None if option is None else str(option)


def local(when: datetime, job: Job) -> str:
    """An instant by the clocks of the job's time zone."""
    return when.astimezone(job.schedule.zone).isoformat(timespec="seconds")


def history_of(directory: Directory, name: str) -> list[RunRow]:
    """The runs of the job *name*, the latest first. What nobody is at waits, whatever a killed worker has left."""
    from framework.jobs.runs import in_order
    from framework.log.locks import JOBS_LOCK
    from framework.state import rows

    found = in_order(directory.view.job_rows(rows.run_prefix(name)))[::-1]
    if directory.log.shared.holder(JOBS_LOCK) is None:
        for row in found:
            row.state = "waiting" if row.state == "running" else row.state
    return found


def _due_state(directory: Directory, name: str) -> DueState | None:
    from framework.jobs.runs import DueState, due_key

    stored = dict(directory.view.job_rows(due_key("job", name))).get(due_key("job", name))
    return None if stored is None else DueState.load(stored)


def _now(directory: Directory) -> datetime:
    return datetime.fromtimestamp(directory.log.clock.now_ms() / 1000, UTC)


def _job_row(directory: Directory, job: Job) -> dict[str, Any]:
    from framework.cli.output import iso

    now, state = _now(directory), _due_state(directory, job.name)
    history = history_of(directory, job.name)
    last = next((row for row in history if not row.is_detached), None)
    missed = job.schedule.previous_at_or_before(now)
    paused = state is not None and state.paused is not None
    due = state is not None and not paused and missed > state.last
    said = "paused" if paused else "active"
    if any(row.state == "running" for row in history):
        said = "running"
    return {
        "job": job.name,
        "topic": job.source.name,
        "schedule": str(job.schedule),
        "state": said,
        "next": None if paused else iso((missed if due else job.schedule.next_after(now)).timestamp()),
        "due": due,
        "last_run": last.id if last else None,
        "last_state": last.state if last else None,
        "lag": sum(max(0, end - start) for _, start, end in positions(directory, job)),
    }


def positions(directory: Directory, job: Job) -> list[tuple[int, int, int]]:
    """(partition, where the job reads on, end) of each partition of its topic."""
    from framework.state import rows

    info = directory.log.topics().get(job.source.name)
    found = []
    for number in range(info.partitions if info is not None else 0):
        assert info is not None
        partition = directory.log.partition(info, number)
        stored = directory.view.job_rows(rows.offset_key(job.name, info.id, number))
        start = rows.unpack_u64(stored[0][1]) if stored else partition.log_start
        found.append((number, start, partition.high_watermark))
    return found
