"""`framework jobs run`, `pause`, `resume` and `cancel`: done by the worker that owns the jobs or, without one, here."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from framework.cli.options import directory_options, json_option, wait_option

if TYPE_CHECKING:
    from framework.app import App
    from framework.cli.directory import Directory
    from framework.cli.foreground import Foreground
    from framework.jobs.commands import Commands, Done
    from framework.jobs.control import Reply
    from framework.jobs.job import Job
    from framework.jobs.runs import RunRow

POLL_S = 0.25

detach_option = click.option(
    "--detach", is_flag=True, help="Do not wait for the end, if a worker runs it: it does so anyway."
)


@click.command()
@click.argument("name")
@detach_option
@directory_options
@wait_option
@json_option
def run(name: str, detach: bool, app_name: str | None, data: str | None, wait_s: float, as_json: bool) -> None:
    """Run the job NAME now, over all records since its last run.

    The worker does so, if one runs, and this command watches; Ctrl-C ends the watching only. Without a worker it is
    done here: a run that was interrupted is finished first, and Ctrl-C interrupts this one. JSON: as `jobs runs`.
    """
    from framework.cli.directory import app_for_running, opened
    from framework.cli.jobs import run_document
    from framework.cli.output import print_rows
    from framework.jobs.runner import check_succeeded

    app = app_for_running(app_name, data)
    job = job_named(app, name)
    with opened(app) as directory:
        shards = owned(app, wait_s)
        if shards is None:
            done = sent(directory, "run", job, {}, detach=detach)
        else:
            from framework.cli.foreground import in_foreground

            with shards as jobs:
                done = in_foreground(app, jobs, lambda here: here.run(job))
        if as_json:
            print_rows(map(run_document, done), [], as_json=True)
        for row in done:
            check_succeeded(row)


@click.command()
@click.argument("name")
@click.option("--why", default="", metavar="TEXT", help="A note for whoever finds it paused.")
@directory_options
def pause(name: str, why: str, app_name: str | None, data: str | None) -> None:
    """Let the job NAME not be due until `jobs resume`; a run that is at work goes on."""
    from framework.jobs.control import whoami

    order(app_name, data, name, "pause", {"why": why}, lambda commands: commands.pause(name, by=whoami(), why=why))


@click.command()
@click.argument("name")
@directory_options
def resume(name: str, app_name: str | None, data: str | None) -> None:
    """Let the job NAME be due again; for what was missed meanwhile, as its `catchup` says."""
    order(app_name, data, name, "resume", {}, lambda commands: commands.resume(name))


@click.command()
@click.argument("name")
@click.option("--run", "run_id", metavar="RUN", help="Only this run.  [default: all that are not finished]")
@directory_options
def cancel(name: str, run_id: str | None, app_name: str | None, data: str | None) -> None:
    """Stop what the job NAME has at work, and forget what was interrupted or is planned.

    What its chunks have committed stays, and the rest is for the next run.
    """
    from framework.jobs.control import whoami

    order(
        app_name,
        data,
        name,
        "cancel",
        {"run": run_id},
        lambda commands: commands.cancel(name, run_id, by=whoami()),
    )


def order(
    app_name: str | None,
    data: str | None,
    name: str,
    command: str,
    arguments: Mapping[str, Any],
    here: Callable[[Commands], Coroutine[Any, Any, Done]],
) -> None:
    """Have *command* done by the worker, or *here*, and say what was done."""
    from framework.cli.directory import app_for_running, opened

    app = app_for_running(app_name, data)
    job = job_named(app, name)
    with opened(app) as directory:
        shards = owned(app, 0.0)
        if shards is None:
            text = answered(directory, command, job, arguments).text
        else:
            with shards as jobs:
                text = _done_here(directory, jobs, command, job, arguments, here)
        click.echo(text, err=True)


def _done_here(
    directory: Directory,
    jobs: Any,
    command: str,
    job: Job,
    arguments: Mapping[str, Any],
    here: Callable[[Commands], Coroutine[Any, Any, Done]],
) -> str:
    from framework.cli.foreground import in_foreground
    from framework.jobs.control import Reply, note

    assert directory.app is not None

    async def work(foreground: Foreground) -> Done:
        return await here(foreground.commands)

    done = in_foreground(directory.app, jobs, work)
    note(directory.log, command, job.name, arguments, Reply(secrets.token_hex(8), ok=True, text=done.text))
    return done.text


def job_named(app: App, name: str) -> Job:
    """The job *name* of *app*.

    Raises:
        NotFound: There is none; names those there are.
    """
    from framework.cli.directory import known

    return known("job", name, app.jobs, f"in app {app.name!r}")


def owned(app: App, wait_s: float) -> Any:
    """The jobs as a context in which this process owns them; None if a worker does."""
    from framework.cli.foreground import owned_jobs
    from framework.state.errors import ShardBusy

    entered = owned_jobs(app, wait_s)
    try:
        jobs = entered.__enter__()
    except ShardBusy:
        return None
    return _Entered(entered, jobs)


class _Entered:
    """A context that has been entered already, to see whether it can be."""

    def __init__(self, entered: Any, value: Any) -> None:
        self._entered, self._value = entered, value

    def __enter__(self) -> Any:
        return self._value

    def __exit__(self, *exc: object) -> Any:
        return self._entered.__exit__(*exc)


# With a worker.


def answered(
    directory: Directory, command: str, job: Job, arguments: Mapping[str, Any], *, timeout_s: float | None = None
) -> Reply:
    """Have the worker do *command*; its answer.

    Raises:
        Refused: It does not.
    """
    from framework.jobs.control import ANSWER_S, send
    from framework.log.errors import Error

    reply = send(directory.log, command, job.name, arguments, timeout_s=timeout_s or ANSWER_S)
    if not reply.ok:
        error = Error(reply.text)
        error.exit_code = reply.exit
        raise error
    return reply


def sent(
    directory: Directory,
    command: str,
    job: Job,
    arguments: Mapping[str, Any],
    *,
    detach: bool,
    timeout_s: float | None = None,
) -> list[RunRow]:
    """Have the worker begin runs, and unless *detach* watch them to their end."""
    reply = answered(directory, command, job, arguments, timeout_s=timeout_s)
    click.echo(f"{reply.text}, by the worker", err=True)
    if detach:
        return []
    try:
        return watched(directory, job.name, reply.runs)
    except KeyboardInterrupt:
        click.echo(f"the worker goes on with it; `framework jobs cancel {job.name}` stops it", err=True)
        raise


def watched(directory: Directory, job: str, runs: Sequence[str]) -> list[RunRow]:
    """The rows of *runs* when they have ended, which another process does."""
    from framework.cli.live import LiveLine
    from framework.cli.progress import Watch, worth_saying
    from framework.jobs.runs import RunRow
    from framework.state import rows

    wanted, line = set(runs), LiveLine(sys.stderr)
    found: list[RunRow] = []
    watch = Watch(line, lambda: found)
    try:
        while True:
            stored = [RunRow.load(value) for _, value in directory.view.job_rows(rows.run_prefix(job))]
            found = [row for row in stored if row.id in wanted]
            if len(found) == len(wanted) and not any(row.unfinished for row in found):
                break
            watch.show()
            time.sleep(POLL_S)
    finally:
        line.remove()
    for row in worth_saying(found):
        line.print(f"{row.id}: {row.state}, {row.records:,} records")
    return sorted(found, key=lambda row: row.id)
