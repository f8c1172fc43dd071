"""A process is killed at every system call of a log's life, or the call fails; what it acknowledged is there.

`strace` stands at the calls, so nothing of the log knows about it: neither its file seam nor its locks. The story that
is told (`log_story`) is the same each time, and each call of it is met in turn. Afterwards the directory is opened as
after a kill: the machine ran on, and the slots are believed. With FRAMEWORK_TORTURE=1 no call is left out.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from framework.log import Log, errors
from framework.log.errors import UnknownTopic
from tests.faults.load_judge import (
    Said,
    check,
    check_files,
    check_going_on,
    check_partition,
    partitions,
    the,
    violations,
)
from tests.faults.log_load import Producer
from tests.faults.log_power import TORTURE, in_memory
from tests.faults.log_stream import Violation
from tests.log.conftest import TIMEOUT_S, Child

SERVE = """
from tests.faults.log_story import serve
serve()
"""
CALLS = {
    "bytes": ("pwrite64", "pwritev", "pwritev2"),
    "lengths": ("ftruncate",),
    "syncs": ("fdatasync", "fsync"),
    "names": ("mkdir", "rename", "unlink", "rmdir"),
    "locks": ("fcntl",),
    "descriptors": ("openat", "close"),
    "answers": ("write",),
}
STEP = {"fcntl": 5, "openat": 11, "close": 11}
"""In the fast tier every so many calls are met, of the others every third; where another process
looks on all of those around a new name."""
FAULTS = {
    "EIO": ("pwrite64", "pwritev", "pwritev2", "fdatasync", "fsync", "ftruncate", "rename", "unlink"),
    "ENOSPC": ("pwrite64", "pwritev", "pwritev2", "mkdir", "rename", "openat"),
}
TYPED = {name for name, kind in vars(errors).items() if isinstance(kind, type)} | {"OSError"}

WITNESS = Producer(2, False, 20, 300)
"""Who was there all the time."""

pytestmark = pytest.mark.slow


class Traced:
    """Tells the story again and again, with `strace` at its calls."""

    def __init__(self, directory: Path) -> None:
        """Start the process that forks the others."""
        self.directory, self._server = directory, Child(SERVE)

    def close(self) -> None:
        """Leave nothing behind."""
        self._server.close()

    def tell(self, data: Path, *options: str, beside: bool = False) -> tuple[int, list[str]]:
        """How the process of one story ended, and what it said; *beside* another that has the log open."""
        lines: list[str] = []
        self._server.say(str(data))
        pid = int(self._until("stopped", lines))
        log = Log(data) if beside else None
        try:
            if log is not None:
                settle(log)  # It knows the segments as they are now.
            tracer = subprocess.Popen(["strace", "-p", str(pid), *options], stderr=subprocess.PIPE, text=True)
            try:
                assert tracer.stderr is not None
                attached = tracer.stderr.readline()
                os.kill(pid, signal.SIGCONT)
                ended = int(self._until("ended", lines))
                if "attached" not in attached:  # Where it cannot, the story is told to its end.
                    pytest.skip(f"needs strace and ptrace: {attached.strip()}")
                return ended, lines
            finally:
                tracer.communicate(timeout=TIMEOUT_S)
        finally:
            if log is not None:
                with log:
                    look(log, Said.of(lines, killed=True))

    def count(self, calls: tuple[str, ...], *, beside: bool = False) -> Counter[str]:
        """How often each of *calls* is made in a whole story."""
        output, trace = self.directory / "calls", f"trace={','.join(calls)}"
        ended, _ = self.tell(self.directory / "counted", "-o", str(output), "-e", trace, beside=beside)
        assert ended == 0
        return Counter(re.findall(r"^(\w+)\(", output.read_text(), re.MULTILINE))

    def _until(self, word: str, lines: list[str]) -> str:
        while not (line := self._server.hear()).startswith(f"{word} "):
            lines.append(line)
        return line.split()[1]


@pytest.fixture
def traced(report: Callable[[str], None]) -> Iterator[Traced]:
    """Stories in memory; skips where there is no strace."""
    if shutil.which("strace") is None:
        report("not run, there is no strace")
        pytest.skip("needs strace and ptrace: there is no strace")
    with tempfile.TemporaryDirectory(prefix="framework-calls-", dir=in_memory()) as path:
        traced = Traced(Path(path))
        yield traced
        traced.close()


def settle(log: Log) -> None:
    """Bring to disk what a killed process has only written, as any process does that comes by."""
    for name in log.topics():
        for number in partitions(log, name):
            # A topic whose deletion was begun.
            with suppress(UnknownTopic):
                log.sync(the(log, (name, number))).result(TIMEOUT_S)


def look(log: Log, said: Said) -> None:
    """Another process, which had the log open all the time, finds what was acknowledged, and appends behind it."""
    with violations():
        settle(log)
        for name in set(log.topics()) - said.deleting:
            for number in partitions(log, name):
                key = (name, number)
                check_partition(log, key, said)
                log.append(the(log, key), [WITNESS.batch(0)]).result(TIMEOUT_S)
                log.sync(the(log, key)).result(TIMEOUT_S)
                check_partition(log, key, said)


def judge(data: Path, said: Said) -> None:
    """The next opener, on the same boot."""
    with violations():
        with Log(data) as log:
            settle(log)
            check(log, said)
            check_going_on(log, said)
        with Log(data) as log:
            settle(log)
            check(log, said)
        check_files(data)


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another"])
@pytest.mark.parametrize("kind", CALLS)
def test_a_process_killed_at_any_system_call_loses_and_doubles_nothing(
    traced: Traced, kind: str, beside: bool, seed: int, report: Callable[[str], None]
) -> None:
    """Killed in front of the call: it did all that comes before, and stored in the shared file what it had to."""
    kills, calls = 0, traced.count(CALLS[kind], beside=beside)
    for call, count in calls.items():
        step = 1 if TORTURE or (beside and call in ("rename", "fsync")) else STEP.get(call, 3)
        for number in range(1 + seed % step, count + 1, step):
            where = f"killed at {call} {number} of {count}"
            data = traced.directory / f"{call} {number}"
            with told(where):
                ended, lines = traced.tell(data, *injected(call, "signal=KILL", number), beside=beside)
                assert ended == -signal.SIGKILL, f"{where}: {ended}"
                judge(data, Said.of(lines, killed=True))
            shutil.rmtree(data)
            kills += 1
        data = traced.directory / f"{call} to the end"
        ended, lines = traced.tell(data, *injected(call, "signal=KILL", count + 1), beside=beside)
        assert ended == 0, "every call was counted"
        judge(data, Said.of(lines, killed=True))
    assert kills
    report(f"{kind}: killed at {kills} of {', '.join(f'{count} {call}' for call, count in calls.items())}")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_system_call_that_fails_loses_nothing_that_was_acknowledged_and_is_said_to_have_failed(
    traced: Traced, fault: str, seed: int, report: Callable[[str], None]
) -> None:
    """The process goes on with what it can; the next one that opens the directory can do everything."""
    failed: Counter[str] = Counter()
    cases, calls = 0, traced.count(FAULTS[fault])
    step = 1 if TORTURE else 9
    for call, count in calls.items():
        for number in range(1 + seed % step, count + 1, step):
            where = f"{fault} at {call} {number} of {count}"
            data = traced.directory / f"{call} {number}"
            with told(where):
                ended, lines = traced.tell(data, *injected(call, f"error={fault}", number))
                assert ended == 0, where
                failures = [line.split(maxsplit=4) for line in lines if line.startswith("failed")]
                assert {failure[3] for failure in failures} <= TYPED, failures
                failed.update(f"{call}: {failure[3]}" for failure in failures)
                judge(data, Said.of((line for line in lines if not line.startswith("failed")), killed=True))
            shutil.rmtree(data)
            cases += 1
    assert failed
    if TORTURE and fault == "EIO":
        assert failed["fdatasync: PartitionFailed"], "a sync that failed is not tried again"
    report(f"{fault}: {cases} calls failed; said was {dict(failed)}")


def injected(call: str, fault: str, number: int) -> tuple[str, ...]:
    """The options of strace that let *fault* happen at the call *number*."""
    return ("-o", os.devnull, "-e", f"trace={call}", "-e", f"inject={call}:{fault}:when={number}")


@contextmanager
def told(where: str) -> Iterator[None]:
    """Say where a violation was."""
    try:
        yield
    except Violation as violation:
        raise Violation(violation.check, f"{violation}\n{where}") from violation
