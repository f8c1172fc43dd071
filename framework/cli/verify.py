"""`framework verify`: is what lies in the data directory what was written?"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from framework.cli.options import data_option, json_option

if TYPE_CHECKING:
    from framework.log.outside import Finding
    from framework.log.verify import Verification

DAMAGED = 6
BAR_WIDTH, REFRESH_S = 30, 0.1


@click.command()
@click.argument("topics", metavar="[TOPIC]...", nargs=-1)
@click.option("--deep", is_flag=True, help="Decode every record, too.")
@click.option("--repair", is_flag=True, help="Then rebuild what can be rebuilt, after a copy in DATA/repair-TIME.")
@data_option
@json_option
def verify(topics: tuple[str, ...], deep: bool, repair: bool, data: str | None, as_json: bool) -> None:
    """Check the log of each TOPIC, or of all, and print what is found; exits with 6 if something is damaged.

    Checked are the shared file, the catalogue, and of each partition the manifest, batches, indexes, append times and
    producers. Nothing is changed without --repair, and others may go on appending. Notes are odd and do no harm.

    Only what can be told from other files is rebuilt: indexes, a shared file that is missing; files that a killed
    process left over are removed. Nobody may have the directory open for that. Tables are not checked.

    JSON: {"path", "position", "offset", "severity", "text", "repairable"}. The severity is "damage" or "note";
    position and offset are null where there is no such place.
    """
    from framework.cli.live import LiveLine
    from framework.log.verify import Verification

    line = LiveLine(sys.stderr)
    bar = Bar(line)
    run = Verification(data_path(data), topics, deep=deep, progress=bar.advance)
    bar.run = run
    began, found = time.monotonic(), []
    try:
        for finding in run.findings():
            line.remove()
            found.append(finding)
            _print(finding, as_json=as_json)
    finally:
        line.remove()
    click.echo(summary(run, found, time.monotonic() - began), err=True)
    left = [finding for finding in found if finding.severity == "damage"]
    if repair and any(finding.repairable for finding in found):
        left = _repair(run.directory, topics, found)
    if left:
        click.get_current_context().exit(DAMAGED)


def data_path(data: str | None) -> Path:
    """Where the data directory is: the option, the environment, what the app says, or ./data."""
    from framework.cli.directory import DATA_VARIABLE, app_for_reading

    named = data or os.environ.get(DATA_VARIABLE)
    app = None if named else app_for_reading(None, None)
    return app.data if app is not None else Path(named or "data").absolute()


def summary(run: Verification, found: list[Finding], seconds: float) -> str:
    """One line: how much was read, how long it took, and what came of it."""
    counts = {"partition": run.partitions, "segment": run.segments, "batch": run.batches}
    counts |= {"record": run.records} if run.deep else {}
    counts["byte"] = run.bytes
    parts = [
        f"{count:,} {name}{'' if count == 1 else 'es' if name == 'batch' else 's'}" for name, count in counts.items()
    ]
    damaged = sum(finding.severity == "damage" for finding in found)
    verdict = f"damaged in {_places(damaged)}" if damaged else "sound"
    return f"{', '.join(parts)} in {seconds:.1f} s: {verdict}"


class Bar:
    """How much has been read, on a terminal."""

    def __init__(self, line: Any) -> None:
        """*line* shows it; `run` is set before the first `advance`."""
        self.run: Verification | None = None
        self._line, self._shown_at = line, 0.0

    def advance(self) -> None:
        """Show how far it has come, ten times a second."""
        now = time.monotonic()
        if self.run is not None and self._line.on and now - self._shown_at > REFRESH_S:
            self._shown_at = now
            done, size = self.run.bytes, max(self.run.total_bytes, self.run.bytes, 1)
            filled = "#" * (BAR_WIDTH * done // size)
            self._line.show(f"[{filled:.<{BAR_WIDTH}}] {done / 1e6:,.0f} of {size / 1e6:,.0f} MB")


def _repair(directory: Path, topics: tuple[str, ...], found: list[Finding]) -> list[Finding]:
    """Repair, and give the damage that is left."""
    from framework.log.repair import repair
    from framework.log.verify import Verification

    for line in repair(directory, found):
        click.echo(line, err=True)
    left = [finding for finding in Verification(directory, topics).findings() if finding.severity == "damage"]
    # Records are as they were: what only --deep sees is not looked for again.
    left += [finding for finding in found if finding.severity == "damage" and not finding.repairable]
    places = {(finding.path, finding.position) for finding in left}
    click.echo(f"still damaged in {_places(len(places))}" if left else "sound now", err=True)
    return left


def _places(count: int) -> str:
    return f"{count} place{'s' * (count != 1)}"


def _print(finding: Finding, *, as_json: bool) -> None:
    from framework.cli.output import print_json

    if as_json:
        print_json({**asdict(finding), "path": str(finding.path)})
    else:
        click.echo(str(finding))
