"""`framework jobs run`, `pause`, `resume` and `cancel`: done by the worker that owns the jobs or, without one, here."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from framework.cli.options import directory_options, json_option, wait_option

if TYPE_CHECKING:
    from framework.app import App
    from framework.cli.directory import Directory
    from framework.jobs.control import Reply
    from framework.jobs.job import Job
    from framework.jobs.runs import RunRow

POLL_S = 0.25
MOMENT_S = 1.0
"""How long a command waits for another one that is done without a worker."""
detach_option = click.option(
    "--detach", is_flag=True, help="Do not wait for the end, if a worker runs it: it does so anyway."
)
timeout_option = click.option(
    "--timeout",
    "answer_s",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,  # As framework.jobs.control has it, which is not imported for --help.
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until a worker takes the command; then it is not done any more.",
)


@click.command()
@click.argument("name")
@detach_option
@timeout_option
@directory_options
@wait_option
@json_option
def run(
    name: str,
    detach: bool,
    answer_s: float,
    app_name: str | None,
    data: str | None,
    wait_s: float,
    as_json: bool,
) -> None:
    """Run the job NAME now, over all records since its last run, paused or not.

    The worker does so, if one runs, and this command watches; Ctrl-C ends the watching only. Without a worker it is
    done here: a run that was interrupted is finished first, and Ctrl-C interrupts this one.

    JSON: the runs as in `jobs runs`.
    """
    from framework.cli.directory import app_for_running, opened
    from framework.cli.foreground import in_foreground, owned_jobs
    from framework.cli.jobs import run_document
    from framework.cli.output import print_rows
    from framework.jobs.control import noted
    from framework.jobs.runner import check_succeeded

    app = app_for_running(app_name, data)
    job = job_named(app, name)
    with opened(app) as directory, owned_jobs(app, wait_s) as shards:
        if shards is None:
            done = sent(directory, "run", job, {}, detach=detach, answer_s=answer_s)
        else:
            with noted(directory.log, "run", name, {}) as say:
                done = in_foreground(app, shards, lambda here: here.run(job, say))
        if as_json:
            print_rows(map(run_document, done), [], as_json=True)
        for row in done:
            check_succeeded(row)


@click.command()
@click.argument("name")
@click.option("--why", default="", metavar="TEXT", help="A note for whoever finds it paused.")
@timeout_option
@directory_options
def pause(name: str, why: str, answer_s: float, app_name: str | None, data: str | None) -> None:
    """Let the job NAME not be due until `jobs resume`; a run that is at work goes on."""
    order(app_name, data, name, "pause", {"why": why}, answer_s)


@click.command()
@click.argument("name")
@timeout_option
@directory_options
def resume(name: str, answer_s: float, app_name: str | None, data: str | None) -> None:
    """Let the job NAME be due again; for what was missed meanwhile, as its `catchup` says."""
    order(app_name, data, name, "resume", {}, answer_s)


@click.command()
@click.argument("name")
@click.option("--run", "run_id", metavar="RUN", help="Only this run.  [default: all that are not finished]")
@timeout_option
@directory_options
def cancel(name: str, run_id: str | None, answer_s: float, app_name: str | None, data: str | None) -> None:
    """Stop what the job NAME has at work, and forget what was interrupted or is planned.

    What its chunks have committed stays, and the rest is for the next run.
    """
    order(app_name, data, name, "cancel", {"run": run_id}, answer_s)


def order(
    app_name: str | None, data: str | None, name: str, command: str, arguments: Mapping[str, Any], answer_s: float
) -> None:
    """Have *command* done by the worker, or here, and say what was done."""
    from framework.cli.directory import app_for_running, opened

    app = app_for_running(app_name, data)
    job = job_named(app, name)
    with opened(app) as directory:
        click.echo(ordered(directory, command, job, arguments, answer_s), err=True)


def ordered(directory: Directory, command: str, job: Job, arguments: Mapping[str, Any], answer_s: float) -> str:
    """Have *command* done, by the worker or here; what was done."""
    from framework.cli.foreground import in_foreground, owned_jobs
    from framework.jobs.control import noted

    assert directory.app is not None
    with owned_jobs(directory.app, MOMENT_S) as shards:
        if shards is None:
            return answered(directory, command, job, arguments, answer_s=answer_s).text
        with noted(directory.log, command, job.name, arguments) as say:
            done = in_foreground(directory.app, shards, lambda here: here.obey(command, job, arguments))
            say(done)
            return done.text


def job_named(app: App, name: str) -> Job:
    """The job *name* of *app*.

    Raises:
        NotFound: There is none; names those there are.
    """
    from framework.cli.directory import known

    return known("job", name, app.jobs, f"in app {app.name!r}")


# With a worker.


def answered(directory: Directory, command: str, job: Job, arguments: Mapping[str, Any], *, answer_s: float) -> Reply:
    """Have the worker do *command*; its answer.

    Raises:
        Error: It refuses, or does not answer.
    """
    from framework.jobs.control import send
    from framework.log.errors import Error

    reply = send(directory.log, command, job.name, arguments, answer_s=answer_s)
    if not reply.ok:
        error = Error(reply.text)
        error.exit_code = reply.exit
        raise error
    return reply


def sent(
    directory: Directory, command: str, job: Job, arguments: Mapping[str, Any], *, detach: bool, answer_s: float
) -> list[RunRow]:
    """Have the worker begin runs, and unless *detach* watch them to their end; the runs as they are then."""
    reply = answered(directory, command, job, arguments, answer_s=answer_s)
    try:
        click.echo(f"{reply.text}, by the worker", err=True)
        directory.view.expire()
        if detach:
            return stored_runs(directory, job.name, reply.runs)
        return watched(directory, job.name, reply.runs)
    except KeyboardInterrupt:
        click.echo(f"the worker goes on with it; `framework jobs cancel {job.name}` stops it", err=True)
        raise


def watched(directory: Directory, job: str, runs: Sequence[str]) -> list[RunRow]:
    """The rows of *runs* when they have ended, which a worker does.

    Raises:
        Error: It has ended before they have.
    """
    from framework.cli.live import LiveLine
    from framework.cli.progress import Watch, ended_text, is_worth_saying
    from framework.log.errors import Error
    from framework.log.locks import JOBS_LOCK

    line, told = LiveLine(sys.stderr), set[str]()
    found: list[RunRow] = []
    watch = Watch(line, lambda: found)
    try:
        while True:
            worker = directory.log.shared.holder(JOBS_LOCK)
            if worker is None:
                directory.view.expire()  # The last that it has done is to be seen.
            found = stored_runs(directory, job, runs)
            for row in found:
                if not row.unfinished and row.id not in told:
                    told.add(row.id)
                    if is_worth_saying(row, len(runs)):
                        line.print(ended_text(row))
            left = [row.id for row in found if row.unfinished]
            if not left:
                return found
            if worker is None:
                raise Error(f"the worker has ended before run {left[0]}, which the next one goes on with")
            watch.show()
            time.sleep(POLL_S)
    finally:
        line.remove()


def stored_runs(directory: Directory, job: str, runs: Sequence[str]) -> list[RunRow]:
    """Those of *runs* that are stored, in the order of their ids."""
    from framework.jobs.runs import RunRow
    from framework.state import rows

    prefix, wanted = rows.run_prefix(job), {run.encode() for run in runs}
    stored = directory.view.job_rows(prefix)
    return [RunRow.load(value) for key, value in stored if key[len(prefix) :] in wanted]
