"""`framework groups`: what the clients of the broker have read, group by group.

What changes offsets says first what it would do, and does it with --execute.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from framework.cli.options import directory_options, json_option, wait_option
from framework.cli.reshape import execute_option

if TYPE_CHECKING:
    from framework.cli.directory import Directory
    from framework.log import Partition, TopicInfo
    from framework.log.broker.offsets import Committed, Place
    from framework.state.groups import GroupStore

LIST_COLUMNS = ("group", "kind", "topics", "partitions", "lag", "seen")
COLUMNS = ("topic", "partition", "committed", "end", "lag", "time", "metadata")
RESET_COLUMNS = ("topic", "partition", "from", "to", "lag")


@click.group()
def groups() -> None:
    """See how far consumer groups have read, move them, and delete them."""


@groups.command()
@directory_options
@json_option
def ls(app_name: str | None, data: str | None, as_json: bool) -> None:
    """List the groups that have committed offsets, agents and jobs among them.

    Seen is when a group has committed, or had members, last. JSON: {"group", "kind", "topics", "partitions", "lag",
    "seen"}; kind is consumers, or app for an agent or job; seen is null for those.
    """
    from framework.cli.directory import reading
    from framework.cli.output import iso, print_rows

    with reading(app_name, data) as directory, _Groups(directory) as there:
        rows = []
        for name, seen_ms in there.seen.items():
            lags = [row["lag"] for row in there.rows(name)]
            seen = None if seen_ms is None else iso(seen_ms / 1000)
            rows.append(
                {
                    "group": name,
                    "kind": "app" if seen is None else "consumers",
                    "topics": sorted({row["topic"] for row in there.rows(name)}),
                    "partitions": len(lags),
                    "lag": sum(lags),
                    "seen": seen,
                }
            )
        shown = rows if as_json else [row | {"topics": ", ".join(row["topics"])} for row in rows]
        if not print_rows(shown, LIST_COLUMNS, as_json=as_json):
            click.echo(f"no groups in {directory.path}", err=True)


@groups.command()
@click.argument("name")
@directory_options
@json_option
def show(name: str, app_name: str | None, data: str | None, as_json: bool) -> None:
    """Show how far the group NAME has read: a row for each partition.

    Its members are known to the running broker only: ask that over the Kafka protocol, as kafka-consumer-groups
    --describe does. JSON: {"group", "topic", "partition", "committed", "end", "lag", "time", "metadata",
    "leader_epoch"}; time is when that was committed, null for an agent or job.
    """
    from framework.cli.directory import reading
    from framework.cli.output import print_rows

    with reading(app_name, data) as directory, _Groups(directory) as there:
        there.check(name)
        if not print_rows(list(there.rows(name)), COLUMNS, as_json=as_json):
            click.echo(f"group {name!r} has committed nothing", err=True)


@groups.command()
@click.argument("name")
@click.option(
    "--to",
    "to",
    required=True,
    metavar="PLACE",
    help="beginning, end, an offset, a time as 2026-01-31T12:00:00Z, or so long ago: 90s, 30m, 12h.",
)
@click.option("--topic", "topic", metavar="TOPIC", help="Of one topic only, also one that it has not read yet.")
@click.option("--partition", type=int, metavar="N", help="Of one partition only.  [default: of each]")
@execute_option
@wait_option
@directory_options
@json_option
def reset(
    name: str,
    to: str,
    topic: str | None,
    partition: int | None,
    execute: bool,
    wait_s: float,
    app_name: str | None,
    data: str | None,
    as_json: bool,
) -> None:
    """Have the group NAME go on at another place.

    With --topic the group need not be there yet. The broker must not run meanwhile: while it does, members may be
    reading. JSON: {"group", "topic", "partition", "from", "to", "lag", "executed"}.
    """
    from framework.cli.directory import reading
    from framework.cli.output import print_rows
    from framework.log.broker.offsets import Committed

    with reading(app_name, data) as directory, _Groups(directory) as there:
        there.check_own(name, may_be_new=topic is not None)
        moves = list(there.moves(name, to, topic, partition))
        if execute:
            # Looked at anew: until the broker had ended, members may have committed and clients appended.
            with _owned(directory, wait_s) as store, _Groups(directory) as left:
                moves = list(left.moves(name, to, topic, partition))
                now_ms = directory.log.clock.now_ms()
                offsets = {(part.topic.id, part.number): Committed(at, time_ms=now_ms) for part, _, at in moves}
                store.commit(name, offsets).result()
        rows = [
            {
                "group": name,
                "topic": part.topic.name,
                "partition": part.number,
                "from": before,
                "to": at,
                "lag": max(0, part.high_watermark - at),
                "executed": execute,
            }
            for part, before, at in moves
        ]
        print_rows(rows, RESET_COLUMNS, as_json=as_json)
        what = f"group {name!r} in {len(rows)} partition{'s' * (len(rows) != 1)}"
        _tell(directory, "reset", what, execute=execute)


@groups.command()
@click.argument("name")
@execute_option
@wait_option
@directory_options
def delete(name: str, execute: bool, wait_s: float, app_name: str | None, data: str | None) -> None:
    """Delete the group NAME with all its committed offsets.

    The broker must not run meanwhile; while it does, clients may delete groups.
    """
    from framework.cli.directory import reading

    with reading(app_name, data) as directory, _Groups(directory) as there:
        there.check_own(name)
        count = len(there.committed(name))
        if execute:
            with _owned(directory, wait_s) as store:
                store.delete_group(name).result()
        what = f"group {name!r} with {count:,} committed offset{'s' * (count != 1)}"
        _tell(directory, "delete", what, execute=execute)


class _Groups:
    """The groups of a directory, those of the broker and those of apps, read from outside."""

    def __init__(self, directory: Directory) -> None:
        """Reads the state of both."""
        from framework.agent_groups import AgentGroups
        from framework.state.groups import GroupsView

        self._directory = directory
        self._view = GroupsView(directory.log)
        self._foreign = AgentGroups(directory.log, directory.view).groups()
        self._topics = {info.id: info for info in directory.log.topics().values()}
        seen = {**self._view.groups(), **dict.fromkeys(self._foreign)}
        self.seen: dict[str, int | None] = {name: seen[name] for name in sorted(seen)}
        """When each group was seen last; None for one of an app, also where consumers once had its name."""

    def __enter__(self) -> _Groups:
        return self

    def __exit__(self, *exc: object) -> None:
        self._view.close()

    def check(self, name: str) -> None:
        """Refuse a name that no group has.

        Raises:
            NotFound: So it is.
        """
        from framework.cli.directory import known

        known("group", name, self.seen, f"in {self._directory.path}")

    def check_own(self, name: str, *, may_be_new: bool = False) -> None:
        """Refuse a name that no group has, or an agent or job.

        Raises:
            NotFound: No group has it.
            UsageError: It is an agent's or job's.
        """
        from framework.log.errors import UsageError

        if name in self._foreign:
            agent = name.partition(".")[2]
            raise UsageError(
                f"{name!r} is no group of consumers but agent or job {agent!r}, whose offsets are committed with its "
                f"state: use `framework agents reset {agent}` or `framework agents forget {agent}`"
            )
        if not may_be_new:
            self.check(name)

    def committed(self, name: str) -> dict[Place, Committed]:
        """What the group has committed in topics that are there."""
        from framework.log.broker.offsets import Committed

        foreign = self._foreign.get(name)
        if foreign is not None:
            found = {place: Committed(offset) for place, offset in foreign.offsets.items()}
        else:
            found = self._view.fetch(name)
        return {place: committed for place, committed in found.items() if place[0] in self._topics}

    def rows(self, name: str) -> Iterator[dict[str, Any]]:
        """A row for each partition, by topic."""
        from framework.cli.output import iso

        found = [(self._topics[place[0]], place[1], each) for place, each in self.committed(name).items()]
        for info, number, committed in sorted(found, key=lambda row: (row[0].name, row[1])):
            end = self._directory.log.partition(info, number).high_watermark
            yield {
                "group": name,
                "topic": info.name,
                "partition": number,
                "committed": committed.offset,
                "end": end,
                "lag": max(0, end - committed.offset),
                "time": iso(committed.time_ms / 1000) if committed.time_ms else None,
                "metadata": committed.metadata,
                "leader_epoch": committed.leader_epoch,
            }

    def moves(
        self, name: str, to: str, topic: str | None, partition: int | None
    ) -> Iterator[tuple[Partition, int | None, int]]:
        """(partition, where the group is, where it is to be) of all that is moved.

        Raises:
            UsageError: *to* is no place.
            NotFound: There is no such topic or partition.
        """
        from framework.cli.rewind import place_of

        at, committed = place_of(to), self.committed(name)
        infos: list[TopicInfo] = (
            sorted({self._topics[each[0]] for each in committed}, key=lambda info: info.name)
            if topic is None
            else [self._directory.topic(topic)]
        )
        for info in infos:
            for number in range(info.partitions) if partition is None else (partition,):
                part = self._directory.log.partition(info, number)
                before = committed.get((info.id, number))
                if before is not None or topic is not None:
                    there = self._directory.log.offset_of(part, at)
                    yield part, None if before is None else before.offset, there


@contextmanager
def _owned(directory: Directory, wait_s: float) -> Iterator[GroupStore]:
    """The committed offsets, to be changed.

    Raises:
        GroupsBusy: A broker runs.
    """
    from framework.state.groups import GroupStore

    store = GroupStore(directory.log, wait_s=wait_s)
    try:
        yield store
    finally:
        store.close()


def _tell(directory: Directory, verb: str, what: str, *, execute: bool) -> None:
    from framework.log.locks import GROUPS_LOCK

    if execute:
        done = {"reset": "reset", "delete": "deleted"}[verb]
        click.echo(f"{done} {what}", err=True)
        return
    pid = directory.log.shared.holder(GROUPS_LOCK)
    first = f"stop the broker, process {pid}, and then " if pid is not None else ""
    click.echo(f"would {verb} {what}; {first}do it with --execute", err=True)
