"""The doorbell rings when the shared file is written to, and keeps a ring that nobody waited for yet."""

from __future__ import annotations

import select
import sys
from pathlib import Path
from typing import Any

import pytest

from framework.log.doorbell import POLL_S, Doorbell

linux = pytest.mark.skipif(sys.platform != "linux", reason="without inotify the doorbell polls")


def rung(doorbell: Doorbell) -> bool:
    """Whether `wait` would return at once."""
    return bool(select.select([doorbell.fd], [], [], 0)[0])


@linux
def test_it_rings_when_a_high_watermark_or_the_catalogue_moves(open_log: Any, append: Any) -> None:
    log = open_log()
    doorbell = log.doorbell()
    topic = log.create_topic("t", 1)
    assert rung(doorbell)
    doorbell.drain()
    assert not rung(doorbell)
    append(log, log.partition(topic, 0), b"value")
    assert rung(doorbell)
    doorbell.wait(60)
    assert not rung(doorbell)
    doorbell.close()


@linux
def test_every_doorbell_rings_and_a_closed_one_may_be_closed_again(open_log: Any, append: Any) -> None:
    log = open_log()
    partition = log.partition(log.create_topic("t", 1), 0)
    bells = [log.doorbell() for _ in range(3)]
    append(log, partition, b"value")
    assert all(rung(bell) for bell in bells)
    for bell in [*bells, *bells]:
        bell.close()
    assert all(bell.polls for bell in bells)


def test_waiting_ends_at_its_timeout(open_log: Any) -> None:
    doorbell = open_log().doorbell()
    doorbell.wait(0)
    doorbell.wait(0.001)
    doorbell.close()


def test_with_nothing_to_watch_it_polls(tmp_path: Path) -> None:
    """As it does where the user has no inotify instance left."""
    doorbell = Doorbell(tmp_path / "missing", -1)
    assert doorbell.polls
    doorbell.wait(3600)  # Returns after POLL_S.
    doorbell.drain()
    doorbell.close()
    assert POLL_S <= 0.1
