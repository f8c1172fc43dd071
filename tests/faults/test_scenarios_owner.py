"""The ways in which two workers get at one state, numbered as where they were first written down.

F21  a stopped worker: it goes on later, and its shards must still be its own
F31  what is left of a worker that has been killed: it keeps its shards for a moment
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from framework.log import Log
from framework.state.errors import ShardBusy
from framework.state.shards import Shards
from tests.log.conftest import Child

pytestmark = pytest.mark.slow
OWNS = """
from framework.state.shards import Shards
Shards(Log(sys.argv[1])).own_all()
say("owned")
hear()
"""


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """An empty log."""
    with Log(tmp_path / "data", create=True) as log:
        yield log


def test_f21_a_stopped_worker_keeps_its_shards_and_nobody_takes_them(log: Log) -> None:
    """There is no lease that could run out: what it wrote when it goes on again would destroy the new owner's state."""
    owner = Child(OWNS, log.path)
    try:
        assert owner.hear() == "owned"
        os.kill(owner.pid, signal.SIGSTOP)
        for _ in range(2):
            with pytest.raises(ShardBusy, match=f"process {owner.pid} owns"):
                Shards(log).own_all()
        owner.kill()
        shards = Shards(log)
        shards.own_all()
        shards.close()
    finally:
        owner.close()


def test_f31_a_start_waits_until_the_worker_before_it_is_dead(log: Log) -> None:
    """What is left of a worker that is ending keeps its shards for a moment; a start need not fail for that."""
    owner = Child(OWNS, log.path)
    shards = Shards(log)
    try:
        assert owner.hear() == "owned"
        with ThreadPoolExecutor(1) as thread:
            owned = thread.submit(shards.own_all, 60.0)
            with pytest.raises(TimeoutError):
                owned.result(0.2)
            owner.kill()
            owned.result(60)
    finally:
        owner.close()
        shards.close()
