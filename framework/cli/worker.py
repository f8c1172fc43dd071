"""`framework worker`: runs an app's agents and jobs until it is told to stop."""

from __future__ import annotations

import sys

import click

from framework.cli.options import directory_options, listen_option, log_level_option, wait_option


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
@listen_option(default=None)
@log_level_option
def worker(
    app_name: str | None,
    data: str | None,
    wait_s: float,
    accept_schema: tuple[str, ...],
    until_idle: bool,
    listen: str | None,
    log_level: str,
) -> None:
    """Run the agents and jobs of an app.

    SIGTERM or Ctrl-C ends it: what is in hand is finished and committed, and the exit code is 0. A second one
    ends it at once, with 130; the next worker does again what was not committed.

    With --listen it is a broker, too: Kafka's clients write to and read from the topics that the agents have.
    """
    import asyncio

    from framework.cli.broker import within_files
    from framework.cli.directory import app_for_running, exists
    from framework.cli.live import LiveLine, log_above, signals_interrupt
    from framework.cli.session import Session

    app = app_for_running(app_name, data)
    line = LiveLine(sys.stderr)
    log_above(line, log_level)
    settings = None
    if listen is not None:
        from framework.log.broker.settings import BrokerSettings, parse_listen

        host, port = parse_listen(listen)
        settings = within_files(BrokerSettings(host=host, port=port))
    session = Session(app, line, made=not exists(app.data), broker=settings)
    running = session.run(wait_s=wait_s, until_idle=until_idle, accept_schema=accept_schema)
    try:
        with signals_interrupt():
            asyncio.run(running)
    except KeyboardInterrupt:
        line.print("stopped before it had started")
    finally:
        running.close()  # A signal may have come before it was begun.
        line.remove()
