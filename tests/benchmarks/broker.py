"""The broker as librdkafka finds it: records of 100 bytes, one partition, acks=all, synced as `group` says.

The client is a process of its own; what the broker uses of a core is measured beside the rate.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from framework.log import Log
from framework.log.broker import APIS, encode_request
from framework.log.broker.table_configs import ApiVersionsRequest
from tests.benchmarks import broker_client, processes
from tests.benchmarks.rows import Bench, Result, Row, percentile, samples

MORE_FILES = 1000
ACKS_PER_RECORD = 0.002


@contextmanager
def broker(data: Path) -> Iterator[tuple[int, str]]:
    """A broker of *data*: process id and address."""
    arguments = processes.command("broker", "--data", str(data), "--listen", ":0")
    process = subprocess.Popen(arguments, env=processes.environment(), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        address = next(line.split()[1] for line in lines if line.startswith("listen "))
        yield process.pid, address
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == 0, f"the broker ended with {process.returncode}"


def client(work: str, address: str, count: int) -> subprocess.Popen[str]:
    """A client that does some *work*."""
    command = [sys.executable, "-m", broker_client.__name__, work, address, str(count)]
    return subprocess.Popen(
        command,
        env=processes.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def done(work: str, address: str, count: int) -> list[float]:
    """What a client says that has done its *work*."""
    out, _ = (process := client(work, address, count)).communicate()
    assert process.returncode == 0, f"the client ended with {process.returncode}"
    figures: list[float] = json.loads(out)
    return figures


def measure_throughput(bench: Bench) -> Iterator[Result]:
    """Producing and consuming, and the share of a core that the broker takes meanwhile."""
    count, found = bench.scale.records // 2, dict[str, list[float]]()
    for _ in range(bench.scale.pairs):
        with bench.place() as place:
            Log(place / "data", create=True).close()
            with broker(place / "data") as (pid, address):
                for work in ("produce", "consume"):
                    before = processes.cpu_seconds(pid)
                    [rate] = done(work, address, count)
                    used = processes.cpu_seconds(pid) - before
                    found.setdefault(work, []).append(rate / 1e3)
                    found.setdefault(f"{work} cores", []).append(used * rate / count)
    yield samples("broker produce", found["produce"], "k/s", at_least=400)
    yield samples("broker produce, cores", found["produce cores"], "", below=1)
    yield samples("broker consume", found["consume"], "k/s", at_least=800)
    yield samples("broker consume, cores", found["consume cores"], "", below=1)


def measure_acknowledged(bench: Bench) -> Iterator[Result]:
    """Records sent one after the other, each when the one before is acknowledged."""
    count, medians, tails, syncs = max(100, int(bench.scale.records * ACKS_PER_RECORD)), [], [], []
    for _ in range(bench.scale.pairs):
        with bench.place() as place:
            Log(place / "data", create=True).close()
            with broker(place / "data") as (_, address):
                waited = done("acknowledged", address, count)
            medians.append(percentile(waited, 50) * 1e3)
            tails.append(percentile(waited, 99) * 1e3)
            syncs.append(percentile(_syncs(place / "bare", count), 50) * 1e3)
    yield samples("broker acks p50", medians, "ms", below=1)
    yield samples("broker acks p99", tails, "ms", below=5)
    yield samples("a sync alone p50", syncs, "ms")


def _syncs(path: Path, count: int) -> list[float]:
    """What the disk takes for each of them alone."""
    waited = []
    with path.open("wb", buffering=0) as file:
        for _ in range(count):
            started = time.perf_counter()
            file.write(bytes(170))
            os.fdatasync(file.fileno())
            waited.append(time.perf_counter() - started)
    return waited


def measure_idle_connections(bench: Bench) -> Iterator[Result]:
    """A thousand clients that are connected and ask for nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (min(hard, 4 * bench.scale.idle_tasks + MORE_FILES), hard)
    )  # The client inherits it.
    with bench.place() as place:
        Log(place / "data", create=True).close()
        with broker(place / "data") as (pid, address):
            connected = client("idle", address, bench.scale.idle_tasks)
            assert connected.stdout is not None
            assert connected.stdout.readline(), "the client could not connect"
            time.sleep(bench.scale.idle_s / 4)  # Taking a thousand clients in is no idleness.
            before, started = processes.cpu_seconds(pid), time.perf_counter()
            time.sleep(bench.scale.idle_s)
            used = (processes.cpu_seconds(pid) - before) / (time.perf_counter() - started)
            memory = processes.memory_bytes(pid)
            connected.communicate()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    yield samples("idle connections", [used * 100], "%", below=1)
    yield samples("idle connections' memory", [memory / 1e6], "MB", below=100)


def measure_start(bench: Bench) -> Iterator[Result]:
    """From the start of the process to its first answer."""
    asked = b"".join(encode_request(APIS[18], 0, ApiVersionsRequest(), correlation_id=1))
    took = []
    for _ in range(bench.scale.starts):
        with bench.place() as place:
            Log(place / "data", create=True).close()
            started = time.perf_counter()
            with broker(place / "data") as (_, address):
                host, port = address.split(":")
                with socket.create_connection((host, int(port))) as connection:
                    connection.sendall(asked)
                    assert connection.recv(4)
                    took.append(time.perf_counter() - started)
    yield samples("broker start", took, "s", below=0.5)


ROWS = [
    Row("broker", measure_throughput),
    Row("broker-acks", measure_acknowledged),
    Row("broker-idle", measure_idle_connections),
    Row("broker-start", measure_start),
]
