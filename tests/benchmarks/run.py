"""What the framework costs, and whether it does what the documentation promises in figures: `make bench`.

    python -m tests.benchmarks.run [--quick] [--pairs N] [ROW ...]

Prints a line for each figure, with the spread between the lowest and the highest, and exits with 1 when one misses its
target. A ratio compares our side with a loop written by hand, or with the same work under better
conditions; its last column shows what both did. Needs 12 GB on the disk of the working directory for the rows
with a backlog, and gives them back at the end.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tests.benchmarks import (
    agents,
    broker,
    broker_peers,
    grouped,
    jobs,
    jobs_beside,
    latency,
    log_append,
    log_open,
    log_read,
    peer_rows,
    protocol,
    resident,
    startup,
)
from tests.benchmarks.rows import QUICK, Bench, Result, Row, Scale, say

ROWS: list[Row] = [
    *agents.ROWS,
    *grouped.ROWS,
    *jobs.ROWS,
    *jobs_beside.ROWS,
    *peer_rows.ROWS,
    *log_append.ROWS,
    *log_read.ROWS,
    *log_open.ROWS,
    *protocol.ROWS,
    *broker.ROWS,
    *broker_peers.ROWS,
    *latency.ROWS,
    *startup.ROWS,
    *resident.ROWS,
]


def main() -> int:
    """Run the rows that were asked for."""
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[[], *names], metavar="ROW", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that the rows run, and nothing else")
    parser.add_argument("--pairs", type=int, help=f"pairs a ratio is the median of [{Scale().pairs}]")
    asked = parser.parse_args()
    scale = QUICK if asked.quick else Scale()
    if asked.pairs:
        scale = replace(scale, pairs=asked.pairs)
    print(f"{'row':<26} {'measured':>12} {'target':>8} {'spread':>16}  {'ours : other'}")
    results = run([row for row in ROWS if row.name in (asked.rows or names)], scale, Path.cwd(), print_line)
    return 1 if any(result.missed for result in results) else 0


def run(rows: Sequence[Row], scale: Scale, beside: Path, show: Callable[[Result], None]) -> list[Result]:
    """The figures of *rows*, shown as they come; what they need lies in a new directory *beside* others."""
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="framework-bench-", dir=beside) as directory:
        bench = Bench(Path(directory), scale)
        for row in rows:
            say(f"{row.name} ...")
            for result in row.measure(bench):
                results.append(result)
                show(result)
    return results


def print_line(result: Result) -> None:
    """One line of the table."""
    measured = not math.isnan(result.value)
    value = f"{result.value:.4g} {result.unit}".rstrip() if measured else "-"
    spread = f"{result.low:.3g} - {result.high:.3g}" if measured else ""
    verdict = "  MISSED" if result.missed else ""
    print(f"{result.name:<26} {value:>12} {result.target:>8} {spread:>16}  {result.rates}{verdict}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
