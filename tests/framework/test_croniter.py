"""Every croniter that pyproject.toml allows gives the same instants: 5, which some need, and the newest."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from framework.schedule import EPOCH, Schedule

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CRONITER_5 = ROOT / ".venv" / "croniter-5"
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Beirut", "Africa/Casablanca"]
DAYS = ["* * *", "1 * *", "31 * *", "29 2 *", "15,L * *", "L 2 *", "* 2,9 *", "* * 0", "1 * FRI", "* * 2#3", "* * 1#5"]
HOURS = ["0 *", "*/7 2", "10-50/20 */5", "30 2", "59 23"]

PREAMBLE = """
import sys
from pathlib import Path
from importlib.metadata import version
import croniter
assert Path(croniter.__file__).is_relative_to(sys.argv[1]), croniter.__file__
assert version("croniter").startswith("5."), version("croniter")
"""


def fires() -> list[str]:
    """Instants due in all years until 2040, looked for ahead and back."""
    found = []
    for zone in ZONES:
        for line in [f"{hours} {days}" for hours in HOURS for days in DAYS]:
            schedule, now = Schedule.parse(line, zone), EPOCH.replace(year=2024)
            for _ in range(12):
                now = schedule.next_after(now)
                back = schedule.previous_at_or_before(now.replace(year=now.year + 1, day=28))
                found.append(f"{line} {zone} {now:%Y-%m-%dT%H:%M:%S} {back:%Y-%m-%dT%H:%M:%S}")
                now = back
    return found


def with_croniter_5(code: str) -> str:
    """What *code* prints in a process that imports croniter 5."""
    if not (CRONITER_5 / "croniter").is_dir():
        pytest.fail(f"{CRONITER_5.relative_to(ROOT)} is missing; run `make .venv/croniter-5.stamp`", pytrace=False)
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + code, str(CRONITER_5)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(CRONITER_5)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_schedules_hold_with_croniter_5() -> None:
    """All of test_schedule.py, by a pytest of its own."""
    files = ["tests/framework/test_schedule.py", "tests/framework/test_cron.py"]
    arguments = ["--quiet", "-p", "no:cacheprovider", *files]
    assert " passed" in with_croniter_5(f"import pytest; sys.exit(pytest.main({arguments!r}))")


def test_croniter_5_and_the_newest_give_the_same_thousands_of_instants() -> None:
    assert int(version("croniter").partition(".")[0]) >= 7
    code = "from tests.framework.test_croniter import fires; print(*fires(), sep='\\n')"
    ours = fires()
    assert with_croniter_5(code).splitlines() == ours
    assert len(ours) == 3960
