"""The session that the README shows is typed into two terminals, and prints what the README says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 60
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

pytestmark = pytest.mark.slow


class Terminal:
    """A command that is typed in a folder, and what appears below it, whether it is output or a log."""

    def __init__(self, command: str, folder: Path) -> None:
        """Start it; it is killed if it takes too long."""
        program, *arguments = command.removeprefix("$ ").split()
        start = {"python": [sys.executable], "framework": [sys.executable, "-m", "framework"]}[program]
        settings = {key: value for key, value in os.environ.items() if not key.startswith("FRAMEWORK_")}
        self.process = subprocess.Popen(
            [*start, *arguments],
            cwd=folder,
            env={**settings, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._killer = threading.Timer(LIMIT_S, self.process.kill)
        self._killer.start()

    def lines(self) -> Iterator[str]:
        """What it prints, as it does."""
        assert self.process.stdout is not None
        return (line.rstrip("\n") for line in self.process.stdout)

    def close(self) -> list[str]:
        """End it as Ctrl-C would; the lines that are left."""
        self.process.terminate()
        left = list(self.lines())
        self.process.communicate()
        self._killer.cancel()
        return left


def blocks() -> list[str]:
    """The code blocks of the section, in order: two programs and two terminals."""
    [section] = re.findall(r"^## Two terminals$(.*?)^## ", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    found = FENCE.findall(section)
    assert [language for language, _ in found] == ["python", "python", "", ""]
    assert re.findall(r"as `(\w+\.py)`", section) == ["app.py", "visit.py"]
    return [text for _, text in found]


def session(folder: Path, worker: list[str], visit: list[str]) -> None:
    """Both terminals once: each prints exactly what is expected, the first one from where it says that it runs."""
    first = Terminal(worker[0], folder)
    try:
        lines = first.lines()
        assert worker[1] in lines, "it never said that it runs"
        if visit:
            second = Terminal(visit[0], folder)
            try:
                assert list(second.lines()) == visit[1:]
            finally:
                second.close()
            assert second.process.returncode == 0
        assert [next(lines) for _ in worker[2:]] == worker[2:]
    finally:
        left = first.close()
    assert first.process.returncode == 0
    assert [line for line in left if line.startswith("hello")] == []


def test_two_terminals_show_what_the_readme_says(tmp_path: Path) -> None:
    app, visit, one, two = blocks()
    (tmp_path / "app.py").write_text(app)
    (tmp_path / "visit.py").write_text(visit)
    session(tmp_path, one.splitlines(), two.splitlines())

    while_stopped = Terminal("$ python visit.py", tmp_path)
    assert [line.split()[-1] for line in while_stopped.lines()] == ["3", "4", "5"]
    while_stopped.close()
    session(tmp_path, [*one.splitlines()[:2], "hello Ada, 3", "hello Grace, 2", "hello Ada, 4"], [])
