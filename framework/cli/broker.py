"""`framework broker`: serves a data directory to Kafka's clients until it is told to stop."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from framework.cli.options import directory_options, listen_option, log_level_option

if TYPE_CHECKING:
    from framework.cli.live import LiveLine
    from framework.log import Log
    from framework.log.broker.settings import BrokerSettings

INTERRUPTED = 130


@click.command()
@directory_options
@listen_option(default="127.0.0.1:9092")
@click.option(
    "--partitions", type=click.IntRange(min=1), default=1, show_default=True, help="Of topics made on demand."
)
@click.option("--no-auto-create", is_flag=True, help="Do not make topics on demand.")
@log_level_option
def broker(
    app_name: str | None, data: str | None, listen: str, partitions: int, no_auto_create: bool, log_level: str
) -> None:
    """Serve the topics of a data directory to Kafka's clients.

    Makes the directory if there is none. Workers and programs may have it open meanwhile; all see the same records.
    Only programs of this machine can connect. SIGTERM or Ctrl-C ends it: what is in hand is appended and answered,
    and the exit code is 0. A second one ends it at once, with 130.
    """
    import asyncio

    from framework.cli.directory import app_for_reading, opened
    from framework.cli.live import LiveLine, log_above, signals_interrupt
    from framework.log.broker.settings import BrokerSettings, parse_listen

    host, port = parse_listen(listen)
    settings = within_files(
        BrokerSettings(host=host, port=port, num_partitions=partitions, auto_create_topics_enable=not no_auto_create)
    )
    app = app_for_reading(app_name, data)
    line = LiveLine(sys.stderr)
    log_above(line, log_level)
    try:
        with signals_interrupt(), opened(app, create=True) as directory:
            asyncio.run(_serve(directory.log, settings, line))
    except KeyboardInterrupt:
        line.print("stopped before it had started")


async def _serve(log: Log, settings: BrokerSettings, line: LiveLine) -> None:
    """Serve *log* until a signal comes."""
    import asyncio
    import os
    import signal

    from framework.broker import serving
    from framework.cli.version import version

    loop, stopped = asyncio.get_running_loop(), asyncio.Event()

    def stop(name: str) -> None:
        if stopped.is_set():
            line.print(f"{name}: stopped at once")
            os._exit(INTERRUPTED)
        line.print(f"{name}: finishing what is in hand; once more to stop at once")
        stopped.set()

    async with serving(log, settings) as running:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, signal.Signals(number).name)
        host, port = running.address
        line.print(f"framework {version()}, broker, process {os.getpid()}")
        line.print(f"data   {log.path}")
        line.print(f"listen {host}:{port}")
        line.print("serving; SIGTERM or Ctrl-C stops it")
        await stopped.wait()
    line.print("stopped: everything that was acknowledged is in the log")


def within_files(settings: BrokerSettings) -> BrokerSettings:
    """Let the process have as many descriptors as the system lets it; *settings* that do with those.

    A client takes one. If they could take all of them, those that only connect would keep the log from its own files.
    """
    import resource
    from dataclasses import replace

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(MOST_FILES, hard) if hard != resource.RLIM_INFINITY else MOST_FILES
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    files = max(soft, wanted)
    return replace(
        settings,
        max_connections=min(settings.max_connections, max(files // CLIENTS_SHARE, 1)),
        max_open_readers=min(settings.max_open_readers, max(files // READERS_SHARE, 1)),
    )


MOST_FILES = 16384
CLIENTS_SHARE, READERS_SHARE = 2, 8
"""Clients have at most half of the descriptors, and what is kept open for them to read an eighth."""
