"""Checkpoints are whole or not there, one an hour, as many as are wanted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from framework.log import Log
from framework.log.files import Files
from framework.state.checkpoints import INTERVAL_MS, Checkpoint, Checkpoints, checkpoints
from framework.state.database import Database, Snapshot
from framework.state.errors import StateFailed
from framework.state.store import Commit, Store
from tests.log.conftest import ManualClock

CHECKPOINTS = 5


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def log(open_log: Callable[..., Log], clock: ManualClock) -> Log:
    return open_log(clock=clock)


@pytest.fixture
def store(log: Log, open_store: Callable[..., Store]) -> Store:
    store = open_store(log)
    put(store, 0)
    return store


def put(store: Store, number: int) -> None:
    store.commit(Commit(changes=[(b"t%d" % number, b"%d" % number)]))


def rows_in(checkpoint: Checkpoint) -> list[bytes]:
    snapshot = Snapshot(checkpoint.path)
    try:
        return [value for _, value in snapshot.scan(b"t")]
    finally:
        snapshot.close()


def test_a_checkpoint_holds_what_was_committed_and_nothing_later(log: Log, store: Store) -> None:
    made = Checkpoints(log, keep=2).make(store)
    put(store, 1)
    assert made is not None
    assert rows_in(made) == [b"0"]
    assert checkpoints(log.path, "0") == [made]
    assert made.path == log.path / "state" / "checkpoints" / "0" / "20231114T221320.000Z"
    assert made.size_bytes > 0


def test_it_shares_the_files_of_the_database(log: Log, store: Store) -> None:
    made = Checkpoints(log, keep=2).make(store)
    assert made is not None
    tables = list(made.path.glob("*.sst"))
    assert tables
    assert all(table.stat().st_nlink > 1 for table in tables)


def test_the_database_can_be_closed_and_opened_after_it(log: Log, store: Store, data: Path) -> None:
    """The object that makes a checkpoint keeps RocksDB's lock for as long as it lives."""
    Checkpoints(log, keep=2).make(store)
    store.close()
    Database(data / "state" / "0").close()


def test_one_is_due_every_hour_also_across_a_restart(log: Log, store: Store, clock: ManualClock) -> None:
    made = Checkpoints(log, keep=2)
    assert made.is_due(store)
    made.make(store)
    for one in (made, Checkpoints(log, keep=2)):
        assert not one.is_due(store)
        clock.ms += INTERVAL_MS - 1
        assert not one.is_due(store)
        clock.ms += 1
        assert one.is_due(store)
        clock.ms -= INTERVAL_MS


def test_a_clock_that_was_set_back_does_not_stop_them(log: Log, store: Store, clock: ManualClock) -> None:
    made = Checkpoints(log, keep=3)
    made.make(store)
    clock.ms -= 100 * INTERVAL_MS
    assert made.is_due(store)
    put(store, 1)
    assert made.make(store) is not None
    assert not made.is_due(store)


def test_the_oldest_go(log: Log, store: Store, clock: ManualClock) -> None:
    made = Checkpoints(log, keep=2)
    for number in range(1, 5):
        put(store, number)
        made.make(store)
        clock.ms += INTERVAL_MS
    assert [rows_in(each)[-1] for each in checkpoints(log.path, "0")] == [b"3", b"4"]


def test_nothing_written_means_no_new_one(log: Log, store: Store, clock: ManualClock) -> None:
    """Or an idle day would push out all that differ."""
    made = Checkpoints(log, keep=2)
    made.make(store)
    clock.ms += INTERVAL_MS
    assert made.make(store) is None
    assert not made.is_due(store)
    assert len(checkpoints(log.path, "0")) == 1


def test_none_are_made_and_none_are_kept_if_none_are_wanted(log: Log, store: Store) -> None:
    Checkpoints(log, keep=1).make(store)
    none = Checkpoints(log, keep=0)
    assert not none.is_due(store)
    none.clean()
    assert checkpoints(log.path, "0") == []


class Kill(BaseException):
    """Stands for the end of the process."""


