"""Every file of a state database is damaged: what is read is right, or the damage is reported with the ways out."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from framework.state.database import Database
from framework.state.errors import StateBehind, StateDamaged
from framework.worker import Worker
from tests.faults.commit_cases import build
from tests.faults.log_power import TORTURE
from tests.framework.conftest import Shop

CHANGES = 200 if TORTURE else 12
"""How often each file is damaged in each way."""
KEPT_BY_ITS_NAME = ("LOG", "LOCK", "IDENTITY", "OPTIONS", "rocksdict")
"""Files in which there are no rows."""
Rows = dict[bytes, bytes]

pytestmark = pytest.mark.slow


class Damaged:
    """A database that was killed, with rows in files, in the manifest's newest of them, and in the write-ahead log."""

    def __init__(self, root: Path, chance: Random) -> None:
        self.root, self.chance, self.states = root, chance, list[Rows]()
        database = Database(root / "db")
        for session in range(4):
            for number in range(25):
                self._commit(database)
                if session == 3 and number in (7, 15):
                    database._db.flush()
            if session < 3:
                database.close()
                database = Database(root / "db")
        self.path = root / "killed"
        shutil.copytree(root / "db", self.path)
        database.close()

    def _commit(self, database: Database) -> None:
        number = len(self.states)
        keys = [b"t%03d" % self.chance.randrange(40) for _ in range(5)]
        changes = [(key, b"%d " % number + self.chance.randbytes(30)) for key in keys]
        changes += [(b"o", b"%d" % number), (b"mark", database.manifest_mark())]  # As `Store.commit` does.
        database.write(changes)
        database.sync()
        self.states.append((self.states[-1] if self.states else {}) | dict(changes))

    def outcome(self, name: str, damage: Callable[[Path], None]) -> str:
        """What somebody sees who opens a copy in which the file *name* is damaged."""
        copy = self.root / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.path, copy)
        damage(copy / name)
        try:
            database = Database(copy)
            try:
                database.check_manifest(database.get(b"mark"))
                found = dict(database.scan(b""))
            finally:
                database.close()
        except StateDamaged as error:
            return "reported" if f"{copy}" in str(error) and "backup" in str(error) else f"says {error}"
        if found == self.states[-1]:
            return "exact"
        return "an earlier commit" if found in self.states else "WRONG"


def damages(path: Path, chance: Random) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Bits flipped, ends cut off, zeros, nothing at all."""
    size = path.stat().st_size
    for _ in range(CHANGES):
        at, bit, end = chance.randrange(size), 1 << chance.randrange(8), chance.randrange(size)

        def flip(file: Path, at: int = at, bit: int = bit) -> None:
            data = bytearray(file.read_bytes())
            data[at] ^= bit
            file.write_bytes(data)

        yield "a bit flipped", flip
        yield "cut short", lambda file, end=end: os.truncate(file, end)  # type: ignore[misc]

    def clear(file: Path) -> None:
        file.write_bytes(bytes(size))

    yield "all zeros", clear
    yield "removed", Path.unlink


def test_damage_in_any_file_of_the_state_is_reported_or_does_no_harm(
    tmp_path: Path, seed: int, report: Callable[[str], None]
) -> None:
    """Only of the write-ahead log can the end be missing unnoticed: what is left is an earlier commit, whole."""
    damaged = Damaged(tmp_path, Random(seed))
    found: dict[str, Counter[str]] = {}
    for path in sorted(damaged.path.iterdir()):
        kind = path.name.split("-")[0] if path.suffix not in (".sst", ".log") else path.suffix
        if not kind.startswith(KEPT_BY_ITS_NAME) and path.stat().st_size:
            for how, damage in damages(path, damaged.chance):
                found.setdefault(f"{kind} {how}", Counter())[damaged.outcome(path.name, damage)] += 1
    report("\n".join(f"{what:24} {dict(outcomes)}" for what, outcomes in sorted(found.items())))
    assert {what.split()[0] for what in found} == {".log", ".sst", "CURRENT", "MANIFEST"}
    for what, outcomes in found.items():
        allowed = {"reported", "exact"} | ({"an earlier commit"} if what.startswith(".log") else set())
        assert outcomes.keys() <= allowed, what
    assert found[".log a bit flipped"]["reported"] > CHANGES // 2


async def test_a_state_whose_last_commits_are_cut_off_is_refused_if_it_has_sent_what_it_does_not_know(
    tmp_path: Path,
) -> None:
    """RocksDB cannot tell it from a power cut; the log can."""
    shop, app = Shop(tmp_path / "data"), build(tmp_path / "data")
    shop.send(app.topics["numbers"], range(50))
    await shop.run(app)
    state = shop.data / "state" / "0"
    shutil.copytree(state, tmp_path / "before")
    shop.send(app.topics["numbers"], range(50))
    worker = Worker(build(shop.data))
    async with worker.running():
        await shop.until(lambda: worker.idle)
        shutil.copytree(state, tmp_path / "killed")
    [wal] = [path for path in (tmp_path / "killed").glob("*.log") if path.stat().st_size]
    os.truncate(wal, 0)
    shutil.rmtree(state)
    shutil.copytree(tmp_path / "killed", state)
    with pytest.raises(StateBehind, match="Restore the state that belongs to this log, or remove it"):
        await shop.run(build(shop.data))
