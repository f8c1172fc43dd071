"""A run of a log whose power is cut at every operation, and the judge of what is left; `log_runs` says what it does."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.crash_files import CrashFiles, Killed
from tests.faults.log_checks import check, check_files, check_going_on
from tests.faults.log_disk import STYLES, Cut, materialize
from tests.faults.log_history import Expected, History
from tests.faults.log_stream import Violation

ROOM_BYTES = 1 << 30
"""Containers often have 64 MB there."""
TORTURE = os.environ.get("FRAMEWORK_TORTURE") == "1"


def in_memory() -> Path | None:
    """Where files live in memory, if there is room in such a place: the power of the real disk stays on."""
    place = Path("/dev/shm")  # noqa: S108  # the directories made in it are private
    return place if os.access(place, os.W_OK) and shutil.disk_usage(place).free > ROOM_BYTES else None


@dataclass
class Run:
    """One history on files that can be cut, and every moment of it."""

    root: Path
    skipped: str | None = None
    killed_at: int | None = None
    moments: list[tuple[Cut, Expected]] = field(default_factory=list)
    sites: dict[str, int] = field(default_factory=dict)
    """The point at which each sync was first made."""
    points: list[str] = field(default_factory=list)
    noting: int = 1 << 30
    """How many more moments are kept."""

    def begin(self, before: Expected | None = None) -> History:
        """The history; what is in the directory is durable."""
        self.files = CrashFiles(self.root)
        self.history = History(self.files, self.root / "data", before)
        self.files.on_point, self.files.before_sync = self._note, self._sync
        self._last: tuple[object, ...] = ()
        return self.history

    def end(self) -> None:
        """The last moment, and what the log holds at the end."""
        self._note("after everything")
        self.files.on_point = lambda point: None
        self.history.end()

    def _note(self, point: str) -> None:
        self.points.append(point)
        # Who is killed between a refused sync and the store of FAILED tells nobody, and nothing can help that.
        if self.killed_at is not None and len(self.points) > self.killed_at and not self.files.refused:
            self.killed_at, self.files.dead = None, True
            self.files.after_write, self.files.before_change = lambda kind: None, lambda name: None
            self.files.before_sync = self._sync
            raise Killed(point)
        if not self.noting:
            return
        expected = self.history.expected()
        if self.skipped and not self.files.owed:
            return  # Where no sync is owed, the disk is as it would be with it.
        now = (self.files.changes, *expected.marks.values(), len(expected.topics), expected.deleting, expected.deleted)
        if now != self._last:
            self._last = now
            self.noting -= 1
            self.moments.append((self.files.cut(point), expected))

    def _sync(self, site: str) -> bool:
        self.sites.setdefault(site, len(self.points) - 1)
        return site != self.skipped


class Judge:
    """Cuts the power at moments, and looks at what is left."""

    def __init__(self, scratch: Path, seed: int) -> None:
        self._scratch, self._seed = scratch, seed
        self._numbers = itertools.count()
        self.cases = 0

    def judge(self, moments: list[tuple[Cut, Expected]], styles: tuple[str, ...] = STYLES) -> None:
        """Every moment in every style.

        Raises:
            Violation: with what it takes to see it again.
        """
        for at, (cut, expected) in enumerate(moments):
            seen: set[int] = set()
            for number, style in enumerate(styles):
                rng = random.Random(f"{self._seed} {at} {number}")
                state, identity = cut.fall(rng, style)
                if (key := hash(frozenset(state.items()))) in seen:
                    continue
                seen.add(key)
                self.cases += 1
                with self.directory() as root:
                    materialize(state, identity, root)
                    history = History(CrashFiles(root), root / "data", expected)
                    try:
                        check(history, expected, rng)
                        check_going_on(history, expected)
                        history.close()
                        check_files(root / "data")
                    except Violation as violation:
                        what = f"power cut {cut.point}, moment {at} of {len(moments)}, style {number} {style!r}"
                        raise Violation(violation.check, f"{violation}\n{what}, seed {self._seed}") from violation
                    finally:
                        history.close()

    def directory(self) -> Scratch:
        """A new directory, gone at the end of the block."""
        return Scratch(self._scratch / str(next(self._numbers)))


class Scratch:
    """A directory that is made, and removed with all that is in it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Path:
        self._path.mkdir()
        return self._path

    def __exit__(self, *exc: object) -> None:
        shutil.rmtree(self._path)
