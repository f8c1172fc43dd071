"""The session with kcat that the README shows is typed into two terminals, and prints what the README says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop.clients import CLIENTS, kcat_environment
from tests.interop.driver import ROOT
from tests.interop.install import KCAT
from tests.interop.stage import serving

ADDRESS = "127.0.0.1:9092"
LIMIT_S = 60
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
PROGRAMS = {
    "framework": [sys.executable, "-m", "framework"],
    "kcat": [str(KCAT / "usr/bin/kcat")],
    "printf": ["printf"],
}


def blocks() -> list[list[str]]:
    """The lines of both terminals."""
    [section] = re.findall(r"^## Kafka's clients$(.*?)^## ", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    return [block.splitlines() for block in re.findall(r"^```\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)]


def typed(line: str, folder: Path) -> list[str]:
    """What a command prints, the output of each of its parts being the input of the next."""
    said, errors = "", ""
    for part in line.split(" | "):
        program, *arguments = shlex.split(part)
        done = subprocess.run(
            [*PROGRAMS[program], *arguments],
            cwd=folder,
            env={**kcat_environment(), "PYTHONPATH": str(ROOT)},
            input=said,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=True,
        )
        said, errors = done.stdout, done.stderr
    return [*said.splitlines(), *errors.splitlines()]


@pytest.mark.slow
def test_kcat_in_another_terminal_shows_what_the_readme_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := CLIENTS["kcat"].missing():
        pytest.skip(reason)
    for name in [name for name in os.environ if name.startswith("FRAMEWORK_")]:
        monkeypatch.delenv(name)
    one, two = blocks()
    assert one == ["$ framework broker", f"listen {ADDRESS}", "serving; SIGTERM or Ctrl-C stops it"]
    with serving(tmp_path) as served:
        shown: list[str] = []
        for line in two:
            if line.startswith("$ "):
                # Somebody may have the usual port.
                shown += [line, *typed(line[2:].replace(ADDRESS, served.address), tmp_path)]
    assert [TIME.sub("TIME", line) for line in shown] == [TIME.sub("TIME", line) for line in two]
