"""filter, group_by, a keyed table with outputs: killed before and after every operation, it ends exact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.log_power import in_memory

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).with_name("grouped_cases.py")

pytestmark = pytest.mark.slow


@pytest.fixture
def directory() -> Iterator[Path]:
    """In memory where there is such a place."""
    with tempfile.TemporaryDirectory(prefix="framework-faults-", dir=in_memory()) as path:
        yield Path(path)


def run(directory: Path, partitions: int, *mutations: str) -> dict[str, Any]:
    """What the cases found."""
    command = [sys.executable, str(CASES), str(directory), str(partitions), *mutations]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=280, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_stages_killed_anywhere_lose_and_double_nothing(directory: Path, report: Callable[[str], None]) -> None:
    found = run(directory, 1)
    hits, points = found["hits"], found["points"]
    rows = [f"{hits.get(f'before {p}', 0):7}  {hits.get(f'after {p}', 0):5}  {p}" for p in points]
    report(" before  after  killed at\n" + "\n".join(rows))
    assert {"write commit", "sync commit", "write log", "sync log", "write outbox deletion"} <= set(points)
    assert [p for p in points if not hits.get(f"before {p}") or not hits.get(f"after {p}")] == []
    assert found["failures"] == []


@pytest.mark.parametrize("mutation", ["no-replay", "no-dedup"])
def test_stages_broken_on_purpose_are_found(directory: Path, mutation: str) -> None:
    assert run(directory, 1, mutation)["failures"]
