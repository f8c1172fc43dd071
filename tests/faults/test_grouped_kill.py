"""A worker of a grouped agent killed with SIGKILL in the middle of its input, again and again, counts exactly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from framework.log import Log
from tests.faults import grouped_app
from tests.faults.test_kill import RECORDS, ROOT, fill, wait_for

KILLS = 10
APP = Path(__file__).with_name("grouped_app.py")
WANTED = [number for number in range(RECORDS) if grouped_app.wanted(number)]

pytestmark = pytest.mark.slow


def worker(data: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """`framework worker` in a process of its own."""
    command = [sys.executable, "-m", "framework", "worker", "-A", str(APP), "--data", str(data), *arguments]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)


def test_a_grouped_agent_killed_inside_its_input_counts_every_record_once(
    tmp_path: Path, report: Callable[[str], None]
) -> None:
    """Each kill is checked to fall strictly inside the input, by the outputs that are there."""
    data = tmp_path / "data"
    moments = []
    with Log(data, create=True) as log:
        fill(log)
        topic = log.create_topic("counted", 2)
        outputs = [log.partition(topic, number) for number in range(2)]
        for kill in range(KILLS):
            with worker(data) as process:
                wait_for(log, outputs, 1 + len(WANTED) * kill // (KILLS + 3), process)
                process.send_signal(signal.SIGKILL)
                process.communicate()
            moments.append(sum(partition.high_watermark for partition in outputs))
        report(f"killed at {moments} of {len(WANTED)} outputs")
        assert max(moments) < len(WANTED)
    with worker(data, "--until-idle") as process:
        assert process.communicate()[1] is not None
    assert process.returncode == 0
    with grouped_app.app.opened(data, create=False):
        counts = dict(grouped_app.counts.items())
        found = Counter(map(tuple, grouped_app.counted.read()))
    expected = Counter(map(grouped_app.group, WANTED))
    assert counts == expected
    assert found == Counter((key, n) for key, count in expected.items() for n in range(1, count + 1))
