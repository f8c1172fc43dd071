"""A commit and the append of its outbox, killed before and after every write, sync and rename, end exact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.log_power import in_memory

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).with_name("commit_cases.py")
BATCHES = (1, 2, 10)
ROUNDS = 2
TIMEOUT_S = 900

pytestmark = pytest.mark.slow


@pytest.fixture
def directory() -> Iterator[Path]:
    """In memory where there is such a place: a killed process loses nothing there either, and hundreds start faster."""
    with tempfile.TemporaryDirectory(prefix="framework-faults-", dir=in_memory()) as path:
        yield Path(path)


def start(directory: Path, *arguments: object) -> subprocess.Popen[str]:
    """The cases of one number of batches, in a process without threads, which can fork."""
    directory.mkdir()
    command = [sys.executable, str(CASES), str(directory), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What the cases printed."""
    out, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    report: dict[str, Any] = json.loads(out)
    return report


def test_a_worker_killed_anywhere_in_a_commit_loses_and_doubles_nothing(
    directory: Path, report: Callable[[str], None]
) -> None:
    """Tables, offsets and outputs equal a plain fold, although more input comes before the restart."""
    reports = [finish(process) for process in [start(directory / f"{n}", n, ROUNDS) for n in BATCHES]]
    hits: Counter[str] = Counter()
    points: set[str] = set()
    for found in reports:
        hits.update(found["hits"])
        points.update(found["points"])
    table = [f"{hits[f'before {point}']:7}  {hits[f'after {point}']:5}  {point}" for point in sorted(points)]
    report(" before  after  killed at\n" + "\n".join(table))
    assert {
        "write commit",
        "sync commit",
        "write log",
        "sync log",
        "rename manifest",
        "write outbox deletion",
    } <= points
    assert [point for point in points if not hits[f"before {point}"] or not hits[f"after {point}"]] == []
    assert [failure for found in reports for failure in found["failures"]] == []


@pytest.mark.parametrize("mutation", ["swap", "no-replay", "no-dedup"])
def test_a_commit_broken_on_purpose_is_found(directory: Path, mutation: str) -> None:
    """Outbox before state, an outbox that is not appended again, a log that takes a batch twice."""
    report = finish(start(directory / mutation, 1, 1, mutation))
    assert report["hits"]
    assert report["failures"]
