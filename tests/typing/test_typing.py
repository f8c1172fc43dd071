"""What type checkers make of programs that use the framework: right ones pass, and wrong lines are found."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from mypy import api

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROGRAMS = sorted([*HERE.glob("pass_*.py"), *HERE.glob("fail_*.py")])
FOUND = re.compile(r"(?P<path>[^:]+):(?P<line>\d+): error: (?P<text>.*)  \[(?P<code>[a-z-]+)\]")
EXPECTED = re.compile(r"# error: (?P<codes>[a-z-]+(, [a-z-]+)*)$")
Fault = tuple[str, int, str]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[Fault, str]:
    """What `mypy --strict` finds in the programs, as a user's project would run it."""
    cache = tmp_path_factory.mktemp("mypy")
    options = ["--strict", "--config-file=", "--follow-imports=silent", "--explicit-package-bases"]
    options += ["--no-pretty", "--no-error-summary", f"--cache-dir={cache}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        output, errors, _ = api.run([*options, *(str(path.relative_to(ROOT)) for path in PROGRAMS)])
    assert not errors
    lines = [line for line in output.splitlines() if ": note: " not in line]
    matches = [FOUND.fullmatch(line) for line in lines]
    assert None not in matches, output
    return {(Path(m["path"]).name, int(m["line"]), m["code"]): m["text"] for m in matches if m}


@pytest.mark.slow
@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_mypy_finds_the_lines_that_are_wrong_and_no_others(path: Path, found: dict[Fault, str]) -> None:
    """A wrong line says so at its end: `# error: code`; programs named pass_ have none."""
    expected = {
        (path.name, number, code)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (match := EXPECTED.search(line))
        for code in match["codes"].split(", ")
    }
    assert bool(expected) == path.name.startswith("fail_")
    here = {fault for fault in found if fault[0] == path.name}
    unforeseen = [f"{name}:{line}: [{code}] {found[name, line, code]}" for name, line, code in here - expected]
    missed = [f"{name}:{line}: [{code}] was not found" for name, line, code in expected - here]
    assert not unforeseen + missed, "\n".join(sorted(unforeseen + missed))


@pytest.mark.parametrize(
    "path", [path for path in PROGRAMS if path.name.startswith("pass_")], ids=lambda path: path.stem
)
def test_what_passes_can_be_declared_and_touches_no_disk(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path))
    assert list(tmp_path.iterdir()) == []
