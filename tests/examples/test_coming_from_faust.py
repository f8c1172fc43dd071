"""The session with a Faust app that the README shows is typed into two terminals, and prints what the README says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faust.stage import PYTHON, unless_missing

ROOT = Path(__file__).parents[2]
LIMIT_S = 60
FENCE = re.compile(r"^```\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PROGRAMS = {"python": [str(PYTHON)], "framework": [sys.executable, "-m", "framework"]}
VARIABLE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z|\b0\.\d s\b|\bpartition \d+\b")
"""What differs from run to run."""

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("faust_is_here")]


@pytest.fixture
def faust_is_here() -> None:
    unless_missing()


def blocks() -> list[list[str]]:
    """The lines of both terminals."""
    [section] = re.findall(
        r"^## Coming from Faust$(.*?)^## ", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    return [block.splitlines() for block in FENCE.findall(section)]


def command(line: str) -> list[str]:
    """What to start for it."""
    program, *arguments = shlex.split(line)
    return [*PROGRAMS[program], *arguments]


def environment() -> dict[str, str]:
    """Without settings of ours."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FRAMEWORK_")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


@contextmanager
def running(line: str, folder: Path) -> Iterator[Iterator[str]]:
    """What a command prints as it does; it is ended as by Ctrl-C."""
    process = subprocess.Popen(
        command(line),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    killer = threading.Timer(LIMIT_S, process.kill)
    killer.start()
    assert process.stdout is not None
    try:
        yield (line.rstrip("\n") for line in process.stdout)
    finally:
        process.terminate()
        left, _ = process.communicate()
        killer.cancel()
    assert (process.returncode, left) == (0, "")


def typed(line: str, folder: Path) -> list[str]:
    """All that a command prints."""
    done = subprocess.run(
        command(line),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()


def test_a_faust_app_and_an_agent_beside_it_show_what_the_readme_says(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    one, two = blocks()
    with running(one[0].removeprefix("$ "), tmp_path) as worker:
        prints, shown = iter(one[1:]), list[str]()
        for line in two:
            if line.startswith("$ "):
                shown += [line, *typed(line[2:], tmp_path)]
                if "topics send" in line:
                    assert next(worker) == next(prints)
        assert list(prints) == []
    assert [VARIABLE.sub("...", line) for line in shown] == [VARIABLE.sub("...", line) for line in two]


def test_the_line_that_the_readme_changes_is_that_of_the_example() -> None:
    [line] = re.findall(r"^app = faust\.App.*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert line in (ROOT / "examples" / "faust_app.py").read_text().splitlines()
