"""What a running process uses, as Linux tells it; the framework is not imported here."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

_SCHEDULED = 2
"""CPUCLOCK_SCHED: what the scheduler counts."""


def cpu_seconds(pid: int) -> float:
    """What all its threads have used of the processors."""
    # The clock that clock_getcpuclockid(3) names, which Python lacks; /proc tells only ticks of 10 ms.
    return time.clock_gettime((~pid << 3) | _SCHEDULED)


def memory_bytes(pid: int) -> int:
    """What it has in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_memory_bytes(pid: int) -> int:
    """The most that it has had in memory."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found, f"process {pid} has ended"
    return int(found[1]) * 1024
