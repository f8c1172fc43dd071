"""`framework dlq`: the records that agents and jobs have given up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from framework.cli.options import directory_options, json_option

if TYPE_CHECKING:
    from framework.cli.directory import Directory
    from framework.log import Partition, StoredRecord, TopicInfo

execute_option = click.option("--execute", is_flag=True, help="Do it; without, only say what would be done.")


@click.group()
def dlq() -> None:
    """Look at dead letters, and send them back."""


@dlq.command()
@click.argument("name", required=False)
@directory_options
@json_option
def ls(name: str | None, app_name: str | None, data: str | None, as_json: bool) -> None:
    """List the agents and jobs that have dead letters, or those of the agent or job NAME.

    JSON: {"agent", "letters", "oldest", "newest", "error"}, error being that of the newest; with NAME
    {"place", "time", "source", "retries", "error"}: place is what show and retry take, source where the record
    was, retries how often it has been sent back.
    """
    from framework.cli.directory import reading
    from framework.cli.output import iso, print_rows

    with reading(app_name, data) as directory:
        if name is None:
            rows = []
            for info in _topics(directory):
                letters = list(_letters(directory, info))
                if letters:
                    times = [letter.record.timestamp / 1000 for letter in letters]
                    known = {"agent": _owner(info), "letters": len(letters), "error": letters[-1].error}
                    rows.append({**known, "oldest": iso(min(times)), "newest": iso(max(times))})
            count = print_rows(rows, ("agent", "letters", "oldest", "newest", "error"), as_json=as_json)
        else:
            listed = (letter.row() for letter in _letters(directory, _topic(directory, name)))
            count = print_rows(listed, ("place", "time", "source", "retries", "error"), as_json=as_json)
        if not count:
            click.echo(f"no dead letters in {directory.path}", err=True)


@dlq.command()
@click.argument("name")
@click.argument("place", required=False)
@directory_options
@json_option
def show(name: str, place: str | None, app_name: str | None, data: str | None, as_json: bool) -> None:
    """Print the dead letter of NAME at PLACE, as ls names it, or the last one: the record, the error and its traceback.

    JSON: {"place", "time", "source", "retries", "error", "key", "value", "headers", "traceback"}.
    """
    from framework.cli.directory import reading
    from framework.cli.output import Stored, print_fields, print_json
    from framework.log.errors import NotFound

    with reading(app_name, data) as directory:
        letters = _chosen(_letters(directory, _topic(directory, name)), [place] if place else [])
        if not letters:
            raise NotFound(f"{name!r} has no dead letters")
        letter = letters[-1]
        key, value = letter.record.key, letter.record.value
        document = letter.row() | {
            "key": None if key is None else Stored(key, is_text=True),
            "value": None if value is None else Stored(value, is_text=False),
            "headers": {called: Stored(content or b"", is_text=True) for called, content in letter.original_headers},
        }
        trace = letter.text("traceback")
        if as_json:
            print_json(document | {"traceback": trace})
            return
        headers = ", ".join(f"{called}={content}" for called, content in document["headers"].items())
        print_fields(document | {"headers": headers or None})
        click.echo(f"\n{trace}", nl=not trace.endswith("\n"))


@dlq.command()
@click.argument("name")
@click.argument("places", nargs=-1, metavar="[PLACE]...")
@execute_option
@directory_options
def retry(name: str, places: tuple[str, ...], execute: bool, app_name: str | None, data: str | None) -> None:
    """Send dead letters of NAME back to the topic and partition they came from: those at PLACE, or all.

    Each is the record as it was, with its key, time and headers, and dead-letter.retries counts how often that was
    done. Every agent and job of that topic gets it. When all are sent back they are removed from the dead letters;
    single ones stay until purge. Killed in between, some may be sent back once more.
    """
    from framework.cli.directory import known, reading
    from framework.log import NewRecord

    with reading(app_name, data) as directory:
        info = _topic(directory, name)
        letters = _chosen(_letters(directory, info), places)
        targets = {letter.text("topic"): directory.log.topics() for letter in letters}
        infos = {topic: known("topic", topic, there, f"in {directory.path}") for topic, there in targets.items()}
        what = f"{len(letters)} dead letter{'s' * (len(letters) != 1)} of {name!r} to {', '.join(infos) or 'no topic'}"
        if not execute:
            click.echo(f"would send {what}; do it with --execute", err=True)
            return
        with directory.log.producer() as producer:
            for letter in letters:
                record = letter.record
                headers = [*letter.original_headers, ("dead-letter.retries", b"%d" % (letter.retries + 1))]
                again = NewRecord(record.key, record.value, record.timestamp, headers)
                producer.send_to(infos[letter.text("topic")], int(letter.text("partition")), again)
        if not places:
            for part in _parts(directory, info):
                sent = [letter.record.offset for letter in letters if letter.partition == part.number]
                if sent:
                    part.delete_records(max(sent) + 1)
        click.echo(f"sent {what}", err=True)


@dlq.command()
@click.argument("name")
@execute_option
@directory_options
def purge(name: str, execute: bool, app_name: str | None, data: str | None) -> None:
    """Remove the dead letters of NAME that are there now."""
    from framework.cli.directory import reading

    with reading(app_name, data) as directory:
        info = _topic(directory, name)
        count = sum(1 for _ in _letters(directory, info))
        what = f"{count} dead letter{'s' * (count != 1)} of {name!r}"
        if execute:
            for part in _parts(directory, info):
                part.delete_records(part.high_watermark)
        click.echo(f"removed {what}" if execute else f"would remove {what}; do it with --execute", err=True)


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter."""

    partition: int
    record: StoredRecord

    def text(self, name: str) -> str:
        """What the header `dead-letter.<name>` says; empty if there is none."""
        found = [value for header, value in self.record.headers if header == f"dead-letter.{name}" and value]
        return found[-1].decode("utf-8", "replace") if found else ""

    @property
    def place(self) -> str:
        """How the command line names it."""
        return f"{self.partition}@{self.record.offset}"

    @property
    def retries(self) -> int:
        """How often it has been sent back already."""
        text = self.text("retries")
        return int(text) if text.isdecimal() else 0

    @property
    def error(self) -> str:
        """Type and text of what its agent raised."""
        return self.text("error")

    @property
    def original_headers(self) -> list[tuple[str, bytes | None]]:
        """The headers that the record had."""
        return [(name, value) for name, value in self.record.headers if not name.startswith("dead-letter.")]

    def row(self) -> dict[str, Any]:
        """What `ls` prints of it."""
        from framework.cli.output import iso

        source = f"{self.text('topic')}-{self.text('partition')}@{self.text('offset')}"
        time = iso(self.record.timestamp / 1000)
        return {"place": self.place, "time": time, "source": source, "retries": self.retries, "error": self.error}


