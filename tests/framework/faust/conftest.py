"""What the tests of the parts of the transport share that do without Faust: a directory with one topic."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from framework.log import Log
from tests.framework.faust.group_of import PARTITIONS, TOPIC


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """The directory."""
    with Log(tmp_path / "data", create=True) as log:
        log.create_topic(TOPIC, PARTITIONS)
        yield log
