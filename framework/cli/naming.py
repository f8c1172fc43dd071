"""`framework agents rename` and `forget`: what the state holds under a name gets another, or goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from framework.cli.options import directory_options, wait_option
from framework.cli.reshape import execute_option

if TYPE_CHECKING:
    from framework.cli.directory import Directory
    from framework.renaming import Renaming


@click.command()
@click.argument("old")
@click.argument("new")
@execute_option
@directory_options
@wait_option
def rename(old: str, new: str, execute: bool, app_name: str | None, data: str | None, wait_s: float) -> None:
    """Let the agent or job NEW go on where OLD stopped: with its offsets and its tables.

    No worker may run meanwhile. Interrupted, it can be done again, and until it is no worker starts.
    """
    from framework.cli.directory import reading
    from framework.declare import check_name

    with reading(app_name, data) as directory, _found(directory, old, wait_s) as found:
        check_name(found.kind, new)
        found.check_free(new)
        what = f"{found.kind} {old!r} to {new!r}: {found.traces}"
        if execute:
            found.rename(new)
        click.echo(f"renamed {what}" if execute else f"would rename {what}; do it with --execute", err=True)
        dead_letters = f"{found.known.app}.{old}.dead-letter"
        if dead_letters in directory.log.topics():
            click.echo(f"its dead letters so far stay in topic {dead_letters!r}", err=True)


@click.command()
@click.argument("name")
@click.option("--tables", is_flag=True, help="Remove the rows of its tables, too; else they stay for who writes next.")
@execute_option
@directory_options
@wait_option
def forget(name: str, tables: bool, execute: bool, app_name: str | None, data: str | None, wait_s: float) -> None:
    """Remove what the state knows of the agent or job NAME: its offsets, runs, and that its tables are its own.

    If it is declared again it begins anew. Records stay, also those it has sent. No worker may run meanwhile.
    Interrupted, it can be done again, and until it is no worker starts.
    """
    from framework.cli.directory import reading

    with reading(app_name, data) as directory, _found(directory, name, wait_s) as found:
        rows = " with their rows" if tables else ", whose rows stay"
        what = f"{found.kind} {name!r}: {found.traces}{rows if found.traces.tables else ''}"
        if execute:
            found.forget(drop_tables=tables)
        click.echo(f"forgot {what}" if execute else f"would forget {what}; do it with --execute", err=True)


@contextmanager
def _found(directory: Directory, name: str, wait_s: float) -> Iterator[Renaming]:
    """What the state of *directory* holds under *name*, with all shards owned."""
    from framework.renaming import Renaming
    from framework.state.shards import Shards

    shards = Shards(directory.log)
    try:
        shards.own_all(wait_s)
        yield Renaming(directory.log, shards, name)
    finally:
        shards.close()
