"""`framework worker`: runs an app's agents and jobs until it is told to stop."""

from __future__ import annotations

import sys

import click

from framework.cli.options import directory_options, wait_option


@click.command()
@directory_options
@wait_option
@click.option(
    "--accept-schema",
    "accept_schema",
    multiple=True,
    metavar="NAME|all",
    help="Start although the topic or table NAME, or any, may hold what its type cannot be read from any more. "
    "Else FRAMEWORK_ACCEPT_SCHEMA, with spaces between names.",
)
@click.option("--until-idle", is_flag=True, help="Stop when everything in the log has been handled.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    envvar="FRAMEWORK_LOG_LEVEL",
    show_default=True,
    help="Of the logs on standard error.",
)
def worker(
    app_name: str | None,
    data: str | None,
    wait_s: float,
    accept_schema: tuple[str, ...],
    until_idle: bool,
    log_level: str,
) -> None:
    """Run the agents and jobs of an app.

    SIGTERM or Ctrl-C ends it: what is in hand is finished and committed, and the exit code is 0. A second one
    ends it at once, with 130; the next worker does again what was not committed.
    """
    import asyncio

    from framework.cli.directory import app_for_running, exists
    from framework.cli.live import LiveLine, log_above, signals_interrupt
    from framework.cli.session import Session

    app = app_for_running(app_name, data)
    line = LiveLine(sys.stderr)
    log_above(line, log_level)
    session = Session(app, line, made=not exists(app.data))
    running = session.run(wait_s=wait_s, until_idle=until_idle, accept_schema=accept_schema)
    try:
        with signals_interrupt():
            asyncio.run(running)
    except KeyboardInterrupt:
        line.print("stopped before it had started")
    finally:
        running.close()  # A signal may have come before it was begun.
        line.remove()
