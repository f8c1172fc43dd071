"""What the tests of state share: a log, stores that are closed, databases that crash, real child processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rocksdict import DbClosedError

from framework.log import Log, NewRecord, Partition, SystemRandom, decode
from framework.state.database import Database
from framework.state.rows import Change
from framework.state.store import Store
from tests.log.conftest import Child


class Crash(Exception):
    """Stands for the end of the process: whoever gets it drops the store, without closing it."""


class CrashingDatabase(Database):
    """A real RocksDB that stops at an operation: `left` more writes and syncs succeed."""

    left: int | None = None
    done: list[str]

    def __init__(self, path: Path) -> None:
        self.done = []
        super().__init__(path)

    def write(self, changes: Sequence[Change]) -> None:
        self._step("write")
        super().write(changes)

    def sync(self) -> None:
        self._step("sync")
        super().sync()

    def _step(self, name: str) -> None:
        if self.left is not None:
            if self.left == 0:
                raise Crash(name)
            self.left -= 1
        self.done.append(name)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Where the data directory of a test is, or will be."""
    return tmp_path / "data"


@pytest.fixture
def open_log(data: Path) -> Iterator[Callable[..., Log]]:
    """Opens the data directory; closed after the test."""
    opened: list[Log] = []

    def open_it(**options: Any) -> Log:
        opened.append(Log(data, **{"create": True, **options}))
        return opened[-1]

    yield open_it
    for log in opened:
        log.close()


@pytest.fixture
def log(open_log: Callable[..., Log]) -> Log:
    """The open log of the data directory."""
    return open_log()


@pytest.fixture
def open_store(data: Path) -> Iterator[Callable[..., Store]]:
    """Opens shard 0 of the data directory on a log; what a test leaves open is dropped after it."""
    opened: list[Store] = []

    def open_it(log: Log, **options: Any) -> Store:
        opened.append(Store(data / "state" / "0", log, SystemRandom().token, **options))
        return opened[-1]

    yield open_it
    for store in opened:
        with suppress(DbClosedError):
            store.database.close()


@pytest.fixture
def child() -> Iterator[Callable[..., Child]]:
    """Starts child processes, which talk in lines; none outlives the test."""
    started: list[Child] = []

    def start(script: str, *arguments: object) -> Child:
        started.append(Child(script, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.close()


def numbered(*numbers: int) -> list[NewRecord]:
    """Records that hold a number each."""
    return [NewRecord(None, b"%d" % number, 0) for number in numbers]


def numbers_in(log: Log, partition: Partition) -> list[int]:
    """The numbers of all records, once everything written is durable."""
    log.sync(partition).result(60)
    found: list[int] = []
    reader = log.reader(partition, partition.log_start)
    while batches := reader.read().batches:
        found += [int(record.value or b"") for _, batch in batches for record in decode(batch)]
    reader.close()
    return found
