"""Jobs whose worker is killed, at every operation of their plans and commits and at random moments, end exact.

Every record is in exactly one run, the ends of a plan never move, chunks keep their numbers, and tables and outputs are
a plain fold. A share of the operations is tried, another one with each seed; with FRAMEWORK_TORTURE=1 all of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.log_power import TORTURE, in_memory
from tests.faults.test_commit import finish

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).with_name("job_cases.py")
SHARES = {"chunked": 8, "looped": 32, "whole": 16}
"""One in so many operations is tried of each kind of job."""
KILLS = 200 if TORTURE else 8
BROKEN = {
    "plan-late": "chunked",
    "progress-apart": "chunked",
    "position-apart": "whole",
    "position-forgotten": "chunked",
}
"""What is broken on purpose, and the job that shows it."""
NEEDED = {"write commit", "sync commit", "write log", "sync log", "write shared durable mark", "write outbox deletion"}

pytestmark = pytest.mark.slow


@pytest.fixture
def directory() -> Iterator[Path]:
    """In memory where there is such a place: a killed process loses nothing there either, and hundreds start faster."""
    with tempfile.TemporaryDirectory(prefix="framework-jobs-", dir=in_memory()) as path:
        yield Path(path)


def cases(*arguments: object) -> dict[str, Any]:
    """What the cases have found, in a process without threads, which can fork."""
    command = [sys.executable, str(CASES), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return finish(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment))


def test_a_job_killed_anywhere_in_its_plan_and_commits_loses_and_doubles_nothing(
    directory: Path, seed: int, report: Callable[[str], None]
) -> None:
    """Of a scheduled and of a manual run; more input comes before the restart, and another run behind it."""
    hits, failures, points = Counter[str](), list[str](), set[str]()
    for job, share in SHARES.items():
        (directory / job).mkdir()
        found = cases("seams", directory / job, job, 1 if TORTURE else share, seed)
        hits.update(found["hits"])
        points |= set(found["points"])
        failures += found["failures"]
    table = [f"{hits[f'before {point}']:7}  {hits[f'after {point}']:5}  {point}" for point in sorted(points)]
    report(" before  after  killed at\n" + "\n".join(table))
    assert failures == []
    assert points >= NEEDED
    assert sum(hits.values()) > 15


@pytest.mark.parametrize("mutation", BROKEN)
def test_plans_and_commits_broken_on_purpose_are_found(directory: Path, mutation: str) -> None:
    """A plan that is written down late, progress or position of a chunk beside its commit, or not at all."""
    assert cases("seams", directory, BROKEN[mutation], 1, 0, mutation)["failures"]


def test_jobs_killed_at_random_moments_while_producers_append_end_exact(
    directory: Path, seed: int, report: Callable[[str], None]
) -> None:
    """Three jobs, which are due, wanted, cancelled, and raise; each resumed run keeps its plan and its chunks."""
    found = cases("moments", directory, KILLS, seed)
    report(f"killed at {found['killed']} moments, seed {seed}: {found['plans']} plans, {found.get('counts')}")
    assert (found["killed"], found["status"], found["wrong"]) == (KILLS, 0, None)
    assert found["counts"]["resumed"]
    assert found["plans"] > KILLS
