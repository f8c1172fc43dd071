"""`framework topics`: which there are, and making one; the other verbs are in `reshape`, `send` and `tail`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from framework.cli.options import directory_options, json_option, settings_options
from framework.cli.reshape import alter, compact, delete, delete_records, purge
from framework.cli.send import send
from framework.cli.settings import duration, settings_from
from framework.cli.tail import tail

if TYPE_CHECKING:
    from framework.app import App
    from framework.cli.directory import Directory
    from framework.log import TopicInfo, TopicSettings

COLUMNS = ("topic", "partitions", "records", "bytes", "retention")


@click.group()
def topics() -> None:
    """List topics, make, change or delete one, send to one, read one."""


for command in (alter, compact, delete, delete_records, purge, send, tail):
    topics.add_command(command)


@topics.command()
@click.argument("name", required=False)
@click.option("--all", "internal", is_flag=True, help="Also internal topics, whose names begin with __.")
@directory_options
@json_option
def ls(name: str | None, internal: bool, app_name: str | None, data: str | None, as_json: bool) -> None:
    """List the topics, or the topic NAME.

    JSON: {"topic", "partitions", "records", "bytes", "retention"}. Records are counted by their offsets; the
    retention is a text like "7d", or "forever".
    """
    from framework.cli.directory import reading, visible
    from framework.cli.output import print_rows

    with reading(app_name, data) as directory:
        rows = []
        there = visible(directory.log.topics(), internal=internal)
        for called, info in sorted(there.items()) if name is None else [(name, directory.topic(name))]:
            parts = list(_partition_rows(directory, info))
            totals = {field: sum(part[field] for part in parts) for field in ("records", "bytes")}
            retention = duration(info.settings.retention_ms)
            rows.append({"topic": called, "partitions": info.partitions, **totals, "retention": retention})
        if not print_rows(rows, COLUMNS, as_json=as_json):
            click.echo(f"no topics in {directory.path}", err=True)


@topics.command()
@click.argument("name")
@directory_options
@json_option
def show(name: str, app_name: str | None, data: str | None, as_json: bool) -> None:
    """Show the settings and partitions of the topic NAME.

    JSON: {"topic", "id", "type", "key_type", "config", "partitions": [{"partition", "start", "end",
    "records", "bytes", "segments"}]}. The types are null unless an app declares them.
    """
    from framework.cli.directory import reading
    from framework.cli.output import print_fields, print_json, print_rows

    with reading(app_name, data) as directory:
        info = directory.topic(name)
        declared = directory.app.topics.get(name) if directory.app else None
        parts = list(_partition_rows(directory, info))
        fields = {
            "topic": info.name,
            "id": info.id,
            "type": declared.value_serde.name if declared else None,
            "key_type": declared.key_serde.name if declared else None,
        }
        config = info.settings.as_config()
        if as_json:
            print_json({**fields, "config": config, "partitions": parts})
            return
        print_fields({**fields, **config})
        sys.stdout.write("\n")
        print_rows(parts, list(parts[0]), as_json=False)


@topics.command()
@click.argument("name")
@click.option("--partitions", type=int, metavar="N", help="How many.  [default: as the app declares it, else 1]")
@settings_options
@directory_options
def create(
    name: str,
    partitions: int | None,
    retention: str | None,
    settings: tuple[str, ...],
    app_name: str | None,
    data: str | None,
) -> None:
    """Make the topic NAME, and the data directory if there is none."""
    from framework.cli.directory import app_for_reading, opened
    from framework.log.settings import check_not_internal, check_topic_name

    app = app_for_reading(app_name, data)
    check_not_internal(check_topic_name(name))
    count = _partitions(app, name, partitions)
    wanted = _settings(app, name, retention, settings)
    with opened(app, create=True) as directory:
        directory.log.create_topic(name, count, wanted)
        click.echo(f"made topic {name!r} with {count} partition{'s' * (count > 1)} in {directory.path}", err=True)


def _partition_rows(directory: Directory, info: TopicInfo) -> Iterator[dict[str, Any]]:
    for number in range(info.partitions):
        partition = directory.log.partition(info, number)
        start, end = partition.log_start, partition.high_watermark
        sizes = [path.stat().st_size for path in partition.directory.glob("*.log")]
        yield {
            "partition": number,
            "start": start,
            "end": end,
            "records": end - start,
            "bytes": sum(sizes),
            "segments": len(sizes),
        }


def _partitions(app: App | None, name: str, asked: int | None) -> int:
    """How many partitions to make: what was asked for, but not another number than the app will insist on."""
    from framework.log.errors import UsageError
    from framework.log.settings import check_partitions

    declared = app.topics[name].partitions if app is not None and name in app.topics else None
    if asked is not None and declared not in (None, asked):
        raise UsageError(f"the app declares topic {name!r} with {declared} partitions, not {asked}")
    return check_partitions(asked if asked is not None else declared or 1)


def _settings(app: App | None, name: str, retention: str | None, settings: tuple[str, ...]) -> TopicSettings:
    from framework.log.settings import TopicSettings

    config = app.topics[name].settings().as_config() if app is not None and name in app.topics else {}
    return TopicSettings.from_config(settings_from(config, retention, settings))
