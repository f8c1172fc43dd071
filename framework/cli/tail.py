"""`framework topics tail`: the records of a topic, the last ones or from a place on."""

from __future__ import annotations

import heapq
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from framework.cli.options import directory_options, json_option

if TYPE_CHECKING:
    from framework.cli.directory import Directory
    from framework.cli.output import Stored
    from framework.log import At, Log, Partition, StoredRecord

LAST = 10
POLL_S = 1.0


class Place(NamedTuple):
    """A record and the partition it was read from."""

    partition: int
    record: StoredRecord


@click.command()
@click.argument("name")
@click.option(
    "-n",
    "count",
    type=click.IntRange(min=0),
    metavar="N",
    help=f"The last N records; with --from the first N from there on.  [default: {LAST}; with --from: all]",
)
@click.option(
    "--from",
    "start",
    metavar="PLACE",
    help="beginning, end, an offset (of each partition), or a time in ISO 8601.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on with records as they come.")
@click.option("--partition", type=int, metavar="N", help="Only this one.")
@directory_options
@json_option
def tail(
    name: str,
    count: int | None,
    start: str | None,
    follow: bool,
    partition: int | None,
    app_name: str | None,
    data: str | None,
    as_json: bool,
) -> None:
    """Print the last records of the topic NAME, in order of time.

    JSON: {"topic", "partition", "offset", "timestamp", "key", "value", "headers"}. A value that is JSON
    stands there as it is stored, other text as text, other bytes as {"base64": "..."}; a tombstone is null.
    """
    from framework.cli.directory import reading

    at = _parse_place(start)
    with reading(app_name, data) as directory:
        info = directory.topic(name)
        numbers = range(info.partitions) if partition is None else [partition]
        partitions = [directory.log.partition(info, number) for number in numbers]
        printer = Printer(directory, name, as_json)
        ends = [part.high_watermark for part in partitions]
        if at is None:
            wanted = LAST if count is None else count
            parts = [
                _records(directory.log, part, directory.log.offset_of(part, -wanted) if wanted else end, end)
                for part, end in zip(partitions, ends, strict=True)
            ]
            places: Iterable[Place] = deque(_merged(parts), maxlen=wanted)
        else:
            starts = [_start(directory.log, part, at) for part in partitions]
            places = _merged(
                _records(directory.log, part, first, end)
                for part, first, end in zip(partitions, starts, ends, strict=True)
            )
            ends = [max(first, end) for first, end in zip(starts, ends, strict=True)]
        if follow:
            places = _and_then(places, _followed(directory.log, partitions, ends))
        for place in islice(places, None if at is None else count):
            printer.print(place)


class Printer:
    """Prints records, by the types that the app declares for their topic if it does."""

    def __init__(self, directory: Directory, topic: str, as_json: bool) -> None:
        """Without a declared type, keys are text, and values are JSON if they can be."""
        declared = directory.app.topics.get(topic) if directory.app else None
        self._topic, self._as_json = topic, as_json
        self._key_is_text = declared is None or declared.key_serde.name in ("str", "bytes")
        self._value_is_text = declared is not None and declared.value_serde.name == "str"

    def print(self, place: Place) -> None:
        """Print one record."""
        from framework.cli.output import cell, iso, print_json

        record = place.record
        key, value = _stored(record.key, self._key_is_text), _stored(record.value, self._value_is_text)
        time = iso(record.timestamp / 1000)
        if self._as_json:
            headers = {name: _stored(content, True) for name, content in record.headers}
            at = {
                "topic": self._topic,
                "partition": place.partition,
                "offset": record.offset,
                "timestamp": time,
            }
            print_json({**at, "key": key, "value": value, "headers": headers})
            return
        headers_text = "".join(f"  {cell(name)}={cell(_stored(content, True))}" for name, content in record.headers)
        sys.stdout.write(f"{place.partition}@{record.offset}  {time}  {cell(key)}  {cell(value)}{headers_text}\n")


def _stored(data: bytes | None, is_text: bool) -> Stored | None:
    from framework.cli.output import Stored

    return None if data is None else Stored(bytes(data), is_text=is_text)


# Where to begin.


def _parse_place(text: str | None) -> Any:
    """A place as `Topic.read` takes one; None if none was given."""
    from framework.log.errors import UsageError

    if text is None or text in ("beginning", "end"):
        return text
    if text.isdecimal():
        return int(text)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"--from {text!r} is not beginning, end, an offset or a time like 2026-01-31T12:00:00Z"
        ) from None


# Reading.


def _start(log: Log, partition: Partition, at: At) -> int:
    """Where *at* is; an offset that the partition does not have yet stays what it is."""
    return max(at, partition.log_start) if isinstance(at, int) else log.offset_of(partition, at)


def _records(log: Log, partition: Partition, start: int, end: int) -> Iterator[Place]:
    """The records of [start, end)."""
    from framework.log import Cursor, Range

    for _, record in Cursor(log.reader, [Range(partition, start, end)]):
        yield Place(partition.number, record)


def _merged(parts: Iterable[Iterator[Place]]) -> Iterator[Place]:
    """The records of all *parts* by time, those of one partition in their order."""
    return heapq.merge(*parts, key=lambda place: (place.record.timestamp, place.partition))


def _and_then(first: Iterable[Place], rest: Iterator[Place]) -> Iterator[Place]:
    yield from first
    sys.stdout.flush()
    yield from rest


def _followed(log: Log, partitions: list[Partition], offsets: list[int]) -> Iterator[Place]:
    """Every record from *offsets* on, as soon as it can be read; never ends."""
    doorbell = log.doorbell()
    try:
        while True:
            ends = [max(offset, part.high_watermark) for offset, part in zip(offsets, partitions, strict=True)]
            if ends == offsets:
                doorbell.wait(POLL_S)
                continue
            yield from _merged(
                _records(log, part, first, end) for part, first, end in zip(partitions, offsets, ends, strict=True)
            )
            sys.stdout.flush()
            offsets = ends
    finally:
        doorbell.close()
