"""A worker killed with SIGKILL in the middle of its input, again and again, ends exact."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from framework.log import Log, NewRecord, Partition, encode, partition_of
from tests.faults import killed_app
from tests.faults.log_power import TORTURE, in_memory
from tests.faults.test_commit import finish

RECORDS = 300_000
KILLS = 20
MOMENTS = 1000 if TORTURE else 100
HERE = Path(__file__).parent
ROOT = HERE.parents[1]

pytestmark = pytest.mark.slow


def worker(data: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """`framework worker` in a process of its own."""
    command = [sys.executable, "-m", "framework", "worker", "-A", str(HERE / "killed_app.py"), "--data", str(data)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*command, *arguments], env=environment, stderr=subprocess.PIPE)


def fill(log: Log) -> None:
    """All the input, in the partitions where the app would put it."""
    topic = log.create_topic("numbers", 4)
    records: list[list[NewRecord]] = [[] for _ in range(4)]
    for number in range(RECORDS):
        key = b"k%d" % (number % 97)
        records[partition_of(key, 4)].append(NewRecord(key, b"%d" % number, 0))
    for number, rows in enumerate(records):
        log.append(log.partition(topic, number), encode(rows, max_batch_bytes=1 << 16)).result()


def wait_for(log: Log, outputs: list[Partition], count: int, process: subprocess.Popen[bytes]) -> int:
    """Return, with how many there are, when *count* outputs are in the log; another process puts them there."""
    doorbell = log.doorbell()
    try:
        while (found := sum(partition.high_watermark for partition in outputs)) < count:
            assert process.poll() is None, process.communicate()[1].decode()
            doorbell.wait(1.0)
    finally:
        doorbell.close()
    return found


def test_a_worker_killed_twenty_times_inside_its_input_counts_every_record_once(
    tmp_path: Path, report: Callable[[str], None]
) -> None:
    """Two agents in a row, two tables, four partitions; each kill is checked to fall strictly inside the input."""
    data = tmp_path / "data"
    moments = []
    with Log(data, create=True) as log:
        fill(log)
        topic = log.create_topic("doubled", 2)
        outputs = [log.partition(topic, number) for number in range(2)]
        for kill in range(KILLS):
            with worker(data) as process:
                wait_for(log, outputs, 1 + RECORDS * kill // (KILLS + 2), process)
                process.send_signal(signal.SIGKILL)
                process.communicate()
            moments.append(sum(partition.high_watermark for partition in outputs))
        report(f"killed at {moments} of {RECORDS} outputs")
        assert max(moments) < RECORDS
    with worker(data, "--until-idle") as process:
        assert process.communicate()[1] is not None
    assert process.returncode == 0
    app = killed_app.app
    with app.opened(data, create=False):
        sums, counts = dict(killed_app.sums.items()), dict(killed_app.counts.items())
        found = Counter(killed_app.doubled.read())
    expected_sums, expected_counts = Counter[str](), Counter[str]()
    for number in range(RECORDS):
        expected_sums[f"k{number % 97}"] += number
        expected_counts[f"k{2 * number % 89}"] += 1
    assert found == Counter(range(0, 2 * RECORDS, 2))
    assert sums == expected_sums
    assert counts == expected_counts


def test_three_agents_in_a_row_that_raise_and_are_killed_at_a_hundred_moments_end_exact(
    seed: int, report: Callable[[str], None]
) -> None:
    """Filter, sum by key with outputs, count of these: nothing twice, nothing lost. 1,000 moments in a torture."""
    with tempfile.TemporaryDirectory(prefix="framework-kills-", dir=in_memory()) as directory:
        command = [sys.executable, str(HERE / "kill_cases.py"), f"{directory}/data", str(MOMENTS), str(seed)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        pipe = subprocess.PIPE
        found = finish(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment))
    report(f"killed at {found['moments']} moments, seed {seed}: {found['found']}")
    assert (found["moments"], found["status"]) == (MOMENTS, 0)
    assert found["found"].endswith(" records")
