"""What the tests of the log share: logs that are closed, files that fail on demand, real child processes."""

from __future__ import annotations

import errno
import os
import select
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import framework
from framework.log import Files, Log, NewRecord, Partition, StoredRecord, decode, encode

with warnings.catch_warnings():
    # kafka-python reads its schemas with a deprecated function while it is imported, and only then.
    warnings.simplefilter("ignore", DeprecationWarning)
    import kafka  # noqa: F401

TIMEOUT_S = 60
MAX_BATCH_BYTES = 1 << 20
ROOT = Path(framework.__file__).parent.parent
PRELUDE = """
import os, signal, sys, threading
from pathlib import Path
from framework.log import *
from framework.log.errors import *

def say(*words):
    print(*words, flush=True)

def hear():
    line = sys.stdin.readline()
    if not line:
        os._exit(3)  # The test is gone.
    return line.strip()

def batches(*values, **options):
    return encode([NewRecord(None, value, 0) for value in values], max_batch_bytes=1 << 20, **options)
"""


def readable(fd: int, timeout_s: float) -> bool:
    """Whether there is something to read from *fd*, at most *timeout_s* from now; whatever its number is."""
    waiting = select.poll()
    waiting.register(fd, select.POLLIN)
    return bool(waiting.poll(timeout_s * 1000))


class Child:
    """A real process that runs a script and talks in lines."""

    def __init__(self, script: str, *arguments: object) -> None:
        """Start it; `say`, `hear`, `batches` and everything of `framework.log` are at hand in *script*."""
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PRELUDE + dedent(script), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.pid, self._heard = self.process.pid, b""

    def say(self, line: str = "go") -> None:
        """Send it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """Its next line."""
        while b"\n" not in self._heard:
            more = self._more()
            assert more, f"the child ended after {self._heard!r}, with {self.process.wait(TIMEOUT_S)}"
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode()

    def hear_rest(self) -> list[str]:
        """Every whole line until it ends."""
        while more := self._more():
            self._heard += more
        whole, _, self._heard = self._heard.rpartition(b"\n")
        return whole.decode().split("\n") if whole else []

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait(TIMEOUT_S)

    def finish(self) -> None:
        """Wait for its good end."""
        assert self.process.wait(TIMEOUT_S) == 0

    def close(self) -> None:
        """Leave nothing behind."""
        self.process.kill()
        self.process.communicate()

    def _more(self) -> bytes:
        assert self.process.stdout is not None
        assert readable(self.process.stdout.fileno(), TIMEOUT_S), f"the child said nothing for {TIMEOUT_S} s"
        return os.read(self.process.stdout.fileno(), 1 << 16)


class FaultyFiles(Files):
    """The real files; `before` is asked about every operation first, and `room_bytes` is what the disk still takes."""

    def __init__(self) -> None:
        """Without faults."""
        self.calls: list[tuple[str, Path]] = []
        self.before: Callable[[str, Path], None] = lambda operation, path: None
        self.room_bytes: int | None = None

    def pwrite(self, fd: int, data: bytes | memoryview, position: int) -> None:
        """Write as much as there is room for."""
        path = self._tell("pwrite", path_of(fd))
        if self.room_bytes is None or path.name == "shared":
            super().pwrite(fd, data, position)
            return
        part = memoryview(data)[: self.room_bytes]
        self.room_bytes -= len(part)
        super().pwrite(fd, part, position)
        if len(part) < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")

    def pwritev(self, fd: int, buffers: Sequence[bytes | bytearray | memoryview], position: int) -> int:
        """Write as much as there is room for."""
        self._tell("pwritev", path_of(fd))
        if self.room_bytes is None:
            return super().pwritev(fd, buffers, position)
        self.pwrite(fd, b"".join(buffers), position)
        return sum(map(len, buffers))

    def truncate(self, fd: int, size: int) -> None:
        """Cut."""
        self._tell("truncate", path_of(fd))
        super().truncate(fd, size)

    def fdatasync(self, fd: int) -> None:
        """Sync."""
        self._tell("fdatasync", path_of(fd))
        super().fdatasync(fd)

    def sync_directory(self, path: Path) -> None:
        """Sync names."""
        self._tell("sync_directory", path)
        super().sync_directory(path)

    def mkdir(self, path: Path) -> None:
        """Make a directory."""
        self._tell("mkdir", path)
        super().mkdir(path)

    def rename(self, source: Path, target: Path) -> None:
        """Rename."""
        self._tell("rename", target)
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        """Unlink."""
        self._tell("unlink", path)
        super().unlink(path)

    def _tell(self, operation: str, path: Path) -> Path:
        self.calls.append((operation, path))
        self.before(operation, path)
        return path


def path_of(fd: int) -> Path:
    """The path that *fd* was opened by."""
    if sys.platform == "darwin":
        import fcntl

        return Path(os.fsdecode(fcntl.fcntl(fd, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0")))
    return Path(os.readlink(f"/proc/self/fd/{fd}"))


class ManualClock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        """Noon."""
        self.ms = 1_700_000_000_000

    def now_ms(self) -> int:
        """What the test says."""
        return self.ms

    def monotonic(self) -> float:
        """The same, in seconds."""
        return self.ms / 1000


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the data directory of a test is, or will be."""
    return tmp_path / "data"


@pytest.fixture
def open_log(directory: Path) -> Iterator[Callable[..., Log]]:
    """Opens the data directory, or another; closed after the test."""
    opened: list[Log] = []

    def open_it(path: Path = directory, **options: object) -> Log:
        opened.append(Log(path, **{"create": True, **options}))  # type: ignore[arg-type]
        return opened[-1]

    yield open_it
    for log in opened:
        log.close()


@pytest.fixture
def files() -> FaultyFiles:
    """Files that fail when they are told to."""
    return FaultyFiles()


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still."""
    return ManualClock()


@pytest.fixture
def child() -> Iterator[Callable[..., Child]]:
    """Starts child processes; none outlives the test."""
    started: list[Child] = []

    def start(script: str, *arguments: object) -> Child:
        started.append(Child(script, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def append() -> Callable[..., int]:
    """Appends values as one batch and returns its offset, once it is durable."""

    def append_it(log: Log, partition: Partition, *values: bytes, timestamp: int = 0, **options: Any) -> int:
        records = [NewRecord(None, value, timestamp) for value in values]
        batches = encode(records, max_batch_bytes=MAX_BATCH_BYTES, **options)
        return log.append(partition, batches).result(TIMEOUT_S)

    return append_it


@pytest.fixture
def read_all() -> Callable[..., list[StoredRecord]]:
    """Every record from an offset up to the high watermark."""

    def read_it(log: Log, partition: Partition, offset: int = 0, max_bytes: int = 1 << 20) -> list[StoredRecord]:
        reader, records = log.reader(partition, offset), []
        try:
            while batches := reader.read(max_bytes).batches:
                records += [record for _, batch in batches for record in decode(batch)]
        finally:
            reader.close()
        return [record for record in records if record.offset >= offset]

    return read_it


@pytest.fixture
def reboot(directory: Path) -> Callable[..., None]:
    """Makes a closed data directory look as if the machine had been started anew since."""

    def forget_boot(path: Path = directory) -> None:
        with (path / "shared").open("r+b") as shared:
            shared.seek(16)
            shared.write(b"an earlier boot!")

    return forget_boot
