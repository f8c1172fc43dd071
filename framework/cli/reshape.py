"""`framework topics alter`, `delete`, `delete-records`, `purge` and `compact`: what changes or removes what is there.

Whatever destroys records says first what it would do, and does it with --execute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from framework.cli.options import directory_options, settings_options

if TYPE_CHECKING:
    from framework.cli.directory import Directory
    from framework.log import Partition, TopicInfo

execute_option = click.option("--execute", is_flag=True, help="Do it; without, only say what would be done.")


@click.command()
@click.argument("name")
@click.option("--partitions", type=int, metavar="N", help="How many from now on; never fewer than there are.")
@settings_options
@directory_options
def alter(
    name: str,
    partitions: int | None,
    retention: str | None,
    settings: tuple[str, ...],
    app_name: str | None,
    data: str | None,
) -> None:
    """Give the topic NAME other settings or more partitions; in force everywhere with the next append."""
    from framework.cli.directory import reading
    from framework.cli.settings import settings_from
    from framework.log import TopicSettings

    with reading(app_name, data) as directory:
        info = directory.topic(name)

        def wanted(now: TopicSettings) -> TopicSettings:
            return TopicSettings.from_config(settings_from(now.as_config(), retention, settings))

        if partitions is not None and partitions > info.partitions:
            _check_no_tables(directory, info)
        altered = directory.log.alter_topic(name, wanted, partitions)
        before, after = info.settings.as_config(), altered.settings.as_config()
        changes = [f"{key} {before[key]} -> {after[key]}" for key in after if after[key] != before[key]]
        if altered.partitions != info.partitions:
            changes.append(f"partitions {info.partitions} -> {altered.partitions}")
        click.echo(f"topic {name!r}: {', '.join(changes) or 'nothing to change'}", err=True)


@click.command()
@click.argument("name")
@execute_option
@directory_options
def delete(name: str, execute: bool, app_name: str | None, data: str | None) -> None:
    """Delete the topic NAME and all its records."""
    from framework.cli.directory import reading

    with reading(app_name, data) as directory:
        info = directory.topic(name)
        records = sum(part.high_watermark - part.log_start for part in _parts(directory, info))
        what = f"topic {name!r} with {records:,} record{'s' * (records != 1)}"
        if execute:
            directory.log.delete_topic(name)
        click.echo(f"deleted {what}" if execute else f"would delete {what}; do it with --execute", err=True)


@click.command("delete-records")
@click.argument("name")
@click.option("--before", type=click.IntRange(min=0), required=True, metavar="OFFSET", help="The new log start.")
@click.option("--partition", type=int, metavar="N", help="Of one partition only.  [default: of each]")
@execute_option
@directory_options
def delete_records(
    name: str, before: int, partition: int | None, execute: bool, app_name: str | None, data: str | None
) -> None:
    """Let the topic NAME begin at an offset: what is before it cannot be read any more.

    Files are removed a whole segment at a time, so some of it may stay on the disk until later.
    """
    from framework.cli.directory import reading

    with reading(app_name, data) as directory:
        info = directory.topic(name)
        parts = _parts(directory, info) if partition is None else [directory.log.partition(info, partition)]
        for part in parts:
            _start_at(part, min(before, part.high_watermark) if partition is None else before, execute=execute)


@click.command()
@click.argument("name")
@execute_option
@directory_options
def purge(name: str, execute: bool, app_name: str | None, data: str | None) -> None:
    """Remove all records of the topic NAME that are there now; the topic stays, and its offsets go on."""
    from framework.cli.directory import reading

    with reading(app_name, data) as directory:
        for part in _parts(directory, directory.topic(name)):
            _start_at(part, part.high_watermark, execute=execute)


@click.command()
@click.argument("name")
@execute_option
@directory_options
def compact(name: str, execute: bool, app_name: str | None, data: str | None) -> None:
    """Keep only the last record of each key in the closed segments of the topic NAME.

    A topic with cleanup.policy=compact is compacted by itself once min.cleanable.dirty.ratio of it is dirty.
    """
    from framework.cli.directory import reading

    with reading(app_name, data) as directory:
        info = directory.topic(name)
        if execute:
            done = directory.log.compact(name)
            segments = f"{done.segments} segment{'s' * (done.segments != 1)}"
            click.echo(f"compacted {segments} of {name!r}: {done.freed_bytes:,} bytes freed", err=True)
            return
        directory.log.check_compacts(info)
        for part in _parts(directory, info):
            dirt = part.dirt()
            dirty, total = (dirt.dirty_bytes, dirt.dirty_bytes + dirt.clean_bytes) if dirt else (0, 0)
            text = f"{part.name}, {dirty:,} of {total:,} bytes not compacted yet"
            click.echo(f"would compact {text}; do it with --execute", err=True)


def _parts(directory: Directory, info: TopicInfo) -> list[Partition]:
    return [directory.log.partition(info, number) for number in range(info.partitions)]


def _start_at(part: Partition, offset: int, *, execute: bool) -> None:
    records = max(0, offset - part.log_start)
    if execute:
        part.delete_records(offset)
    text = f"{records:,} record{'s' * (records != 1)} of {part.name} before offset {offset}"
    click.echo(f"deleted {text}" if execute else f"would delete {text}; do it with --execute", err=True)


def _check_no_tables(directory: Directory, info: TopicInfo) -> None:
    """Refuse more partitions while tables depend on how many there are: their keys would move, their rows not."""
    from framework.log.errors import Conflict

    agents = {agent for agent, topic_id, _, _ in directory.view.offsets() if topic_id == info.id}
    tables = sorted(table for table, owner in directory.view.owners().items() if owner in agents)
    if tables:
        raise Conflict(
            f"topic {info.name!r} cannot have more partitions: keys would move, and the rows of table "
            f"{', '.join(map(repr, tables))} would not. Send its records to a new topic instead"
        )
