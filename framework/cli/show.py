"""`framework agents show`: what an agent is doing at this moment."""

from __future__ import annotations

from typing import Any

import click

from framework.cli.options import directory_options, json_option

COLUMNS = ("partition", "committed", "end", "lag", "doing", "handled", "us_per_record", "failures", "dead", "skipped")


@click.command()
@click.argument("name")
@directory_options
@json_option
def show(name: str, app_name: str | None, data: str | None, as_json: bool) -> None:
    """Show what the agent NAME is doing in each partition, in the worker that runs now.

    JSON: {"agent", "topic", "partition", "committed", "end", "lag", "doing", "offset", "since", "handled",
    "us_per_record", "failures", "dead", "skipped", "error"}; from doing on null without a worker. Counts begin with the
    worker.
    """
    from framework.cli.agents import rows_of
    from framework.cli.directory import known, reading
    from framework.cli.output import print_rows
    from framework.status import read_status

    with reading(app_name, data) as directory:
        committed: dict[str, list[dict[str, Any]]] = {}
        for row in rows_of(directory):
            committed.setdefault(row["agent"], []).append(row)
        known("agent", name, committed, f"in {directory.path}")
        status = read_status(directory.log)
        doing = {(task.topic, task.partition): task for task in (status[1] if status else ()) if task.agent == name}
        rows = [row | _now(doing.get((row["topic"], row["partition"])), as_json) for row in committed[name]]
        print_rows(rows, COLUMNS, as_json=as_json)
        if status is None:
            click.echo(f"no worker runs on {directory.path}", err=True)
        for row in () if as_json else rows:
            if row["error"]:
                click.echo(f"last error in partition {row['partition']}: {row['error']}", err=True)


def _now(task: Any, as_json: bool) -> dict[str, Any]:
    from framework.cli.output import iso

    names = ("doing", "offset", "since", "handled", "us_per_record", "failures", "dead", "skipped", "error")
    if task is None:
        return dict.fromkeys(names)
    counts = task.counts
    each = round(counts.busy_s * 1e6 / counts.handled, 1) if counts.handled else None
    since = None if task.since is None else iso(task.since)
    done = (counts.handled, each, counts.failures, counts.buried, counts.skipped, counts.last_error)
    return dict(zip(names, (task.doing if as_json else task.text, task.offset, since, *done), strict=True))
