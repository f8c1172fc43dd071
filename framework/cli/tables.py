"""`framework tables`: the committed rows of tables, and who writes them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, TypedDict

import click

from framework.cli.options import directory_options, json_option
from framework.cli.reshape import execute_option

if TYPE_CHECKING:
    from framework.cli.directory import Directory
    from framework.cli.output import Stored
    from framework.table import Table


class Known(TypedDict):
    """What the declaration of a table says, and the state does not; None without one."""

    ttl_ms: int | None
    partitions: int | None


@click.group()
def tables() -> None:
    """Look into the tables: the rows as of the last commit; let go of one."""


@tables.command()
@directory_options
@json_option
def ls(app_name: str | None, data: str | None, as_json: bool) -> None:
    """List the tables.

    JSON: {"table", "written_by", "type", "key_type"}. The agent or job is null until it has written a row,
    the types are null unless an app declares them.
    """
    from framework.cli.directory import reading
    from framework.cli.output import print_rows

    with reading(app_name, data) as directory:
        owners = _tables(directory)
        declared = directory.app.tables if directory.app else {}
        rows = []
        for name, owner in sorted(owners.items()):
            table = declared.get(name)
            types = (table.serde.name, table.key_serde.name) if table else (None, None)
            rows.append({"table": name, "written_by": owner, "type": types[0], "key_type": types[1]})
        if not print_rows(rows, ("table", "written_by", "type", "key_type"), as_json=as_json):
            click.echo(f"no tables in {directory.path}", err=True)


@tables.command()
@click.argument("name", metavar="TABLE")
@click.argument("key")
@directory_options
@json_option
def get(name: str, key: str, app_name: str | None, data: str | None, as_json: bool) -> None:
    """Print the row of KEY in TABLE; exits with 4 if there is none.

    KEY is text, or JSON if the app declares the table with another key_type. JSON: {"key", "value"}.
    """
    from framework.cli.directory import reading
    from framework.cli.output import cell, print_json
    from framework.log.errors import NotFound

    with reading(app_name, data) as directory:
        rows = Rows(directory, name)
        value = directory.view.table_row(name, rows.key_bytes(key), **rows.known)
        if value is None:
            raise NotFound(f"table {name!r} has no row {key!r}")
        if as_json:
            print_json(rows.document(rows.key_bytes(key), value))
        else:
            click.echo(cell(rows.value(value)))


@tables.command()
@click.argument("name", metavar="TABLE")
@click.option("--prefix", default="", metavar="TEXT", help="Only rows whose key, as it is stored, begins so.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="At most so many rows.")
@directory_options
@json_option
def scan(name: str, prefix: str, limit: int | None, app_name: str | None, data: str | None, as_json: bool) -> None:
    """Print the rows of TABLE, partition by partition, each in the order of its keys.

    JSON: {"key", "value"}. A value that is JSON stands there as it is stored, other text as text, other
    bytes as {"base64": "..."}.
    """
    from framework.cli.directory import reading
    from framework.cli.output import print_rows

    with reading(app_name, data) as directory:
        rows = Rows(directory, name)
        documents = (rows.document(*row) for row in directory.view.table_rows(name, prefix.encode(), **rows.known))
        if not print_rows(islice(documents, limit), ("key", "value"), as_json=as_json):
            click.echo(f"no {'such ' if prefix else ''}rows in table {name!r}", err=True)


@tables.command()
@click.argument("name", metavar="TABLE")
@execute_option
@directory_options
def release(name: str, execute: bool, app_name: str | None, data: str | None) -> None:
    """Forget which agent writes TABLE: the next one that does owns it.

    After the code of its agent was renamed or removed. The rows stay; whoever writes the table next must read a topic
    with as many partitions. Not while a worker runs.
    """
    from framework.cli.directory import known, reading
    from framework.log.errors import NotFound

    with reading(app_name, data) as directory:
        owner = known("table", name, _tables(directory), f"in {directory.path}")
        if owner is None:
            raise NotFound(f"table {name!r} has no owner: the next agent that writes it will be")
        table = directory.app.tables.get(name) if directory.app else None
        partitions = table.partitions if table is not None else None
        if partitions is None:
            partitions = directory.view.partitions_of(name)
        if execute:
            from framework.state.release import release_table

            release_table(directory.log, name, owner, partitions)
        what = f"table {name!r}, written by {owner!r}"
        click.echo(f"released {what}" if execute else f"would release {what}; do it with --execute", err=True)


class Rows:
    """The keys and values of one table, as its declaration says they are stored."""

    def __init__(self, directory: Directory, name: str) -> None:
        """Without a declaration keys are text, and values are JSON if they can be.

        Raises:
            NotFound: No agent has written such a table, and no app declares it.
        """
        from framework.cli.directory import known

        known("table", name, _tables(directory), f"in {directory.path}")
        self._name = name
        self._table: Table[Any, Any] | None = directory.app.tables.get(name) if directory.app else None
        self.known = Known(ttl_ms=None, partitions=None)
        if self._table is not None:
            self.known = Known(ttl_ms=self._table.ttl_ms, partitions=self._table.partitions)

    def key_bytes(self, text: str) -> bytes:
        """The key that *text* stands for.

        Raises:
            UsageError: It is no key of the table.
        """
        from framework.errors import DecodeError
        from framework.log.errors import UsageError

        if self._table is None:
            return text.encode()
        try:
            return self._table.key_serde.encode(self._table.key_serde.decode(text.encode()))
        except DecodeError as error:
            raise UsageError(f"key {text!r} of table {self._name!r}: {error}") from error

    def document(self, key: bytes, value: bytes) -> dict[str, Stored]:
        """One row."""
        from framework.cli.output import Stored

        is_text = self._table is None or self._table.key_serde.name in ("str", "bytes")
        return {"key": Stored(key, is_text=is_text), "value": self.value(value)}

    def value(self, value: bytes) -> Stored:
        """One value."""
        from framework.cli.output import Stored

        return Stored(value, is_text=self._table is not None and self._table.serde.name == "str")


def _tables(directory: Directory) -> dict[str, str | None]:
    """Every table that was written or is declared, with who writes it."""
    declared: Iterator[str] = iter(directory.app.tables if directory.app else ())
    return {**dict.fromkeys(declared), **directory.view.owners()}
