"""The database under a store: whole writes that survive a kill, scans that end where they should, reported damage."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
from rocksdict import DbClosedError

from framework.state import database as database_module
from framework.state.database import Database, Snapshot
from framework.state.errors import StateDamaged, StateFailed

ROWS_A_WRITE = 50


@pytest.fixture
def open_database(tmp_path: Path) -> Iterator[Callable[..., Database]]:
    """Opens a database; closed after the test."""
    opened: list[Database] = []

    def open_it(path: Path = tmp_path / "db") -> Database:
        opened.append(Database(path))
        return opened[-1]

    yield open_it
    for database in opened:
        with suppress(DbClosedError):
            database.close()


def copy_of(database: Database, name: str) -> Path:
    """The files of an open database as a kill would leave them, in a directory beside it."""
    target = database.path.with_name(name)
    shutil.copytree(database.path, target)
    return target


def the_file(path: Path, pattern: str) -> Path:
    """The largest file of a database whose name matches."""
    return max(path.glob(pattern), key=lambda file: file.stat().st_size)


def flip(file: Path, position: int) -> None:
    """Change one bit of a file."""
    with file.open("r+b") as opened:
        opened.seek(position)
        [byte] = opened.read(1)
        opened.seek(position)
        opened.write(bytes([byte ^ 1]))


# Rows.


def test_rows_are_written_changed_and_deleted_in_one_step(open_database: Any) -> None:
    database = open_database()
    database.write([(b"a", b"1"), (b"b", b"2"), (b"c", b"")])
    database.write([(b"a", b"3"), (b"b", None), (b"nothing", None)])
    assert [database.get(key) for key in (b"a", b"b", b"c", b"nothing")] == [b"3", None, b"", None]


def test_of_two_changes_of_a_row_in_one_write_the_last_counts(open_database: Any) -> None:
    database = open_database()
    database.write([(b"a", b"1"), (b"a", None), (b"a", b"2"), (b"b", b"1"), (b"b", None)])
    assert list(database.scan(b"")) == [(b"a", b"2")]


def test_rows_are_there_when_it_is_opened_again(open_database: Any) -> None:
    database = open_database()
    database.write([(b"a", b"1")])
    database.close()
    assert open_database().get(b"a") == b"1"


def test_a_row_that_is_not_there_is_found_missing_without_reading_what_lies_around_it(open_database: Any) -> None:
    """The filter of each file has to be there when it is opened again, too: this took 200 times as long without."""
    database = open_database()
    large = Random(7).randbytes(4 << 20)
    database.write([(b"a%d" % number, b"a row") for number in range(1000)] + [(b"x", large), (b"y", large)])
    database.flush()
    for _ in range(2):
        # A file is only looked into if the key lies between its first and its last one.
        beside, outside = ([b"%b%d" % (first, number) for number in range(500)] for first in (b"b", b"z"))
        assert seconds_of(database, beside) < 40 * seconds_of(database, outside)
        database.close()
        database = open_database()


def seconds_of(database: Database, keys: list[bytes]) -> float:
    """How long it takes to find that none of *keys* is there, once in three times without being interrupted."""
    tries = []
    for _ in range(3):
        started = time.perf_counter()
        assert not any(map(database.get, keys))
        tries.append(time.perf_counter() - started)
    return min(tries)


def test_a_scan_gives_the_rows_of_a_prefix_in_order(open_database: Any) -> None:
    database = open_database()
    keys = [b"s", b"t", b"t\0", b"ta", b"tb", b"t\xff", b"t\xff\xff", b"u"]
    database.write([(key, key * 2) for key in reversed(keys)])
    assert list(database.scan(b"t")) == [(key, key * 2) for key in keys[1:-1]]
    assert list(database.scan(b"t\xff")) == [(key, key * 2) for key in keys[5:7]]
    assert [key for key, _ in database.scan(b"")] == keys
    assert list(database.scan(b"v")) == []


def test_a_scan_begins_at_a_start_behind_the_prefix(open_database: Any) -> None:
    database = open_database()
    database.write([(b"t%d" % number, b"") for number in range(10)] + [(b"u5", b"")])
    assert [key for key, _ in database.scan(b"t", b"7")] == [b"t7", b"t8", b"t9"]
    assert [key for key, _ in database.scan(b"t", b"75")] == [b"t8", b"t9"]


def test_a_scan_sees_the_rows_of_its_beginning(open_database: Any) -> None:
    """A replay deletes the outbox that it reads, and a task writes a table while it lists its keys."""
    database = open_database()
    database.write([(b"x%d" % number, b"") for number in range(3)])
    scan = database.scan(b"x")
    assert next(scan) == (b"x0", b"")
    database.write([(b"x1", None), (b"x7", b"")])
    assert [key for key, _ in scan] == [b"x1", b"x2"]


# Kills.


def test_what_was_written_and_not_synced_survives_kill_9(tmp_path: Path, open_database: Any, child: Any) -> None:
    script = """
    from framework.state.database import Database
    database = Database(Path(sys.argv[1]))
    database.write([(b"a", b"1"), (b"b", b"2")])
    say("written")
    hear()
    """
    victim = child(script, tmp_path / "db")
    assert victim.hear() == "written"
    victim.kill()
    assert list(open_database().scan(b"")) == [(b"a", b"1"), (b"b", b"2")]


@pytest.mark.slow
def test_of_every_write_a_killed_process_leaves_all_or_nothing(
    tmp_path: Path, open_database: Any, child: Any, seed: int
) -> None:
    """And all of each one that returned. A write touches fifty rows and a counter."""
    script = """
    from framework.state.database import Database
    database, rows = Database(Path(sys.argv[1])), int(sys.argv[2])
    at = int(database.get(b"counter") or 0)
    while True:
        at += 1
        text = b"%d" % at
        database.write([(b"r%d" % row, text * 100) for row in range(rows)] + [(b"counter", text)])
        say(at)
    """
    chance = Random(seed)
    for _ in range(4):
        victim = child(script, tmp_path / "db", ROWS_A_WRITE)
        said = [victim.hear() for _ in range(chance.randrange(1, 100))]
        victim.kill()
        last = int([*said, *victim.hear_rest()][-1])
        database = open_database()
        counter = database.get(b"counter")
        assert int(counter) in (last, last + 1)
        assert {value for _, value in database.scan(b"r")} == {counter * 100}
        database.close()


def test_a_database_that_is_open_elsewhere_is_refused(open_database: Any) -> None:
    database = open_database()
    with pytest.raises(StateDamaged, match=f"cannot open the state in {database.path}: .*lock"):
        open_database()


# Snapshots.


@pytest.fixture
def snapshot_of() -> Iterator[Callable[[Path], Snapshot]]:
    """Opens a snapshot; closed after the test."""
    opened: list[Snapshot] = []

    def open_it(path: Path) -> Snapshot:
        opened.append(Snapshot(path))
        return opened[-1]

    yield open_it
    for snapshot in opened:
        snapshot.close()


def test_a_snapshot_sees_what_was_written_before_its_last_refresh(open_database: Any, snapshot_of: Any) -> None:
    database = open_database()
    database.write([(b"a", b"1"), (b"b", b"1")])
    snapshot = snapshot_of(database.path)
    database.write([(b"a", b"2"), (b"b", None), (b"c", b"2")])
    assert (snapshot.get(b"a"), list(snapshot.scan(b""))) == (b"1", [(b"a", b"1"), (b"b", b"1")])
    snapshot.refresh()
    assert (snapshot.get(b"a"), list(snapshot.scan(b""))) == (b"2", [(b"a", b"2"), (b"c", b"2")])


def test_a_snapshot_follows_a_database_through_any_number_of_restarts(open_database: Any, snapshot_of: Any) -> None:
    """What it once read from the write-ahead log of the first one must not stand before what came later."""
    database, snapshot, seen = open_database(), None, []
    for number in range(1, 8):
        database.write([(b"a", b"%d" % number), (b"b", b"%d" % number)])
        snapshot = snapshot or snapshot_of(database.path)
        database.close()
        snapshot.refresh()
        seen.append((snapshot.get(b"a"), dict(snapshot.scan(b""))[b"b"]))
        database = open_database()
    assert seen == [(b"%d" % number, b"%d" % number) for number in range(1, 8)]


# Damage.


def test_a_write_that_a_power_cut_tore_is_as_if_it_had_not_been(open_database: Any) -> None:
    """It was never synced, so nobody was told of it."""
    database = open_database()
    for number in range(20):
        database.write([(b"a%02d" % number, bytes(1000)), (b"b%02d" % number, b"")])
    copy = copy_of(database, "copy")
    wal = the_file(copy, "*.log")
    with wal.open("r+b") as file:
        file.truncate(wal.stat().st_size - 10)
    torn = open_database(copy)
    assert [key for key, _ in torn.scan(b"a")] == [b"a%02d" % number for number in range(19)]
    assert [key for key, _ in torn.scan(b"b")] == [b"b%02d" % number for number in range(19)]


@pytest.mark.parametrize("place", [0.0, 0.5, 0.99])
def test_damage_in_the_write_ahead_log_is_reported_and_nothing_is_cut_off(open_database: Any, place: float) -> None:
    """Again and again: a refused open repairs nothing."""
    database = open_database()
    for number in range(50):
        database.write([(b"a%d" % number, bytes(1000))])
    copy = copy_of(database, "copy")
    wal = the_file(copy, "*.log")
    flip(wal, int(wal.stat().st_size * place))
    for _ in range(2):
        with pytest.raises(StateDamaged, match=f"cannot open the state in {copy}: Corruption"):
            open_database(copy)


@pytest.fixture
def damaged(open_database: Any, seed: int) -> Database:
    """A database with 2,000 rows in a file of which one block is damaged."""
    database: Database = open_database()
    chance = Random(seed)
    database.write([(b"a%04d" % number, chance.randbytes(100)) for number in range(2000)])
    database.close()
    file = the_file(open_and_close(database.path), "*.sst")
    flip(file, file.stat().st_size // 2)
    return cast(Database, open_database())


def open_and_close(path: Path) -> Path:
    """Opening moves what the write-ahead log holds into a file of rows."""
    Database(path).close()
    return path


def test_a_scan_over_damage_says_so_instead_of_ending_early(damaged: Database) -> None:
    with pytest.raises(StateDamaged, match=f"the state in {damaged.path} is damaged: Corruption"):
        list(damaged.scan(b"a"))
    assert len(list(damaged.scan(b"a000"))) == 10, "what is not damaged is served"


def test_a_row_in_a_damaged_block_is_reported_as_damaged(damaged: Database) -> None:
    """Not as an error of somebody else's, which nobody supervises."""
    errors = []
    for number in range(2000):
        try:
            assert damaged.get(b"a%04d" % number) is not None
        except StateDamaged as error:
            errors.append(str(error))
    assert 0 < len(errors) < 100
    assert all(str(damaged.path) in error for error in errors)


