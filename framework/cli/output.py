"""Printing: rows as aligned columns for people, or as one JSON document a line for programs.

A command makes one dict a row; the JSON document is the whole of it, the table shows the columns that the
command names. Nothing is cut off: a column is as wide as its widest cell among the first `MEASURED_ROWS`.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any

MEASURED_ROWS = 1000
Row = Mapping[str, Any]


class Stored:
    """Bytes of a record or table row, shown as what they are: JSON, text, or neither."""

    __slots__ = ("_data", "_is_text")

    def __init__(self, data: bytes, *, is_text: bool) -> None:
        """*is_text* says that they are text even where they look like JSON."""
        self._data, self._is_text = data, is_text

    def json(self) -> Any:
        """For a JSON document: stored JSON as it is, text as text, other bytes as `{"base64": ...}`."""
        import orjson

        if not self._is_text:
            try:
                value = orjson.loads(self._data)
                return value if b"\n" in self._data else orjson.Fragment(self._data)
            except ValueError:
                pass
        try:
            return self._data.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(self._data).decode()}

    def __str__(self) -> str:
        return self._data.decode("utf-8", "backslashreplace")


def print_rows(rows: Iterable[Row], columns: Sequence[str], *, as_json: bool) -> int:
    """Print *rows*, as JSON or as a table of *columns*; returns how many there were.

    In a table an underscore of a column's name is a space, and None is a dash.
    """
    count = 0
    for line in _json_lines(rows) if as_json else _table_lines(rows, columns):
        sys.stdout.write(line + "\n")
        count += 1
    return count if as_json else max(0, count - 1)


def print_json(document: Row) -> None:
    """Print one JSON document."""
    print_rows([document], [], as_json=True)


def print_fields(fields: Row) -> None:
    """Print names and values, one pair a line."""
    width = max(map(len, fields))
    for name, value in fields.items():
        sys.stdout.write(f"{name.replace('_', ' '):{width}}  {cell(value)}\n")


def cell(value: object) -> str:
    """*value* in one line of printable text."""
    if value is None:
        return "-"
    text = "yes" if value is True else "no" if value is False else str(value)
    # Line ends would break the table, and escape sequences of a record must not reach the terminal.
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def iso(seconds: float) -> str:
    """Seconds since the epoch as UTC in ISO 8601, to the millisecond where there are any."""
    time = datetime.fromtimestamp(seconds, UTC)
    spec = "milliseconds" if time.microsecond >= 1000 else "seconds"
    return time.isoformat(timespec=spec).replace("+00:00", "Z")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _json_lines(rows: Iterable[Row]) -> Iterator[str]:
    import orjson

    for row in rows:
        yield orjson.dumps(row, default=_default).decode()


def _default(value: object) -> Any:
    assert isinstance(value, Stored), f"{value!r} cannot stand in a document"
    return value.json()


def _table_lines(rows: Iterable[Row], columns: Sequence[str]) -> Iterator[str]:
    cells = ([row[column] for column in columns] for row in rows)
    first = list(islice(cells, MEASURED_ROWS))
    if not first:
        return
    header = [column.replace("_", " ").upper() for column in columns]
    shown = [header, *([cell(value) for value in row] for row in first)]
    widths = [max(len(row[at]) for row in shown) for at in range(len(columns))]
    # Numbers stand on the right; a column without any number is words.
    right = [any(isinstance(row[at], int | float) for row in first) for at in range(len(columns))]
    for line in chain(shown, ([cell(value) for value in row] for row in cells)):
        aligned = (
            text.rjust(width) if at_right else text.ljust(width)
            for text, width, at_right in zip(line, widths, right, strict=True)
        )
        yield "  ".join(aligned).rstrip()
