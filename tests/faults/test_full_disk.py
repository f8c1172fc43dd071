"""A real file system that is full: the agents wait, say so, and go on in the same process when there is space.

It is ext4 on a loop device, which needs root; elsewhere the tests are skipped, and the refusals that are made up
in test_refused_commit.py have to do.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from framework import App, Stream, full_disk
from framework.state.database import Database
from framework.state.errors import StateFailed
from framework.task import Task
from framework.worker import Worker
from tests.faults.log_power import in_memory
from tests.faults.loop_image import Mount, make_image, why_not
from tests.framework.conftest import Shop
from tests.until import until

ROW_BYTES = 400_000
ROWS = 110
"""More than RocksDB has reserved for its write-ahead log."""

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(report: Callable[[str], None]) -> Iterator[Path]:
    """An empty file system of its own."""
    if reason := why_not():
        report(f"not run, {reason}")
        pytest.skip(reason)
    place = tempfile.TemporaryDirectory(prefix="framework-full-", dir=in_memory())
    with place as path, Mount(make_image(Path(path) / "image")) as mount:
        yield mount.path


@pytest.fixture(autouse=True)
def reopened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every database that was opened anew; it is tried again soon."""
    paths, reopen = list[Path](), Database.reopen

    def watched(self: Database) -> None:
        paths.append(self.path)
        reopen(self)

    monkeypatch.setattr(Database, "reopen", watched)
    monkeypatch.setattr(full_disk, "DISK_RETRY_S", 0.05)
    return paths


class Filled:
    """An app with a table of large rows, or with outputs, and a gate that keeps its agent from its first record."""

    def __init__(self, disk: Path, *, outputs: bool) -> None:
        self.disk, self.outputs = disk, outputs
        self.count = 30_000 if outputs else ROWS
        self.read = 0

    def app(self) -> App:
        app, self.gate = App("full", data=self.disk / "data"), asyncio.Event()
        numbers, out = app.topic("numbers", int), app.topic("out", str)
        rows, sums = app.table("rows", str), app.table("sums", int)

        @app.agent(numbers)
        async def fold(stream: Stream[int]) -> None:
            async for number in stream:
                await self.gate.wait()
                self.read = number
                sums["all"] += number
                if self.outputs:
                    out.send(f"{number} {noise(number, 500)}")
                else:
                    rows[f"{number}"] = noise(number, ROW_BYTES)
                    await asyncio.sleep(0)

        return app

    def fill(self) -> None:
        """Leave not one block."""
        with (self.disk / "filler").open("wb", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                        os.fdatasync(file.fileno()) if size == 4096 else None
                except OSError:
                    continue

    @asynccontextmanager
    async def full(self, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Worker]:
        """A worker whose disk has become full, and that waits."""
        app = self.app()
        with app.opened():
            app.topics["numbers"].send_many(range(self.count))
        worker = Worker(app)
        async with worker.running():
            self.fill()
            self.gate.set()
            await Shop(self.disk).until(lambda: "is full:" in caplog.text)
            yield worker

    def check(self) -> None:
        """Compare with a plain fold."""
        app = self.app()
        with app.opened(create=False):
            assert app.tables["sums"]["all"] == sum(range(self.count))
            numbers = [f"{number}" for number in range(self.count)]
            assert [value.split()[0] for value in app.topics["out"].read()] == (numbers if self.outputs else [])
            rows = dict(app.tables["rows"].items())
            assert rows == ({} if self.outputs else {number: noise(int(number), ROW_BYTES) for number in numbers})


def noise(seed: int, size: int) -> str:
    """Text that does not compress."""
    return random.Random(seed).randbytes(size // 2).hex()


@pytest.mark.parametrize("outputs", [False, True], ids=["state", "log"])
async def test_agents_wait_for_space_and_go_on_in_the_same_process(
    disk: Path, reopened: list[Path], caplog: pytest.LogCaptureFixture, *, outputs: bool
) -> None:
    """Where what is full is seen first by RocksDB, and where by the log that is to take the outputs."""
    caplog.set_level(logging.INFO)
    filled = Filled(disk, outputs=outputs)
    async with filled.full(caplog) as worker:
        app = worker.app
        # It stands still, says so once, and what is committed can be read.
        [task] = worker.tasks
        assert isinstance(task, Task)
        await Shop(disk).until(lambda: task.at_boundary)
        read = filled.read
        tried = len(reopened)
        await Shop(disk).until(lambda: len(reopened) > tried + 3)
        assert filled.read == read
        assert read < filled.count - 1 or not outputs, "no more than a commit's worth is done ahead"
        assert caplog.text.count("is full:") == 1
        assert "bytes are free, a commit needs" in caplog.text
        assert app.tables["sums"]["all"] <= sum(range(read + 1))
        (disk / "filler").unlink()
        await until(lambda: worker.idle)
    assert "takes commits again" in caplog.text
    filled.check()
    app = filled.app()
    filled.gate.set()
    await Shop(disk / "data").run(app)
    filled.check()


async def test_a_worker_that_is_stopped_on_a_full_disk_ends_with_an_error_and_the_next_one_is_exact(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled = Filled(disk, outputs=True)
    with pytest.raises(StateFailed, match=r"stopped while waiting for the disk: .* No space left on device"):
        async with filled.full(caplog):
            pass
    (disk / "filler").unlink()
    app = filled.app()
    filled.gate.set()
    await Shop(disk / "data").run(app)
    filled.check()