def _topics(directory: Directory) -> list[TopicInfo]:
    from framework.replay import DEAD_LETTERS

    return [info for name, info in sorted(directory.log.topics().items()) if name.endswith(DEAD_LETTERS)]


def _owner(info: TopicInfo) -> str:
    """`<app>.<agent>`."""
    from framework.replay import DEAD_LETTERS

    return info.name.removesuffix(DEAD_LETTERS)


def _topic(directory: Directory, name: str) -> TopicInfo:
    """The dead-letter topic of the agent or job *name*, which may have its app's name in front."""
    from framework.cli.directory import known
    from framework.log.errors import UsageError

    owners = {_owner(info): info for info in _topics(directory)}
    found = [owner for owner in owners if owner == name or owner.endswith(f".{name}")]
    if directory.app is not None and f"{directory.app.name}.{name}" in found:
        found = [f"{directory.app.name}.{name}"]
    if len(found) > 1:
        raise UsageError(f"{name!r} may be {' or '.join(found)}: say which")
    return known("dead-letter topic of", found[0] if found else name, owners, f"in {directory.path}")


def _parts(directory: Directory, info: TopicInfo) -> list[Partition]:
    return [directory.log.partition(info, number) for number in range(info.partitions)]


def _letters(directory: Directory, info: TopicInfo) -> Iterator[Letter]:
    """All of them, partition by partition."""
    from framework.log import Cursor, Range

    ranges = [Range(part, part.log_start, part.high_watermark) for part in _parts(directory, info)]
    for partition, record in Cursor(directory.log.reader, ranges):
        yield Letter(partition.number, record)


def _chosen(letters: Iterator[Letter], places: tuple[str, ...] | list[str]) -> list[Letter]:
    """Those at *places*, or all.

    Raises:
        NotFound: There is none at one of them.
    """
    from framework.cli.directory import known

    found = {letter.place: letter for letter in letters}
    if not places:
        return list(found.values())
    return [known("dead letter", place, found, "among them") for place in places]
