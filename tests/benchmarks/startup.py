"""Processes of the command line: how soon they are there, and what they take while they have nothing to do."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

from tests.benchmarks import processes
from tests.benchmarks.rows import Bench, Result, Row, samples


def measure_help(bench: Bench) -> Iterator[Result]:
    """`framework --help`."""
    taken = []
    for _ in range(bench.scale.starts):
        started = time.perf_counter()
        command = processes.command("--help")
        subprocess.run(command, env=processes.environment(), stdout=subprocess.DEVNULL, check=True)
        taken.append((time.perf_counter() - started) * 1e3)
    yield samples("help", taken, "ms", below=150)


def measure_worker(bench: Bench) -> Iterator[Result]:
    """A worker of an app with one agent and nothing to read: its start, its memory, and its share of a core."""
    taken = []
    with bench.place() as place:
        for number in range(bench.scale.starts):
            started = time.perf_counter()
            with processes.worker(place / f"data-{number}"):
                taken.append(time.perf_counter() - started)
        yield samples("worker start", taken, "s", below=0.5)
        with processes.worker(place / "idle") as pid:
            before, started = processes.cpu_seconds(pid), time.perf_counter()
            time.sleep(bench.scale.idle_s)
            used = (processes.cpu_seconds(pid) - before) / (time.perf_counter() - started)
            yield samples("worker idle", [used * 100], "%", below=1)
            yield samples("worker memory", [processes.memory_bytes(pid) / 1e6], "MB", below=90)


ROWS = [Row("help", measure_help), Row("worker", measure_worker)]
