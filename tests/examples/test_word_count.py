"""The word count example, run from a shell, counts what `collections.Counter` counts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = Path("examples", "word_count.py")
TEXT = """\
The log is the thing: a record goes in at the end,
and the log keeps it there. Don't ask the log to forget;

ask the table what the log has said.
"""

pytestmark = pytest.mark.slow


def run(*arguments: str | Path, data: Path, text: str = "") -> str:
    """Standard output of a Python command that finds its data directory in the environment."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "FRAMEWORK_DATA": str(data)},
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{arguments} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def count(data: Path) -> dict[str, int]:
    """The table of counts, once the worker has caught up."""
    run("-m", "framework", "worker", "-A", EXAMPLE, "--until-idle", data=data)
    scanned = run("-m", "framework", "tables", "scan", "counts", "-A", EXAMPLE, "--json", data=data)
    return {row["key"]: row["value"] for row in map(json.loads, scanned.splitlines())}


def test_words_are_counted_and_counting_goes_on_where_it_stopped(tmp_path: Path) -> None:
    words = Counter(re.findall(r"[a-z']+", TEXT.lower()))
    data = tmp_path / "data"
    run(EXAMPLE, data=data, text=TEXT)
    assert count(data) == words
    assert count(data) == words

    run(EXAMPLE, data=data, text=TEXT + "unheard-of\n")
    assert count(data) == words + words + Counter(["unheard", "of"])
