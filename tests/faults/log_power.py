"""Runs of a log whose power is cut at every operation; what each kind of run does, and the judge of what is left."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.crash_files import CrashFiles, Killed
from tests.faults.log_disk import STYLES, Cut, materialize
from tests.faults.log_history import Expected, History, Violation, check, check_going_on

TORTURE = os.environ.get("FRAMEWORK_TORTURE") == "1"
A, B, C = ("a", 0), ("a", 1), ("b", 0)


def in_memory() -> Path | None:
    """Where files live in memory, if there is such a place: the power of the real disk stays on."""
    place = Path("/dev/shm")  # noqa: S108  # the directories made in it are private
    return place if os.access(place, os.W_OK) else None


@dataclass
class Run:
    """One history on files that can be cut, and every moment of it."""

    root: Path
    skipped: str | None = None
    killed_at: int | None = None
    moments: list[tuple[Cut, Expected]] = field(default_factory=list)
    sites: set[str] = field(default_factory=set)
    points: list[str] = field(default_factory=list)
    noting: bool = True

    def begin(self, before: Expected | None = None) -> History:
        """The history; what is in the directory is durable."""
        self.files = CrashFiles(self.root)
        self.history = History(self.files, self.root / "data", before)
        self.files.on_point, self.files.before_sync = self._note, self._sync
        self._last: tuple[int, ...] = ()
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
            self.killed_at = None
            self.files.after_write, self.files.before_sync = lambda kind: None, self._sync
            raise Killed(point)
        if not self.noting:
            return
        expected = self.history.expected()
        if self.skipped and not self.files.owed:
            return  # Where no sync is owed, the disk is as it would be with it.
        now = (self.files.changes, *expected.acknowledged.values(), *expected.visible.values(), len(expected.topics))
        if now != self._last:
            self._last = now
            self.moments.append((self.files.cut(point), expected))

    def _sync(self, site: str) -> bool:
        self.sites.add(site)
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


# What a run does. Values are small and segments too, so that a few hundred operations do everything.


def topics_and_appends(history: History) -> None:
    """Two topics, first appends, one and several batches, with and without a producer."""
    history.open()
    history.send(A, 100)
    history.tick()
    history.send(A, 600, 200, 50)
    history.send(A, 100, 700, producer=1)
    history.tick()
    history.send(B, 10, producer=1)
    history.send(C, 100, 100, producer=2)
    history.send(A, 300, producer=2)


def rolls(history: History) -> None:
    """A segment takes two or three batches."""
    history.open()
    history.send(A, 1500)
    history.tick()
    history.send(A, 1500, 900, 1500, producer=1)
    history.tick()
    history.send(A, *[900] * 9, 20)
    history.send(A, 5000, producer=1)
    history.send(A, 10, producer=2)


def two_logs(history: History) -> None:
    """One writes where the other stopped, and rolls under its feet."""
    first, second = history.open(), history.open()
    for log in (first, second, second, first):
        history.send(A, 1300, log=log)
        history.tick()
        history.send(A, 200, 1300, producer=1, log=log)
        history.send(B, 100, producer=2, log=log)


def killed_writes(history: History) -> None:
    """A writer dies when its batches are written and not published; the next one's have the same size."""
    history.open()
    history.send(A, 100)
    for sizes in ((600, 600), (900, 30)):
        _fail_once(history, lambda kind: kind == "log")
        try:
            history.send(A, *sizes, producer=1)
        except OSError:
            history.close()
            history.open()
        history.send(A, sizes[0], producer=2)
        history.send(A, 50, producer=1)


def failed_sync(history: History) -> None:
    """A sync fails, the partition is reopened and its unsynced batches are copied into a new segment."""
    assert isinstance(history.files, CrashFiles)
    files, skipping = history.files, history.files.before_sync
    history.open()
    history.send(A, 100, producer=1)
    for size, kind in ((600, "log"), (3800, "log"), (50, "appended")):
        history.tick()

        def fail(site: str, kind: str = kind) -> bool:
            files.before_sync = skipping
            if site.startswith(f"fdatasync {kind}"):
                raise OSError(errno.EIO, "Input/output error")
            files.before_sync = fail
            return skipping(site)

        files.before_sync = fail
        try:
            history.send(A, 300, size, producer=1)
        except OSError:
            history.close()
            history.open()
        history.send(A, 200, 50, producer=1)


def _fail_once(history: History, where: Callable[[str], bool]) -> None:
    assert isinstance(history.files, CrashFiles)
    files = history.files

    def fail(kind: str) -> None:
        if where(kind):
            files.after_write = lambda kind: None
            raise OSError(errno.EIO, "killed here")

    files.after_write = fail


RUNS: dict[str, Callable[[History], None]] = {
    run.__name__: run for run in (topics_and_appends, rolls, two_logs, killed_writes, failed_sync)
}


def copied(history: History) -> None:
    """A copy whose slots are ahead of its segments, as one of a directory in use may be, is opened and goes on."""
    history.open()
    history.send(A, 100, 400, producer=1)
    history.tick()
    history.send(A, 600, 3000, producer=2)


def recovered(history: History) -> None:
    """After a crash: others write where torn batches were cut off, before what was lost is sent again."""
    assert history.before is not None
    check(history, history.before, random.Random(0))
    for key, stream in list(history.streams.items()):
        lost = [stream.sent[places[0]] for places in stream.outbox.values() if places]
        history.tick()
        history.send(key, lost[0].size if lost else 100, producer=9)
        for producer in sorted(stream.outbox):
            history.send(key, producer=producer)
    history.send(A, 1500, 1500, producer=1)


def resume(history: History) -> None:
    """What another process does after the first was killed."""
    history.open()
    for key in (A, C):
        stream = history.streams.get(key)
        for producer in sorted(stream.outbox) if stream else ():
            history.send(key, producer=producer)
        history.send(key, 700)
        history.send(key, 300, producer=3)