class KilledFiles(Files):
    """Files of a process that is killed at the operation number *left*."""

    def __init__(self) -> None:
        self.left: int | None = None

    def _step(self) -> None:
        if self.left is not None:
            if self.left == 0:
                raise Kill
            self.left -= 1

    def fdatasync(self, fd: int) -> None:
        self._step()
        super().fdatasync(fd)

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        super().rename(source, target)

    def sync_directory(self, path: Path) -> None:
        self._step()
        super().sync_directory(path)


def test_killed_at_any_moment_there_are_only_whole_ones(
    open_log: Callable[..., Log], open_store: Callable[..., Store], clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one is made and the oldest is removed; nobody cleans up after a kill."""
    monkeypatch.setattr("framework.state.checkpoints.shutil.rmtree", lambda path, ignore_errors=False: None)
    files, kills = KilledFiles(), 0
    log = open_log(clock=clock, files=files)
    store = open_store(log)
    made = Checkpoints(log, keep=2)
    for step in range(40):
        clock.ms += INTERVAL_MS
        # A row that each changes, so that RocksDB merges its files and does not pile them up.
        store.commit(Commit(changes=[(b"t0", b"0"), (b"t1", b"%d" % step)]))
        files.left = step
        try:
            made.make(store)
        except Kill:
            kills += 1
        files.left = None
        for each in checkpoints(log.path, "0"):
            assert rows_in(each)[0] == b"0"
    assert 8 < kills < 40


def test_what_a_kill_left_unfinished_is_removed(log: Log, store: Store) -> None:
    made = Checkpoints(log, keep=2).make(store)
    assert made is not None
    half = made.path.with_name("20231114T232320.000Z.tmp")
    half.mkdir()
    (half / "CURRENT").write_bytes(b"half")
    assert checkpoints(log.path, "0") == [made]
    Checkpoints(log, keep=2).clean()
    assert list(made.path.parent.iterdir()) == [made.path]


def test_a_disk_that_refuses_leaves_nothing_and_is_asked_again_in_an_hour(
    log: Log, store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Checkpoints(log, keep=2)
    with monkeypatch.context() as patch:
        patch.setattr(log.files, "fdatasync", full)
        with pytest.raises(OSError, match="full"):
            made.make(store)
    assert list((log.path / "state" / "checkpoints" / "0").iterdir()) == []
    assert not made.is_due(store)
    put(store, 1)
    clock.ms += INTERVAL_MS
    assert made.is_due(store)
    assert made.make(store) is not None


def full(_: int) -> None:
    raise OSError(28, "the disk is full")


def test_a_second_one_at_the_same_time_takes_the_place_of_the_first(log: Log, store: Store) -> None:
    made = Checkpoints(log, keep=2)
    made.make(store)
    put(store, 1)
    made.make(store)
    (one,) = checkpoints(log.path, "0")
    assert rows_in(one) == [b"0", b"1"]


def test_other_names_are_no_checkpoints(log: Log, store: Store) -> None:
    Checkpoints(log, keep=2).make(store)
    folder = log.path / "state" / "checkpoints" / "0"
    for name in ("mine", "20231314T221320.000Z", "20231114T221320Z", "20231114T221320.0x0Z"):
        (folder / name).mkdir()
    assert len(checkpoints(log.path, "0")) == 1


def test_commits_and_checkpoints_at_once_do_not_disturb_each_other(log: Log, store: Store, clock: ManualClock) -> None:
    """Each commit writes two rows; no checkpoint has one of them."""
    made, enough = Checkpoints(log, keep=100), threading.Event()

    def commit() -> None:
        number = 0
        while not enough.is_set():
            value = b"%d" % number
            store.commit(Commit(changes=[(b"ta", value), (b"tb", value)]))
            number += 1

    thread = threading.Thread(target=commit)
    thread.start()
    seen = set[bytes]()
    try:
        while len(seen) < CHECKPOINTS:
            clock.ms += 1
            checkpoint = made.make(store)
            if checkpoint is not None and (rows := rows_in(checkpoint)[1:]):
                assert rows[0] == rows[1]
                seen.add(rows[0])
    finally:
        enough.set()
        thread.join()


def test_a_checkpoint_cannot_be_made_where_something_is(log: Log, store: Store, tmp_path: Path) -> None:
    with pytest.raises(StateFailed, match="no checkpoint of"):
        store.database.checkpoint(tmp_path)