def test_a_snapshot_reports_damage_too(damaged: Database, snapshot_of: Any) -> None:
    snapshot = snapshot_of(damaged.path)
    with pytest.raises(StateDamaged, match="is damaged: Corruption"):
        list(snapshot.scan(b"a"))


def test_a_snapshot_whose_database_is_damaged_meanwhile_says_so(open_database: Any, snapshot_of: Any) -> None:
    """It goes on with what it has; whoever looks after it catches an error of ours, and no bare `Exception`."""
    database = open_database()
    database.write([(b"a", b"1")])
    database.flush()
    snapshot = snapshot_of(database.path)
    database.write([(b"b", b"1")])
    database.flush()
    manifest = database.path / (database.path / "CURRENT").read_text().strip()
    manifest.write_bytes(manifest.read_bytes()[:-20] + b"x" * 20)
    with pytest.raises(StateDamaged, match="cannot read the state in"):
        snapshot.refresh()
    assert snapshot.get(b"a") == b"1"


def test_what_is_no_database_is_refused(tmp_path: Path, open_database: Any) -> None:
    database = open_database()
    database.write([(b"a", b"1")])
    database.close()
    (database.path / "CURRENT").write_bytes(b"nonsense")
    with pytest.raises(StateDamaged, match="cannot open the state"):
        open_database()
    with pytest.raises(StateDamaged, match="cannot read the state"):
        Snapshot(database.path)


