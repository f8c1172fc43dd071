"""The pytest plugin as an installed distribution registers it: a fixture that costs nothing until a test uses it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
pythonpath = .
filterwarnings = error
"""
APP = '''
"""A project's app."""

from framework import App, Stream

app = App("shop")
numbers, doubled = app.topic("numbers", int), app.topic("doubled", int)


@app.agent(numbers)
async def double(stream: Stream[int]) -> None:
    async for number in stream:
        doubled.send(2 * number)
'''
UNUSED = '''
"""Tests of something else."""

import sys


def test_nothing_is_imported():
    assert "framework_pytest" in sys.modules
    assert not [name for name in sys.modules if name.partition(".")[0] in ("framework", "rocksdict", "aiokafka")]
'''
USED = '''
"""Tests of the app."""

from datetime import UTC, datetime

import pytest
from app import app, doubled, numbers


@pytest.mark.parametrize("named", [None, "app", "app:app", app])
async def test_numbers_are_doubled(testing, named):
    async with testing(named, start=datetime(2026, 1, 1, tzinfo=UTC)) as t:
        assert t.app is app
        numbers.send(21)
        await t.idle()
        assert t.sent(doubled) == [42]
        assert t.clock.now == datetime(2026, 1, 1, tzinfo=UTC)
'''

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder of a user who has the distribution installed."""
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    installed = tmp_path / "site" / "installed-1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: installed\nVersion: 1\n")
    lines = [f"{name} = {module}" for name, module in entries.items()]
    (installed / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines, ""]))
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pytest.ini").write_text(SETTINGS)
    (folder / "app.py").write_text(APP)
    return folder


def run_tests(project: Path, text: str) -> str:
    """What pytest prints for a file of tests with *text*, which have to pass."""
    (project / "test_app.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": f"{project.parent / 'site'}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_that_does_not_use_the_fixture_imports_nothing(project: Path) -> None:
    assert "1 passed" in run_tests(project, UNUSED)


def test_the_fixture_runs_the_app_of_the_project_or_the_one_it_is_given(project: Path) -> None:
    assert "4 passed" in run_tests(project, USED)
    assert not (project / "data").exists()
