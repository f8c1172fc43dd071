"""The power of a real file system is cut while a worker commits to it; what is left is worked on to an exact end.

Log and state lie on one ext4 on a loop device. One process works, one sends; at random moments both are stopped and the
disk is copied, as it would be if the power went then. Every copy is mounted as after a start of the machine: nothing is
damaged, and when a new worker is idle, what was acknowledged is there, the table is a plain fold over the log, and
there is one output a record. With FRAMEWORK_TORTURE=1 there are many more cuts.
"""

from __future__ import annotations

import os
import random
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.faults import power_app
from tests.faults.load_judge import Talking, check_files, violations
from tests.faults.log_power import TORTURE, in_memory
from tests.faults.log_stream import Violation
from tests.faults.loop_image import Mount, copy_image, loop_devices, make_image, why_not

MOUNTS = {"ordered": "", "writeback": "data=writeback", "no delayed allocation": "nodelalloc"}
ROUNDS, CUTS = (4, 5) if TORTURE else (2, 2)
"""How often worker and sender are started on each kind of mount, and how often the power is cut while they run."""
WORK = """
from tests.faults.power_app import work
work(Path(sys.argv[1]), small=sys.argv[2] == "True", synced=sys.argv[3] == "True")
"""
PRODUCE = """
from tests.faults.power_app import produce
produce(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
"""

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
    """A mounted image with log and state on it, and what was found on its copies."""

    directory: Path
    options: str
    seed: int
    monkeypatch: pytest.MonkeyPatch
    synced: bool = True
    lines: list[str] = field(default_factory=list)
    found: list[tuple[int, int]] = field(default_factory=list)
    """Of each copy: how many outputs it held, and how many records there were in the end."""

    def __post_init__(self) -> None:
        """Nothing is on the disk."""
        self.chance = random.Random(f"{self.seed} {self.options}")
        self.image = make_image(self.directory / "image", self.chance.choice((1024, 4096)))

    def run(self, rounds: int, cuts: int) -> None:
        """Worker and sender are started, the power is cut some times, they are killed, the copies are judged; again.

        Raises:
            Violation: A promise was not kept.
        """
        with Mount(self.image, self.options) as mount:
            data = mount.path / "data"
            power_app.fill(data)
            os.sync()
            for number in range(1, rounds + 1):
                copies = self._run(data, number, cuts)
                for at, (copy, heard) in enumerate(copies):
                    self._judge(copy, heard, f"cut {at} of round {number}")

    def _run(self, data: Path, number: int, cuts: int) -> list[tuple[Path, int]]:
        """The copies of one round, and how many lines had been heard by then."""
        copies = []
        with ExitStack() as stack:
            # The power may go for the first time while the worker makes or opens its databases.
            small, early = self.chance.random() < 0.5, self.chance.random() < 0.5
            worker = Talking(self.lines, WORK, data, small, self.synced)
            stack.callback(worker.close)
            sender = Talking(self.lines, PRODUCE, data, number, self.seed)
            stack.callback(sender.close)
            for cut in range(cuts):
                for _ in range(0 if early and not cut else self.chance.randrange(1, 6)):
                    worker.hear()
                sender.hear_all_said()
                for _ in range(self.chance.randrange(1, 30)):
                    sender.hear()
                self._write_back(data)
                worker.stop()
                sender.stop()
                self._write_back(data)
                copies.append((copy_image(self.image, self.directory / f"cut {cut}"), len(self.lines)))
                worker.go_on()
                sender.go_on()
            worker.kill()
            sender.kill()
            sender.hear_all_said()
        return copies

    def _write_back(self, data: Path) -> None:
        """The kernel may write any file to the disk at any time, in any order: now and then it writes some."""
        if not self.synced or self.chance.random() < 0.5:
            return
        files = sorted(path for path in data.rglob("*") if path.is_file())
        for path in self.chance.sample(files, len(files) // 3):
            try:
                fd = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue  # RocksDB has removed it.
            os.fdatasync(fd)
            os.close(fd)

    def _judge(self, copy: Path, heard: int, where: str) -> None:
        """Start the machine anew with one copy."""
        expected, boot = power_app.acknowledged(self.lines[:heard]), secrets.token_bytes(16)
        try:
            with violations(), self.monkeypatch.context() as patch, Mount(copy) as mount:
                for module in ("log", "outside"):
                    patch.setattr(f"framework.log.{module}.boot_id", lambda: boot)
                data = mount.path / "data"
                check_files(data)
                made = power_app.made(data)
                power_app.finish(data)
                self.found.append((made, power_app.compare(data, expected)))
                check_files(data)
        except Violation as violation:
            where = f"{where}, mount options {self.options!r}, seed {self.seed}"
            raise Violation(violation.check, f"{violation}\n{where}") from violation
        copy.unlink()


@pytest.mark.parametrize("options", MOUNTS)
def test_a_worker_whose_power_is_cut_loses_and_doubles_nothing(
    directory: Path, options: str, seed: int, monkeypatch: pytest.MonkeyPatch, report: Callable[[str], None]
) -> None:
    """Records, table and outputs, whatever the file system does in its own time."""
    disk = Disk(directory, MOUNTS[options], seed, monkeypatch)
    disk.run(ROUNDS, CUTS)
    assert not loop_devices(disk.image)
    assert len(disk.found) == ROUNDS * CUTS
    assert any(0 < made < records for made, records in disk.found)
    report(f"{options}: outputs on the disk when the power went, and records in the end: {disk.found}")


@pytest.mark.skipif(not TORTURE, reason="whether a cut shows it is a matter of chance: FRAMEWORK_TORTURE=1")
def test_without_the_sync_of_a_commit_the_cut_is_found(
    directory: Path, seed: int, monkeypatch: pytest.MonkeyPatch, report: Callable[[str], None]
) -> None:
    """Outputs are in the log, and the state that sent them is not: so the cuts are real, and the judge sees it."""
    with pytest.raises(Violation) as caught:
        Disk(directory, "", seed, monkeypatch, synced=False).run(1, 3)
    report(f"without the sync of a commit: {str(caught.value).splitlines()[0]}")
