"""The broker beside other servers, each with its own durability and on an empty directory: `make broker-peers`.

A run starts a server, lets its client measure, and ends it; the servers take turns, and the medians of the runs count.
Servers that speak Kafka's protocol have the very same client with the same settings, so these can be compared as
they are; the others have the usual Python client of each, which often is what limits them. Writes the table into
BROKER.md, unless sizes are tiny.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from tests.benchmarks.brokers import table
from tests.benchmarks.brokers.install import PYTHON
from tests.benchmarks.brokers.meter import BATCH_RECORDS, Measured, Phase
from tests.benchmarks.brokers.servers import PEERS, Missing, Peer, ours, serving
from tests.benchmarks.processes import ROOT
from tests.benchmarks.rows import Bench, Result, Row, Scale, samples, say, skipped
from tests.benchmarks.usage import memory_bytes, peak_memory_bytes

RECORDS = 0.5
"""Of the scale's records: produced and consumed in one run, by the clients that take most."""
SINGLES = 300
CLIENT_S = 300.0


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of one server gave."""

    measured: Measured
    idle_bytes: int
    """What the server had in memory before anybody connected ..."""
    peak_bytes: int
    """... and the most that it had in the end."""


def measure(bench: Bench) -> Iterator[Result]:
    """All servers in turn, then the lines of each."""
    if not PYTHON.exists():
        yield skipped("broker-peers", f"{PYTHON} is not there: make broker-peers")
        return
    load = os.getloadavg()[0]
    runs: dict[Peer, list[Run]] = {peer: [] for peer in PEERS}
    why: dict[Peer, str] = {}
    # Fewer than the pairs of other rows: half a minute goes by until each has had its turn.
    for number in range(bench.scale.pairs // 2 + 1):
        for peer in PEERS if number % 2 == 0 else reversed(PEERS):
            if peer not in why:
                say(f"  {peer.name}, {peer.level}: run {number + 1}")
                try:
                    runs[peer].append(run(bench, peer))
                except Missing as missing:
                    if peer.launch is ours:
                        raise
                    why[peer] = str(missing)
    for peer in PEERS:
        name = f"{peer.name} / {peer.level}"
        yield from [skipped(name, why[peer])] if peer in why else lines(name, runs[peer])
    if bench.scale.records >= Scale().records:
        table.write(runs, why, load)


def run(bench: Bench, peer: Peer) -> Run:
    """One server, from its start to its end.

    Raises:
        Missing: It is not there, or its client cannot work with it.
    """
    records = max(1, round(bench.scale.records * RECORDS * peer.share / BATCH_RECORDS)) * BATCH_RECORDS
    with bench.place() as place, serving(peer, place) as (port, pid):
        idle_bytes = memory_bytes(pid)
        singles = min(SINGLES, bench.scale.sends // 20)
        program = [str(PYTHON), "-m", f"tests.benchmarks.brokers.{peer.side}"]
        numbers = [str(number) for number in (port, pid, records, singles)]
        try:
            client = [*program, *numbers, peer.setting]
            done = subprocess.run(client, cwd=ROOT, check=False, capture_output=True, text=True, timeout=CLIENT_S)
        except subprocess.TimeoutExpired:
            raise Missing(f"its client did not end within {CLIENT_S:.0f} s") from None
        if done.returncode:
            raise Missing(f"its client failed: {(done.stderr.strip().splitlines() or ['silently'])[-1]}")
        return Run(_measured(done.stdout), idle_bytes, peak_memory_bytes(pid))


def lines(name: str, runs: list[Run]) -> Iterator[Result]:
    """What the benchmark prints of one server."""
    figures = table.figures(runs)
    for what, values, unit in (
        ("produce", figures.produce, "k/s"),
        ("consume", figures.consume, "k/s"),
        ("ack p50", figures.p50, "ms"),
        ("ack p99", figures.p99, "ms"),
        ("first", figures.first, "ms"),
        ("CPU in", figures.server_in, "s/M"),
        ("CPU out", figures.server_out, "s/M"),
        ("memory", figures.peak, "MB"),
    ):
        yield samples(f"{name} {what}", values, unit)


def _measured(printed: str) -> Measured:
    fields = json.loads(printed)
    return Measured(Phase(**fields["produce"]), Phase(**fields["consume"]), fields["singles_s"])


ROWS = [Row("broker-peers", measure)]
