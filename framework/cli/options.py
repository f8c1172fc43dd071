"""The options that commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

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
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, one document a line, instead of a table."
)
wait_option = click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="How long to wait for another worker on this data directory to end.  [default: not at all]",
)


def directory_options(command: F) -> F:
    """-A and --data."""
    return app_option(data_option(command))


def terminal(stream: Any) -> bool:
    """Whether *stream* is a terminal on which a line can be refreshed in place."""
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"
