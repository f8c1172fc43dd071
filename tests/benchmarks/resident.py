"""What a worker takes that has many tasks and nothing to do, and whether it grows with what it has done."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from framework.log import Log, NewRecord, encode
from tests.benchmarks import processes, resident_app
from tests.benchmarks.peers.work import values
from tests.benchmarks.rows import Bench, Result, Row, samples

APP = Path(resident_app.__file__)
_PARTS = 10


def measure_idle_tasks(bench: Bench) -> Iterator[Result]:
    """A worker with a thousand tasks and nothing to read: its share of a core, and its memory."""
    with bench.place() as place:
        with Log(place / "data", create=True) as log:
            log.create_topic(resident_app.added.name, bench.scale.idle_tasks)
        with processes.worker(place / "data", APP) as pid:
            time.sleep(bench.scale.idle_s / 4)  # The first commits of a thousand new tasks are no idleness.
            before, started = processes.cpu_seconds(pid), time.perf_counter()
            time.sleep(bench.scale.idle_s)
            used = (processes.cpu_seconds(pid) - before) / (time.perf_counter() - started)
            yield samples("idle tasks", [used * 100], "%", below=1)
            yield samples("idle tasks' memory", [processes.memory_bytes(pid) / 1e6], "MB")


def measure_growth(bench: Bench) -> Iterator[Result]:
    """What a worker has in memory after a tenth of the records, and how much more after all of them."""
    part = bench.scale.resident_records // _PARTS
    data = values(part)
    with bench.place() as place:
        with Log(place / "data", create=True) as log:
            partition = log.partition(log.create_topic(resident_app.added.name, 1), 0)
            for _ in range(_PARTS):
                batches = encode((NewRecord(None, value, 0) for value in data), max_batch_bytes=256 << 10)
                log.append(partition, batches).result()
        command = processes.command("worker", "-A", str(APP), "--data", str(place / "data"), "--until-idle")
        environment = {**processes.environment(), resident_app.EVERY: str(part)}
        subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, check=True)
        with resident_app.app.opened(place / "data"):
            taken = resident_app.resident.read()
            found = [count / 1e6 for count in taken]
    assert len(found) == _PARTS, f"{len(found)} of {_PARTS} parts were handled"
    yield samples("memory growth", [found[-1] - found[0]], "MB", below=20)


ROWS = [Row("idle-tasks", measure_idle_tasks), Row("memory-growth", measure_growth)]
