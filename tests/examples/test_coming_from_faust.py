"""The session with a Faust app that the README shows is typed into two terminals, and prints what the README says."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faust.stage import PYTHON, unless_missing

ROOT = Path(__file__).parents[2]
LIMIT_S = 60
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PROGRAMS = {"python": [str(PYTHON)], "framework": [sys.executable, "-m", "framework"]}
VARIABLE = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d[.,]\d{3}|\b\d\.\d s\b|(?<=\] )\[\d+\]|^\d+@\d+")
"""What differs from run to run: times, process ids, partitions of records without a key."""
TERMINAL = re.compile(r"\x1b\[\?25[lh]|\x08")
"""What Faust does with the cursor."""
SAID_FIRST = ("framework ", "data ", "agent ", "running; ")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("faust_is_here")]


@pytest.fixture
def faust_is_here() -> None:
    unless_missing()


def blocks() -> list[list[str]]:
    """The lines of both terminals."""
    [section] = re.findall(
        r"^## Coming from Faust$(.*?)^## ", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    return [text.splitlines() for language, text in FENCE.findall(section) if not language]


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
    """What a command prints as it does; it is ended with SIGTERM, and prints nothing more."""
    process = subprocess.Popen(
        command(line), cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    killer = threading.Timer(LIMIT_S, process.kill)
    killer.start()
    assert process.stdout is not None
    try:
        yield (TERMINAL.sub("", line).rstrip() for line in process.stdout)
    finally:
        process.terminate()
        left, _ = process.communicate()
        killer.cancel()
    assert (process.returncode, TERMINAL.sub("", left)) == (0, "")


def done(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command that has ended."""
    return subprocess.run(
        command(line),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def typed(line: str, folder: Path) -> list[str]:
    """All that a command prints; of a worker of ours, how it ended."""
    ended = done(line, folder)
    assert ended.returncode == 0, ended.stdout
    return [line for line in TERMINAL.sub("", ended.stdout).splitlines() if not line.startswith(SAID_FIRST)]


def until(what: str, holds: Callable[[], bool]) -> None:
    """Look again and again; each look takes a command."""
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline, what


def has_topic(folder: Path) -> bool:
    """Whether the Faust app has come so far; whoever sends before makes the topic as our app declares it."""
    return done("framework topics show flights --data data/faust", folder).returncode == 0


def has_committed(folder: Path) -> bool:
    """Whether both apps have committed all that they handled, which Faust does every few seconds."""
    rows = typed("framework groups ls --json -A examples/faust_agent.py", folder)
    return not any(json.loads(row)["lag"] for row in rows)


def fixed(lines: list[str]) -> list[str]:
    """Without what differs from run to run."""
    return [VARIABLE.sub("...", line) for line in lines]


def test_a_faust_app_and_an_agent_beside_it_show_what_the_readme_says(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    one, two = blocks()
    with running(one[0].removeprefix("$ "), tmp_path) as worker:
        shown, printed = list[str](), list[str]()
        until("the topic", lambda: has_topic(tmp_path))
        for line in two:
            if line.startswith("$ framework groups"):
                until("the commits", lambda: has_committed(tmp_path))
            if line.startswith("$ "):
                shown += [line, *typed(line[2:], tmp_path)]
            if line.startswith("$ framework topics send"):
                printed.append(next(worker))
    assert fixed(printed) == fixed(one[1:])
    assert fixed(shown) == fixed(two)


def test_the_line_that_the_readme_changes_is_that_of_the_example() -> None:
    [line] = re.findall(r"^app = faust\.App.*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert line in (ROOT / "examples" / "faust_app.py").read_text().splitlines()
