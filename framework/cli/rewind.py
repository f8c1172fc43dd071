"""`framework agents rewind`, `reset` and `checkpoints`: taking an agent back.

Each says first what it would do, and does it with --execute.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import click

from framework.cli.options import directory_options, json_option, wait_option
from framework.cli.reshape import execute_option

if TYPE_CHECKING:
    from framework.cli.directory import Directory
    from framework.log import At
    from framework.rewind import Step, Target

COLUMNS = ("topic", "partition", "from", "to", "records", "rows_restored", "rows_deleted", "checkpoint")

outputs_option = click.option(
    "--outputs",
    metavar="send|drop|TOPIC",
    help="What becomes of what the agent sends for records it has handled before: sent again, dropped, or sent to "
    "TOPIC. Needed if it sends anything; dead letters are always sent.",
)


@click.command()
@click.argument("name")
@click.option("--to", "to", required=True, metavar="TIME", help="2026-01-31T12:00:00Z, or so long ago: 90s, 30m, 12h.")
@click.option(
    "--state",
    type=click.Choice(["restore", "reset"]),
    default="restore",
    show_default=True,
    help="With reset, which needs no checkpoint, its tables are emptied and it begins at the log start.",
)
@click.option(
    "--on-gap",
    type=click.Choice(["fail", "earliest"]),
    default="fail",
    show_default=True,
    help="What to do if the log does not keep all records any more: with earliest, begin with the first it has.",
)
@outputs_option
@execute_option
@wait_option
@directory_options
@json_option
def rewind(
    name: str,
    to: str,
    state: str,
    on_gap: Literal["fail", "earliest"],
    outputs: str | None,
    execute: bool,
    wait_s: float,
    app_name: str | None,
    data: str | None,
    as_json: bool,
) -> None:
    """Take the agent NAME back to a checkpoint: its tables and offsets as they were then.

    That is the newest from TIME or before; `agents checkpoints` lists them. When a worker is started, the agent
    handles the records since then again. Nothing else in the state changes, and the worker must not run meanwhile.

    JSON: {"agent", "topic", "partition", "from", "to", "records", "rows_restored", "rows_deleted", "checkpoint",
    "outputs", "executed"}.
    """
    from framework.cli.directory import reading
    from framework.rewind import ToCheckpoint, ToPlace

    with reading(app_name, data) as directory:
        if state == "reset":
            target: Target = ToPlace("beginning", empty=True)
        else:
            target = ToCheckpoint(_time_ms(directory, to), on_gap)
        Move(directory, name, target, outputs, "rewind").run(execute=execute, wait_s=wait_s, as_json=as_json)


@click.command()
@click.argument("name")
@click.option(
    "--to",
    "to",
    metavar="PLACE",
    help="beginning, end, an offset, a time as 2026-01-31T12:00:00Z, or so long ago: 90s, 30m, 12h.  "
    "[default: where the app has it begin, or the beginning]",
)
@click.option(
    "--state",
    type=click.Choice(["keep", "reset"]),
    help="Whether the rows of its tables stay, or are deleted. Needed if it writes any.",
)
@click.option("--partition", type=int, metavar="N", help="Of one partition only.  [default: of each]")
@outputs_option
@execute_option
@wait_option
@directory_options
@json_option
def reset(
    name: str,
    to: str | None,
    state: str | None,
    partition: int | None,
    outputs: str | None,
    execute: bool,
    wait_s: float,
    app_name: str | None,
    data: str | None,
    as_json: bool,
) -> None:
    """Have the agent NAME go on at another place in its topic.

    The worker must not run meanwhile. JSON: as `agents rewind`.
    """
    from framework.cli.directory import reading
    from framework.log.errors import UsageError
    from framework.rewind import ToPlace

    with reading(app_name, data) as directory:
        declared = directory.app.agents.get(name) if directory.app else None
        at = place_of(to) if to is not None else declared.start if declared else "beginning"
        tables = sorted(table for table, owner in directory.view.owners().items() if owner == name)
        if tables and state is None:
            raise UsageError(
                f"agent {name!r} writes table {', '.join(map(repr, tables))}: say --state reset to empty "
                f"{'it' if len(tables) == 1 else 'them'} first, or --state keep to go on from what is there"
            )
        target = ToPlace(at, empty=state == "reset", partition=partition)
        Move(directory, name, target, outputs, "reset").run(execute=execute, wait_s=wait_s, as_json=as_json)


@click.command()
@directory_options
@json_option
def checkpoints(app_name: str | None, data: str | None, as_json: bool) -> None:
    """List the checkpoints of the state, to which agents can be taken back; a worker makes one an hour.

    A shard holds the agents of every eighth partition. Bytes are those of its files, most of which a checkpoint
    shares with the state. JSON: {"time", "shard", "partitions", "bytes"}.
    """
    from framework.cli.directory import reading
    from framework.cli.output import print_rows
    from framework.rewind import iso
    from framework.state.checkpoints import checkpoints as of_shard
    from framework.state.shards import SHARDS

    with reading(app_name, data) as directory:
        most = max((info.partitions for info in directory.log.topics().values()), default=0)
        found = [each for number in range(SHARDS) for each in of_shard(directory.path, str(number))]
        found += of_shard(directory.path, "jobs")
        rows = [
            {
                "time": iso(each.time_ms),
                "shard": each.shard,
                "partitions": [] if each.shard == "jobs" else list(range(int(each.shard), most, SHARDS)),
                "bytes": each.size_bytes,
            }
            for each in sorted(found, key=lambda each: (each.time_ms, each.shard))
        ]
        if not print_rows(rows, ("time", "shard", "partitions", "bytes"), as_json=as_json):
            click.echo(f"no checkpoints in {directory.path}", err=True)


class Move:
    """An agent that is taken to a target, and what is said of it."""

    def __init__(self, directory: Directory, name: str, target: Target, outputs: str | None, verb: str) -> None:
        """*outputs* as the option has them.

        Raises:
            NotFound: They should go to a topic that is not there.
        """
        from framework.rewind import Rewind

        if outputs not in (None, "send", "drop"):
            assert outputs is not None
            directory.topic(outputs)
        self._directory, self._name, self._outputs, self._verb = directory, name, outputs, verb
        self._rewind = Rewind(directory.log, name, target, outputs or "send")

    def run(self, *, execute: bool, wait_s: float, as_json: bool) -> None:
        """Print what is to be done, and with *execute* do it.

        Raises:
            ShardBusy: A worker runs.
            UsageError: The agent sends, and it is not said what becomes of that.
        """
        from framework.state.shards import Shards

        if not execute:
            steps = self._rewind.plan()
            self._check_outputs(steps)
            self._print(steps, executed=False, as_json=as_json)
            return
        shards = Shards(self._directory.log)
        try:
            shards.own_all(wait_s)
            self._check_outputs(self._rewind.plan())
            self._print(self._rewind.execute(shards), executed=True, as_json=as_json)
        finally:
            shards.close()

    def _check_outputs(self, steps: Iterable[Step]) -> None:
        from framework.log.errors import UsageError

        app = self._directory.app
        declared = app.agents.get(self._name) if app else None
        silent = declared is not None and declared.sink is None and not self._rewind.has_sent
        if self._outputs is None and not silent and any(step.replays for step in steps):
            knows = "has sent records" if self._rewind.has_sent else "may send records"
            raise UsageError(
                f"agent {self._name!r} {knows}, and would send those of the records it handles again: say --outputs "
                "send, --outputs drop, or --outputs TOPIC for where they go instead"
            )

    def _print(self, steps: Iterable[Step], *, executed: bool, as_json: bool) -> None:
        from framework.cli.output import print_rows
        from framework.rewind import iso

        rows: list[dict[str, Any]] = [
            {
                "agent": self._name,
                "topic": step.partition.topic.name,
                "partition": step.partition.number,
                "from": step.committed,
                "to": step.to,
                "records": max(0, step.end - step.to),
                "rows_restored": step.restored,
                "rows_deleted": step.deleted,
                "checkpoint": iso(step.checkpoint.time_ms) if step.checkpoint else None,
                "outputs": (self._outputs or "send") if step.replays else None,
                "executed": executed,
            }
            for step in steps
        ]
        print_rows(rows, COLUMNS, as_json=as_json)
        what = f"agent {self._name!r}: {sum(row['records'] for row in rows):,} records to handle"
        if executed:
            done = {"rewind": "rewound", "reset": "reset"}[self._verb]
            click.echo(f"{done} {what} when a worker is started", err=True)
            return
        pid = self._directory.log.shared.holder(_first_shard())
        first = f"stop the worker, process {pid}, and then " if pid is not None else ""
        click.echo(f"would {self._verb} {what}; {first}do it with --execute", err=True)


def _first_shard() -> int:
    from framework.log.locks import SHARD_LOCK

    return SHARD_LOCK


def place_of(text: str) -> At:
    """A place in a topic.

    Raises:
        UsageError: It is none.
    """
    if text == "beginning":
        return "beginning"
    if text == "end":
        return "end"
    return int(text) if text.isdecimal() else _time(text)


def _time(text: str) -> datetime | timedelta:
    from framework.cli.settings import parse_duration
    from framework.log.errors import UsageError

    ago_ms = parse_duration(text)
    if ago_ms is not None:
        return timedelta(milliseconds=ago_ms)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"--to {text!r} is no time like 2026-01-31T12:00:00Z, nor how long ago, like 90s or 12h"
        ) from None


def _time_ms(directory: Directory, text: str) -> int:
    from framework.log.clock import to_ms

    time = _time(text)
    if isinstance(time, datetime):
        return to_ms(time)
    return directory.log.clock.now_ms() - time // timedelta(milliseconds=1)
