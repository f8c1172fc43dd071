"""The options that commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

UNSAFE_VARIABLE = "FRAMEWORK_UNSAFE_FILESYSTEM"  # As framework.log.opening has it, which is not imported for --help.
F = TypeVar("F", bound=Callable[..., Any])

app_option = click.option(
    "-A",
    "--app",
    "app_name",
    metavar="MODULE[:APP]",
    help="The app: module:app, or path/to/file.py. Else FRAMEWORK_APP, [tool.framework] app in "
    "pyproject.toml, or the only App in app.py or main.py.",
)
data_option = click.option(
    "--data",
    metavar="DIRECTORY",
    help="The data directory. Else FRAMEWORK_DATA, what the app says, or ./data.",
)
unsafe_option = click.option(
    "--unsafe-filesystem",
    is_flag=True,
    expose_value=False,
    callback=lambda _context, _option, value: os.environ.update({UNSAFE_VARIABLE: "1"}) if value else None,
    help="Open a data directory on a network or FUSE file system. Only safe while no other process does.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, one document a line, instead of a table."
)
retention_option = click.option(
    "--retention", metavar="TIME", help="How long records are kept: 90s, 30m, 12h, 7d, 2w, forever."
)
config_option = click.option(
    "--config", "settings", multiple=True, metavar="NAME=VALUE", help="A setting by Kafka's name."
)
wait_option = click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="How long to wait for another worker on this data directory to end.  [default: not at all]",
)
log_level_option = click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    envvar="FRAMEWORK_LOG_LEVEL",
    show_default=True,
    help="Of the logs on standard error.",
)


def listen_option(*, default: str | None) -> Callable[[F], F]:
    """--listen; without a *default* nobody listens unless it is given."""
    return click.option(
        "--listen",
        metavar="HOST:PORT",
        default=default,
        show_default=True,
        help="Where Kafka's clients connect: an address that other machines cannot reach. Port 0 is any that is free.",
    )


def directory_options(command: F) -> F:
    """-A, --data and --unsafe-filesystem."""
    return app_option(data_option(unsafe_option(command)))


def settings_options(command: F) -> F:
    """--retention and --config, which `cli.settings` understands."""
    return retention_option(config_option(command))


def terminal(stream: Any) -> bool:
    """Whether *stream* is a terminal on which a line can be refreshed in place."""
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"
