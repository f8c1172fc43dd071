"""The work of the agent rows on Bytewax and on Faust, each in a process and an environment of its own: `make peers`.

Their records lie in a list in memory, without a broker, and what they do survives nothing: no recovery, no offsets, and
changelogs that go nowhere. Ours read the log and commit, exactly once. Each side handles as many records as it
can in a second or a few, and rates are compared.

The row `faust-transport` has Faust on both sides: on a directory of ours, with offsets committed and changelogs on the
disk, over Faust with a transport that costs nothing. App and agents are the same file.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.benchmarks.agents import fill, filtering, summing, sums_of
from tests.benchmarks.peers.work import values
from tests.benchmarks.processes import ROOT
from tests.benchmarks.rows import Bench, Pairs, Result, Row, Side, skipped

PYTHON = Path(os.environ.get("BENCH_PEERS_PYTHON", ROOT / ".venv" / "peers" / "bin" / "python"))
"""With Bytewax and Faust installed."""

# What is named after `filter` or `sum`; the share of the records; arguments of the module; the targets of both.
FILTER = [
    ("Bytewax 1", 0.2, ["bytewax_side", "1"], None),
    ("Bytewax 1000", 1.0, ["bytewax_side", "1000"], 1.0),
    ("Faust", 0.05, ["faust_side", "installed", "memory://"], None),
    ("Faust at its best", 0.05, ["faust_side", "best", "memory://"], 40.0),
]
SUM = [
    ("Bytewax 1", 0.1, ["bytewax_side", "1"], None),
    ("Bytewax 1000", 0.25, ["bytewax_side", "1000"], 2.0),
    ("Faust", 0.02, ["faust_side", "installed", "rocksdb://"], None),
    ("Faust at its best", 0.02, ["faust_side", "best", "rocksdb://"], 50.0),
]
TRANSPORT = [("filter", "memory://", 0.05), ("sum", "rocksdb://", 0.02)]
TRANSPORT_TARGET = 0.8
Peers = list[tuple[str, float, list[str], float | None]]


def measure_filter(bench: Bench) -> Iterator[Result]:
    """Parse every record and keep those over a threshold."""
    return _measure(bench, "filter", FILTER, lambda place, data: filtering(place, len(data)))


def measure_sum(bench: Bench) -> Iterator[Result]:
    """Sum the amounts of every key: Bytewax in memory, Faust in RocksDB."""
    return _measure(bench, "sum", SUM, lambda place, data: summing(place, len(data), sums_of(data)))


def measure_faust_transport(bench: Bench) -> Iterator[Result]:
    """Faust with `broker="framework://..."` over its own ceiling; both at their best."""
    if not PYTHON.exists():
        yield skipped("faust-transport", f"{PYTHON} is not there: make peers")
        return
    for work, store, share in TRANSPORT:
        records = max(1_000, int(bench.scale.records * share))
        settings = ["faust_side", "best", store]
        with bench.place() as place:
            fill(place / "data", values(records))
            ours = _peer(work, settings, records, f"framework://{place / 'data'}")
            pairs = Pairs(ours, _peer(work, settings, records), bench.scale.pairs, "k/s")
            yield pairs.ratio(f"faust-transport / {work}", TRANSPORT_TARGET)


def _measure(bench: Bench, work: str, peers: Peers, side: Callable[[Path, list[bytes]], Side]) -> Iterator[Result]:
    if not PYTHON.exists():
        yield skipped(f"{work} / peers", f"{PYTHON} is not there: make peers")
        return
    data = values(bench.scale.records)
    with bench.place() as place:
        fill(place / "data", data)
        ours = side(place / "data", data)
        for name, share, arguments, target in peers:
            other = _peer(work, arguments, max(1_000, int(bench.scale.records * share)))
            pairs = Pairs(lambda: ours() * 1e3, other, bench.scale.pairs, "k/s")
            yield pairs.ratio(f"{work} / {name}", target)


def _peer(work: str, arguments: list[str], records: int, *more: str) -> Side:
    module, *settings = arguments
    command = [str(PYTHON), "-m", f"tests.benchmarks.peers.{module}", work, *settings, str(records), *more]

    def run() -> float:
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        return float(json.loads(done.stdout)) / 1e3

    return run


ROWS = [
    Row("peers-filter", measure_filter),
    Row("peers-sum", measure_sum),
    Row("faust-transport", measure_faust_transport),
]
