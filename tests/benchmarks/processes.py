"""Real processes of the command line, watched from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import framework
from tests.benchmarks.usage import cpu_seconds as cpu_seconds
from tests.benchmarks.usage import memory_bytes as memory_bytes

ROOT = Path(framework.__file__).parent.parent
APP = Path(__file__).with_name("latency_app.py")


def command(*arguments: str) -> list[str]:
    """`framework` with *arguments*, of this checkout."""
    return [sys.executable, "-m", "framework", *arguments]


def environment() -> dict[str, str]:
    """Ours, with this checkout on the path."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@contextmanager
def worker(data: Path, app: Path = APP) -> Iterator[int]:
    """A worker of *app* that has started; its process id. It ends with the body, in order."""
    arguments: Sequence[str] = command("worker", "-A", str(app), "--data", str(data))
    process = subprocess.Popen(arguments, env=environment(), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        assert any(line.startswith("running") for line in lines), f"the worker ended with {process.wait()}"
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == 0, f"the worker ended with {process.returncode}"
