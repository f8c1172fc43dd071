"""Without an environment that has Faust these tests are skipped; where CI says that it is CI, that is an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faust.stage import Stage, unless_missing


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """An empty data directory; whoever works on it is killed in the end."""
    unless_missing()
    with Stage(tmp_path) as made:
        yield made
