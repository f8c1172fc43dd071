"""What all tests share: one seed a run, printed, and which files hold tests."""

from __future__ import annotations

import os
import platform
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import settings

SEED_VARIABLE = "FRAMEWORK_TEST_SEED"
REPORT_VARIABLE = "FRAMEWORK_TORTURE_REPORT"
"""Set by `make torture` and nobody else: a run of some of its tests must not replace the report of all."""
SEED = int(os.environ.get(SEED_VARIABLE) or secrets.randbits(32))
os.environ[SEED_VARIABLE] = str(SEED)  # The processes that share the tests have the same.
TESTS = Path(__file__).parent
SESSION_START = time.time()

# How fast a machine is says nothing about a property.
settings.register_profile("framework", deadline=None, print_blob=True)
settings.load_profile("framework")


@pytest.fixture
def seed() -> int:
    """What a test draws its random numbers from; a failing test shows how to draw the same again."""
    print(f"to repeat this run: {SEED_VARIABLE}={SEED}")
    return SEED


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Takes text that is printed at the end of the run, whether the test passes or not."""
    return lambda text: record_property("report", text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests gave to `report`; `make torture` also writes it down."""
    reports = [
        (test.nodeid, text)
        for outcome in ("passed", "failed")
        for test in terminalreporter.stats.get(outcome, [])
        for name, text in getattr(test, "user_properties", [])
        if name == "report"
    ]
    for test_name, text in reports:
        terminalreporter.section(test_name)
        terminalreporter.write_line(text)
    if os.environ.get(REPORT_VARIABLE) == "1":
        _write_down(terminalreporter, sorted(reports))


def _write_down(terminalreporter: pytest.TerminalReporter, reports: list[tuple[str, str]]) -> None:
    """Replace the report of the last torture."""
    counts = {name: len(terminalreporter.stats.get(name, [])) for name in ("passed", "failed", "error", "skipped")}
    minutes = (time.time() - SESSION_START) / 60
    lines = [
        "# The last `make torture`",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, seed {SEED}, {platform.system()} on {platform.machine()}, "
        f"Python {platform.python_version()}, {os.cpu_count()} cores, {minutes:.0f} minutes: "
        + ", ".join(f"{count} {name}" for name, count in counts.items() if count or name in ("passed", "failed"))
        + ".",
    ]
    for test_name, text in reports:
        lines += ["", f"## {test_name.partition('tests/faults/')[2] or test_name}", "", "```", text, "```"]
    (TESTS / "faults" / "REPORT.md").write_text("\n".join(lines) + "\n")


def pytest_report_header() -> str:
    """The seed, at the head of every run."""
    return f"{SEED_VARIABLE}={SEED}"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave alone the programs that tests start or check: looking for doctests would import them."""
    if collection_path.suffix != ".py" or not collection_path.is_relative_to(TESTS):
        return None
    return True if not collection_path.name.startswith(("test_", "conftest")) else None
