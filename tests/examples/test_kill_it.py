"""The lines under "Kill it" in the README, pasted into a shell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COUNTED = re.compile(r"(\d+) payments of (\d+) cents, (\d+) receipts, (\d+) different")


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_counts_two_thousand_of_two_thousand(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    [section] = re.findall(r"^## Kill it$(.*?)^## ", readme, re.DOTALL | re.MULTILINE)
    [script] = re.findall(r"^```bash\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, command in {"python": "", "framework": "-m framework"}.items():
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
        (tools / name).chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FRAMEWORK_")}
    environment |= {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-e"],
        input=script,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    killed, whole = ([int(number) for number in line] for line in COUNTED.findall(done.stdout))
    assert 0 < killed[0] < 2000, f"it was not killed in the middle:\n{done.stdout}\n{done.stderr}"
    assert whole == [2000, 99000, 2000, 2000]
    shown = [[int(number) for number in line] for line in COUNTED.findall(section)]
    assert shown[1] == whole
