"""Every row of the benchmark runs, at sizes that say nothing, so that it cannot rot unnoticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.rows import QUICK, Result, Row
from tests.benchmarks.run import ROWS, run


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_runs_and_leaves_nothing_behind(row: Row, tmp_path: Path) -> None:
    shown: list[Result] = []
    results = run([row], QUICK, tmp_path, shown.append)
    assert shown == results
    assert results
    assert list(tmp_path.iterdir()) == []


def test_rows_have_names_of_their_own() -> None:
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("result", "missed"),
    [
        (Result("rate", 2.0, "M/s", 1.0, 3.0, at_least=2.0), False),
        (Result("rate", 1.9, "M/s", 1.0, 3.0, at_least=2.0), True),
        (Result("time", 0.9, "s", 0.1, 1.0, below=1.0), False),
        (Result("time", 1.0, "s", 0.1, 1.0, below=1.0), True),
    ],
)
def test_a_target_is_missed_on_its_wrong_side(result: Result, missed: bool) -> None:
    assert result.missed == missed
