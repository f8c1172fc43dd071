"""`framework agents`: how far each has come, and what it is called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from framework.cli.naming import forget, rename
from framework.cli.options import directory_options, json_option
from framework.cli.rewind import checkpoints, reset, rewind
from framework.cli.show import show

if TYPE_CHECKING:
    from framework.agent import Agent
    from framework.cli.directory import Directory
    from framework.log import TopicInfo

COLUMNS = ("agent", "topic", "partition", "committed", "end", "lag")


@click.group()
def agents() -> None:
    """See how far the agents have come and what they are doing; take them back, rename and forget them."""


for command in (show, checkpoints, rewind, reset, rename, forget):
    agents.add_command(command)


@agents.command()
@click.argument("name", required=False)
@directory_options
@json_option
def ls(name: str | None, app_name: str | None, data: str | None, as_json: bool) -> None:
    """List the agents, or the agent NAME: a row for each partition.

    Those that have committed something are known without an app.

    JSON: {"agent", "topic", "partition", "committed", "end", "lag"}; committed is the next offset to be
    handled, null before the first commit.
    """
    from framework.cli.directory import known, reading
    from framework.cli.output import print_rows

    with reading(app_name, data) as directory:
        found: dict[str, list[dict[str, Any]]] = {}
        for row in rows_of(directory):
            found.setdefault(row["agent"], []).append(row)
        if name is not None:
            found = {name: known("agent", name, found, f"in {directory.path}")}
        rows = [row for agent in sorted(found) for row in found[agent]]
        if not print_rows(rows, COLUMNS, as_json=as_json):
            click.echo(f"no agents in {directory.path}", err=True)


def rows_of(directory: Directory) -> Iterator[dict[str, Any]]:
    """What the state knows and what the app declares, each partition of an agent once."""
    infos = {info.id: info for info in directory.log.topics().values()}
    committed: dict[tuple[str, str], dict[int, int]] = {}
    for agent, topic_id, partition, offset in directory.view.offsets():
        committed.setdefault((agent, topic_id), {})[partition] = offset
    declared = dict(directory.app.agents) if directory.app else {}
    for name in grouped(directory, infos, committed):
        del declared[name]
    for (agent, topic_id), offsets in committed.items():
        info = infos.get(topic_id)
        if info is None:
            continue
        if agent in declared and declared[agent].source.name == info.name:
            yield from _agent_rows(directory, agent, info, offsets, declared.pop(agent))
        else:
            yield from _agent_rows(directory, agent, info, offsets, None)
    for name, unseen in declared.items():
        info = directory.log.topics().get(unseen.source.name)
        if info is not None:
            yield from _agent_rows(directory, name, info, {}, unseen)
        else:
            row = {"agent": name, "topic": unseen.source.name, "partition": None}
            yield {**row, "committed": None, "end": None, "lag": 0}


def grouped(directory: Directory, infos: Mapping[str, TopicInfo], committed: Iterable[tuple[str, str]]) -> set[str]:
    """The declared agents whose topic is read by a stage of theirs, and not by themselves any more."""
    declared = directory.app.agents if directory.app else {}
    stages = [(agent, infos[topic_id].name) for agent, topic_id in committed if topic_id in infos]
    return {
        name
        for name, agent in declared.items()
        for stage, topic in stages
        if stage.startswith(f"{name}.") and stage not in declared and topic == agent.source.name
    }


def _agent_rows(
    directory: Directory,
    name: str,
    info: TopicInfo,
    offsets: dict[int, int],
    declared: Agent[Any, Any] | None,
) -> Iterator[dict[str, Any]]:
    for number in range(info.partitions):
        partition = directory.log.partition(info, number)
        committed = offsets.get(number)
        start = partition.log_start
        if committed is None and declared is not None:
            start = directory.log.offset_of(partition, declared.start)
        end = partition.high_watermark
        yield {
            "agent": name,
            "topic": info.name,
            "partition": number,
            "committed": committed,
            "end": end,
            "lag": max(0, end - (start if committed is None else committed)),
        }
