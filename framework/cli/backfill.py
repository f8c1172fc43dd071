"""`framework jobs backfill` and `rewind`: old records once more, beside the job, or by the job itself.

Each says first what it would do, and does it with --execute.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from framework.cli.job_control import detach_option, job_named, ordered, sent, timeout_option
from framework.cli.options import directory_options, json_option, wait_option
from framework.cli.reshape import execute_option

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from framework.cli.directory import Directory
    from framework.jobs.backfill import Backfill, Part, Split
    from framework.jobs.job import Job

COLUMNS = ("part", "from", "to", "partitions", "records", "bytes")
REWIND_COLUMNS = ("topic", "partition", "from", "to", "records")
SHOWN_PARTS = 10


@click.command()
@click.argument("name")
@click.option("--from", "since", required=True, metavar="TIME", help="The first record time: 2013-01-01, or 7d ago.")
@click.option("--to", "until", metavar="TIME", help="Up to this record time, which is not in it.  [default: now]")
@click.option(
    "--split",
    metavar="UNIT|TIME",
    help="A run for each hour, day, week or month by the clocks of the job's time zone, or each 6h, 90m, ...",
)
@click.option("--max-active", type=click.IntRange(min=1), default=1, show_default=True, help="How many runs at once.")
@click.option(
    "--tables",
    type=click.Choice(["scratch", "live"]),
    default="scratch",
    show_default=True,
    help="Whether the runs have tables and output topics of their own, or write the job's.",
)
@execute_option
@detach_option
@timeout_option
@wait_option
@directory_options
@json_option
def backfill(
    name: str,
    since: str,
    until: str | None,
    split: str | None,
    max_active: int,
    tables: Literal["scratch", "live"],
    execute: bool,
    detach: bool,
    answer_s: float,
    wait_s: float,
    app_name: str | None,
    data: str | None,
    as_json: bool,
) -> None:
    """Have the job NAME handle old records, in runs of their own: the job's position and schedule stay as they are.

    A run has the records stamped in its time, whenever they were appended. Times without a zone are those of the job's.
    With scratch tables it writes `table@ID` and sends to `topic.backfill-ID`, so that nobody else sees anything of it.

    JSON: {"part", "from", "to", "partitions", "records", "bytes", "plan": [{"partition", "start", "end"}]}; with
    --execute the runs as in `jobs runs`.
    """
    from framework.cli.directory import app_for_running, opened
    from framework.jobs.backfill import Backfill
    from framework.jobs.planning import now_of

    app = app_for_running(app_name, data)
    job = job_named(app, name)
    zone, now = job.schedule.zone, now_of(app)
    wanted = Backfill(
        instant("--from", since, zone, now),
        now if until is None else instant("--to", until, zone, now),
        None if split is None else parse_split(split),
        tables,
        max_active,
    )
    wanted.check()
    with opened(app) as directory:
        if execute:
            _execute(directory, job, wanted, detach=detach, wait_s=wait_s, answer_s=answer_s, as_json=as_json)
        else:
            print_parts(surveyed(directory, job, wanted), job, as_json=as_json)


def _execute(
    directory: Directory, job: Job, wanted: Backfill, *, detach: bool, wait_s: float, answer_s: float, as_json: bool
) -> None:
    from framework.cli.foreground import in_foreground, owned_jobs
    from framework.cli.jobs import run_document
    from framework.cli.output import print_rows
    from framework.errors import JobFailed
    from framework.jobs.control import arguments_of, noted

    assert directory.app is not None
    arguments = arguments_of(wanted)
    with owned_jobs(directory.app, wait_s) as shards:
        if shards is None:
            click.echo(f"the worker looks through topic {job.source.name!r} first", err=True)
            done = sent(directory, "backfill", job, arguments, detach=detach, answer_s=answer_s)
        else:
            with noted(directory.log, "backfill", job.name, arguments) as say:
                done = in_foreground(directory.app, shards, lambda here: here.backfill(job, wanted, say))
    if as_json:
        print_rows(map(run_document, done), [], as_json=True)
    failed = [row for row in done if row.state not in ("succeeded", "empty") and not row.unfinished]
    if done and not any(row.unfinished for row in done):
        records = sum(row.records for row in done)
        click.echo(
            f"backfill {done[0].backfill}: {len(done)} runs, {records:,} records, {len(failed)} failed", err=True
        )
    if failed:
        raise JobFailed(f"{len(failed)} of {len(done)} runs failed; the first is {failed[0].id}: {failed[0].error}")


def surveyed(directory: Directory, job: Job, wanted: Backfill) -> list[Part]:
    """What a backfill would read; shows how far the look through the log has come.

    Raises:
        UsageError: The times cannot be.
        NotFound: The topic is not there.
    """
    from framework.cli.live import LiveLine
    from framework.cli.progress import Looked
    from framework.jobs.backfill import Survey

    parts, info, line = wanted.parts(job.schedule.zone), directory.topic(job.source.name), LiveLine(sys.stderr)
    try:
        Survey(directory.log, info, parts, Looked(line, info.name).seen).run()
    finally:
        line.remove()
    return parts


def print_parts(parts: list[Part], job: Job, *, as_json: bool) -> None:
    """Say what a backfill would read."""
    from framework.cli.jobs import local
    from framework.cli.output import print_rows
    from framework.jobs.backfill import total
    from framework.log.clock import EPOCH

    rows: list[dict[str, Any]] = []
    for number, part in enumerate(parts, 1):
        since, until = (EPOCH + timedelta(milliseconds=ms) for ms in (part.since_ms, part.until_ms))
        rows.append(
            {
                "part": number,
                "from": local(since, job),
                "to": local(until, job),
                "partitions": sum(start < end for _, start, end, _ in part.plan),
                "records": part.records,
                "bytes": part.bytes,
                "plan": [dict(zip(("partition", "start", "end"), entry[:3], strict=True)) for entry in part.plan],
            }
        )
    shown = rows if as_json or len(rows) <= 2 * SHOWN_PARTS else [*rows[:SHOWN_PARTS], *rows[-SHOWN_PARTS:]]
    print_rows(shown, COLUMNS, as_json=as_json)
    if len(shown) < len(rows):
        click.echo(
            f"({len(rows) - len(shown)} parts between part {SHOWN_PARTS} and the last {SHOWN_PARTS} are not shown)"
        )
    click.echo(
        f"would run job {job.name!r}: {total(parts)} in topic {job.source.name!r}; do it with --execute", err=True
    )


@click.command()
@click.argument("name")
@click.argument("backfill_id", metavar="ID")
@execute_option
@timeout_option
@directory_options
def drop(name: str, backfill_id: str, execute: bool, answer_s: float, app_name: str | None, data: str | None) -> None:
    """Remove the runs of backfill ID of the job NAME, which is finished, and its scratch tables.

    Topics that it has sent to are removed with `framework topics delete`.
    """
    from framework.cli.directory import app_for_running, opened
    from framework.cli.jobs import history_of
    from framework.jobs.commands import dropped_text, topics_text
    from framework.jobs.scratch import scratch_name
    from framework.log.errors import NotFound

    app = app_for_running(app_name, data)
    job = job_named(app, name)
    with opened(app) as directory:
        its = [row for row in history_of(directory, name) if row.backfill == backfill_id]
        if not its or not backfill_id:
            raise NotFound(f"job {name!r} has no backfill {backfill_id!r}")
        if execute:
            text = ordered(directory, "drop-backfill", job, {"backfill": backfill_id}, answer_s)
        else:
            owner = scratch_name(name, backfill_id)
            tables = [table for table, writer in directory.view.owners().items() if writer == owner]
            topics = topics_text(directory.log.topics(), backfill_id)
            text = f"would remove {dropped_text(its, tables)}; do it with --execute{topics}"
        click.echo(text, err=True)


@click.command()
@click.argument("name")
@click.option(
    "--to",
    "to",
    required=True,
    metavar="PLACE",
    help="beginning, end, an offset, a record time, or 7d for so long ago.",
)
@click.option(
    "--tables",
    type=click.Choice(["keep", "reset"]),
    help="Whether the rows of its tables stay, or are deleted. Needed if it writes any.",
)
@click.option("--partition", type=int, metavar="N", help="Of one partition only.  [default: of each]")
@execute_option
@timeout_option
@directory_options
@json_option
def rewind(
    name: str,
    to: str,
    tables: str | None,
    partition: int | None,
    execute: bool,
    answer_s: float,
    app_name: str | None,
    data: str | None,
    as_json: bool,
) -> None:
    """Have the job NAME read on from another place: its next run begins there. What it sends then is sent again.

    JSON: {"job", "topic", "partition", "from", "to", "records", "executed"}.
    """
    from framework.cli.directory import app_for_running, opened
    from framework.cli.output import print_rows
    from framework.log.errors import UsageError

    app = app_for_running(app_name, data)
    job = job_named(app, name)
    with opened(app) as directory:
        written = sorted(table for table, owner in directory.view.owners().items() if owner == name)
        if written and tables is None:
            raise UsageError(
                f"job {name!r} writes table {', '.join(map(repr, written))}: say --tables reset to empty "
                f"{'it' if len(written) == 1 else 'them'} first, or --tables keep to go on from what is there"
            )
        steps = _steps(directory, job, to, partition)
        offsets = {str(step["partition"]): step["to"] for step in steps}
        if execute:
            arguments = {"offsets": offsets, "empty": tables == "reset"}
            text = ordered(directory, "rewind", job, arguments, answer_s)
        else:
            records = sum(step["records"] for step in steps)
            text = f"would rewind job {name!r}: {records:,} records to read; do it with --execute"
        rows = [{"job": name, **step, "executed": execute} for step in steps]
        print_rows(rows, REWIND_COLUMNS, as_json=as_json)
        click.echo(text, err=True)


def _steps(directory: Directory, job: Job, to: str, partition: int | None) -> list[dict[str, Any]]:
    """From where to where each partition goes."""
    from framework.cli.jobs import positions
    from framework.jobs.planning import now_of
    from framework.log import At
    from framework.log.cursor import check_kept
    from framework.log.errors import UnknownPartition

    assert directory.app is not None
    info = directory.topic(job.source.name)
    if partition is not None and not 0 <= partition < info.partitions:
        raise UnknownPartition(f"topic {info.name!r} has partitions 0 to {info.partitions - 1}, not {partition}")
    at: At
    if to in ("beginning", "end"):
        at = cast(Literal["beginning", "end"], to)
    else:
        at = int(to) if to.isdecimal() else instant("--to", to, job.schedule.zone, now_of(directory.app))
    steps = []
    for number, offset, end in positions(directory, job):
        if partition in (None, number):
            part = directory.log.partition(info, number)
            check_kept(part, at)
            target = directory.log.offset_of(part, at)
            steps.append(
                {"topic": info.name, "partition": number, "from": offset, "to": target, "records": end - target}
            )
    return steps


def instant(option: str, text: str, zone: ZoneInfo, now: datetime) -> datetime:
    """The time that an option says: a date or a time, in *zone* if it does not say, or how long ago.

    Raises:
        UsageError: It is none.
    """
    from framework.cli.settings import parse_duration
    from framework.log.errors import UsageError

    ago_ms = parse_duration(text)
    if ago_ms is not None:
        return now - timedelta(milliseconds=ago_ms)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{option} {text!r} is no time like 2026-01-31 or 2026-01-31T12:00, nor how long ago, like 90m or 7d"
        ) from None
    return (found if found.tzinfo else found.replace(tzinfo=zone)).astimezone(UTC)


def parse_split(text: str) -> Split:
    """What --split says.

    Raises:
        UsageError: It is no unit and no time.
    """
    from framework.cli.settings import parse_duration
    from framework.log.errors import UsageError

    if text in ("hour", "day", "week", "month"):
        return cast("Split", text)
    milliseconds = parse_duration(text)
    if not milliseconds:
        raise UsageError(f"--split {text!r} is none of hour, day, week and month, nor a time like 90m or 6h")
    return timedelta(milliseconds=milliseconds)
