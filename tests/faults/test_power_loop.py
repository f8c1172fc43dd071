"""The power of a real file system is cut while processes append to it; the log's promises hold on what is left.

A log lies on ext4 on a loop device. While processes append, roll, make topics, delete records and are killed, the
disk is copied at random moments, as it would be if the power went then. Every copy is mounted and opened as after a
start of the machine: what was acknowledged is there, at its offset, with its bytes. The processes say what was
acknowledged through a pipe, which no power cut reaches. With FRAMEWORK_TORTURE=1 there are many more cuts.
"""

from __future__ import annotations

import os
import random
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from framework.log import Log
from tests.faults.load_judge import Loaded, Said, check, check_files, check_going_on, violations
from tests.faults.log_power import TORTURE, in_memory
from tests.faults.log_stream import Violation
from tests.faults.loop_image import Mount, copy_image, loop_devices, make_image, why_not

MOUNTS = {"ordered": "", "writeback": "data=writeback", "no delayed allocation": "nodelalloc"}
ROUNDS, CUTS = (10, 4) if TORTURE else (2, 2)
"""How often a process is started on each kind of mount, and how often the power is cut while it runs."""

pytestmark = pytest.mark.slow


@pytest.fixture
def directory(report: Callable[[str], None]) -> Iterator[Path]:
    """In memory; skips where no file system can be mounted."""
    if reason := why_not():
        report(f"not run, {reason}")
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="framework-loop-", dir=in_memory()) as path:
        yield Path(path)


@dataclass
class Disk:
    """A mounted image with a log on it, the processes that use it one after the other, and its copies."""

    directory: Path
    options: str
    seed: int

    def __post_init__(self) -> None:
        """Nothing is on the disk."""
        self.chance = random.Random(f"{self.seed} {self.options}")
        self.image = make_image(self.directory / "image", self.chance.choice((1024, 4096)))
        self.lines: list[str] = []
        self.cuts: list[tuple[Path, int]] = []
        """Copies of the disk, and how many lines had been heard by then."""

    def run(self, rounds: int, cuts: int, *, synced: bool = True) -> None:
        """Processes are started one after the other; each is killed when it was there for some power cuts."""
        with ExitStack() as stack:
            place = stack.enter_context(Mount(self.image, self.options)).path / "data"
            for number in range(rounds):
                process = Loaded(self.lines, place, number, self.seed, synced=synced)
                stack.callback(process.close)
                for _ in range(cuts):
                    for _ in range(self.chance.randrange(20, 400)):
                        process.hear()
                    self._cut(process, place)
                process.kill()
                process.hear_all_said()

    def _cut(self, process: Loaded, place: Path) -> None:
        if self.chance.random() < 0.5:
            self._write_back(place / "shared")
        process.stop()
        if self.chance.random() < 0.5:
            self._write_back(place / "shared")
        snapshot = copy_image(self.image, self.directory / f"cut {len(self.cuts)}")
        self.cuts.append((snapshot, len(self.lines)))
        process.go_on()

    def _write_back(self, path: Path) -> None:
        """The kernel may write a mapped file to the disk at any time, so marks may be newer than what was synced."""
        fd = os.open(path, os.O_RDONLY)
        os.fdatasync(fd)
        os.close(fd)

    def judge(self, monkeypatch: pytest.MonkeyPatch) -> int:
        """Start the machine anew with each copy; how many acknowledged batches were looked for.

        Raises:
            Violation: A promise was not kept.
        """
        batches = 0
        for number, (snapshot, heard) in enumerate(self.cuts):
            boot = secrets.token_bytes(16)
            for module in ("log", "outside"):
                monkeypatch.setattr(f"framework.log.{module}.boot_id", lambda boot=boot: boot)
            said = Said.of(self.lines[:heard])
            try:
                with Mount(snapshot) as mount:
                    batches += judge_one(mount.path / "data", said)
            except Violation as violation:
                where = f"cut {number} of {len(self.cuts)}, {heard} lines heard, mount options {self.options!r}"
                raise Violation(violation.check, f"{violation}\n{where}, seed {self.seed}") from violation
            snapshot.unlink()
        return batches


def judge_one(data: Path, said: Said) -> int:
    """One disk after a power cut."""
    with violations():
        with Log(data) as log:
            batches = check(log, said)
            check_going_on(log, said)
        check_files(data)
    return batches


@pytest.mark.parametrize("options", MOUNTS)
def test_what_was_acknowledged_survives_the_power_cut_of_a_real_file_system(
    directory: Path, options: str, seed: int, monkeypatch: pytest.MonkeyPatch, report: Callable[[str], None]
) -> None:
    """Whatever the file system does in its own time: metadata first, data first, or both when it likes."""
    disk = Disk(directory, MOUNTS[options], seed)
    disk.run(ROUNDS, CUTS)
    assert not loop_devices(disk.image)
    batches = disk.judge(monkeypatch)
    said = Said.of(disk.lines)
    assert said.created
    assert said.starts
    assert batches > 100 * len(disk.cuts)
    report(f"{options}: {len(disk.cuts)} power cuts, {len(disk.lines)} answers, {batches} batches looked for")


def test_without_syncs_acknowledged_records_are_lost(
    directory: Path, seed: int, monkeypatch: pytest.MonkeyPatch, report: Callable[[str], None]
) -> None:
    """So the cuts are real, and the judge sees what they take."""
    checks = []
    for number in range(10 if TORTURE else 2):
        (directory / str(number)).mkdir()
        disk = Disk(directory / str(number), "", seed + number)
        disk.run(1, 1, synced=False)
        with pytest.raises(Violation) as caught:
            disk.judge(monkeypatch)
        checks.append(caught.value.check)
    report(f"without fdatasync, of {len(checks)} power cuts were found by: {', '.join(checks)}")
