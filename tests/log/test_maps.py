"""Maps of the shared file: each has a descriptor of its own, and closing any drops every lock of the process."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framework.log import Log
from framework.log.errors import LogClosed
from framework.log.locks import SHARD_LOCK
from framework.log.shared import SLOTS_STEP

ASK = """
shared, _ = open_shared(Path(sys.argv[1]) / "shared", Files(), boot_id())
say(shared.holder(SHARD_LOCK))
"""
IMPORTS = """
from framework.log.locks import SHARD_LOCK
from framework.log.machine import boot_id
from framework.log.shared import open_shared
"""


def held_by(child: Any, directory: Path) -> str:
    """Who has the lock on shard 0, as another process sees it."""
    return str(child(IMPORTS + ASK, directory).hear())


def test_locks_outlive_the_map_of_a_shared_file_that_has_grown(directory: Path, open_log: Any, child: Any) -> None:
    log = open_log()
    assert log.shared.try_own(SHARD_LOCK) is None
    one = child("say(os.getpid())")
    assert held_by(child, directory) not in ("None", one.hear())
    log.partition(log.create_topic("large", SLOTS_STEP + 1), SLOTS_STEP).sync()
    gc.collect()
    assert held_by(child, directory) != "None"


def test_locks_outlive_an_earlier_log_of_the_same_directory(directory: Path, open_log: Any, child: Any) -> None:
    """It may be collected at any time: Python frees what refers to each other when it likes."""
    with Log(directory, create=True) as log:
        log.create_topic("t", 1)
        held = [log]
        held.append(held)  # type: ignore[arg-type]  # a circle
    again = open_log()
    assert again.shared.try_own(SHARD_LOCK) is None
    del log, held
    gc.collect()
    assert held_by(child, directory) != "None"


def test_a_closed_log_says_so_and_reads_nothing(open_log: Any) -> None:
    log = open_log()
    partition = log.partition(log.create_topic("t", 1), 0)
    log.close()
    asked: list[Callable[[], int]] = [lambda: partition.high_watermark, lambda: log.catalogue_version]
    for ask in asked:
        with pytest.raises(LogClosed, match="is closed"):
            ask()