# Refusals.


class Stalling:
    """Stands before RocksDB and refuses the first writes with *error*, as a write stall does."""

    def __init__(self, inner: Any, times: int, error: str) -> None:
        self.inner, self.times, self.error = inner, times, error

    def write(self, batch: Any, options: Any) -> None:
        if self.times:
            self.times -= 1
            raise Exception(self.error)  # rocksdict raises nothing more exact
        assert options.no_slowdown
        self.inner.write(batch, options)

    def flush_wal(self, sync: object) -> None:
        raise Exception(self.error)  # rocksdict raises nothing more exact

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_a_stalled_write_is_tried_until_it_succeeds(open_database: Any) -> None:
    database = open_database()
    database._db = stalling = Stalling(database._db, 3, "Incomplete: Write stall")
    database.write([(b"a", b"1"), (b"b", b"2")])
    assert stalling.times == 0
    assert list(database.scan(b"")) == [(b"a", b"1"), (b"b", b"2")]


def test_a_stall_that_does_not_end_fails_the_commit(open_database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "STALL_TIMEOUT_S", 0.0)
    database = open_database()
    database._db = Stalling(database._db, 1_000_000, "Incomplete: Write stall")
    with pytest.raises(StateFailed, match=f"a commit to {database.path} failed: Incomplete"):
        database.write([(b"a", b"1")])


def test_any_other_refusal_fails_the_commit_at_once(open_database: Any) -> None:
    database = open_database()
    database._db = stalling = Stalling(database._db, 2, "IO error: No space left on device")
    with pytest.raises(StateFailed, match="No space left on device"):
        database.write([(b"a", b"1")])
    assert stalling.times == 1
    with pytest.raises(StateFailed, match="could not be synced: IO error"):
        database.sync()
