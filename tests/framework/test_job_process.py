"""Jobs with executor="process": what they do is as in a thread; whoever dies, and when, leaves nothing half done."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from framework.errors import JobFailed
from framework.jobs.job import Job
from framework.jobs.process import ended_how
from framework.jobs.runs import RunRow
from framework.log.errors import Error
from framework.state.errors import DiskFailed
from framework.testing import Harness
from framework.worker import Worker
from tests.framework import process_app as its
from tests.framework.job_history import history, runner
from tests.framework.process_app import BEGUN
from tests.log.conftest import Child
from tests.until import until

pytestmark = pytest.mark.slow

WORKER = """
import asyncio
from framework.worker import Worker
from tests.framework.process_app import add, app, numbers

async def main():
    app.place = Path(sys.argv[1])
    async with Worker(app).running() as worker:
        for number in map(int, sys.argv[2:]):
            await numbers.send(number)
        await worker.jobs.run(add, worker.jobs.now())

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a handler writes its process id that waits to be ended."""
    path = tmp_path / "started"
    monkeypatch.setenv("STARTED", str(path))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    return path


@pytest.fixture
async def t() -> AsyncIterator[Harness]:
    """The app under test."""
    async with its.app.testing() as t:
        yield t


def is_gone(pid: int) -> bool:
    """Whether a process has ended; what nobody has asked about yet has, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def pid_in(started: Path) -> int:
    """The process that waits, once there is one."""
    return int(started.read_text() or 0) if started.exists() else 0


async def send(values: Iterable[int]) -> None:
    """Send numbers, to the partitions in turn."""
    for value in values:
        await its.numbers.send(value)


@asynccontextmanager
async def running(t: Harness, job: Job) -> AsyncIterator[asyncio.Task[Any]]:
    """A run of *job*, which has ended at the end of the body, well or not."""
    async with asyncio.TaskGroup() as group:

        async def run() -> None:
            try:
                await t.run(job)
            except (Error, ExceptionGroup):
                assert history(t, job)[-1].state != "succeeded"

        yield group.create_task(run())


def check_exact(values: Iterable[int], row: RunRow) -> None:
    """Each of *values* is in the table, and in the output, once."""
    values = sorted(values)
    assert sorted(its.out.read()) == values
    assert {key: (row.count, row.total) for key, row in its.totals.items()} == {
        str(rest): (len(some), sum(some)) for rest in range(3) if (some := [v for v in values if v % 3 == rest])
    }
    assert (row.state, row.records, row.error, row.traceback) == ("succeeded", len(values), "", "")


async def test_tables_outputs_chunks_and_dead_letters_are_as_in_a_thread(t: Harness) -> None:
    await send(range(7))
    await its.numbers.send_raw(None, b"nonsense", None, [])
    await t.run(its.add)
    [row] = history(t, its.add)
    assert (row.records, row.chunk, row.attempt) == (8, 4, 1)
    row.records -= 1
    check_exact(range(7), row)
    assert [letter.value for letter in t.dead_letters(its.add)] == [b"nonsense"]


async def test_rows_are_read_changed_removed_and_gone_through_and_what_is_printed_is_seen(
    t: Harness, started: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """More rows than are asked for at once; the lifespan runs in the process; keys, headers and tombstones are sent."""
    await t.run(its.look)
    await send([5])
    await t.run(its.look)
    printed = [line for line in capfd.readouterr().out.splitlines() if line.startswith("look")]
    sums = "{" + ", ".join(f"'row-{at:04}': {at + 1}" for at in range(2500)) + "}"
    assert printed == [f"look: {{}} 0 True {started}", f"look: {sums} 1 True {started}"]
    assert [row.total for _, row in its.totals.items()] == list(range(1, 2501))
    records = [(record.key, record.value, record.headers) for record in its.out.read().records()]
    assert records == [("k", 1, {"h": b"x"}), ("k", None, {})] * 2
    times = {record.timestamp for record in its.out.read().records()}
    assert times == {t.clock.now}, "the time in the process is that of the test"


@pytest.mark.parametrize("what", [0, 1, 3], ids=["kill -9", "an error", "sys.exit"])
async def test_a_handler_that_comes_to_grief_is_called_again_at_its_last_chunk(t: Harness, what: int) -> None:
    values = [0, 1, 2, 3, 4, BEGUN + what, 6, 7]
    await send(values)
    await t.run(its.add)
    [row] = history(t, its.add)
    assert (row.attempt, row.failures) == (2, 1)
    check_exact(values, row)


@pytest.mark.parametrize(
    ("number", "attempts", "error"),
    [(BEGUN + 2, 1, "KeyError: 'for which retries are not'"), (BEGUN + 1, 2, "")],
)
async def test_the_error_and_its_traceback_are_those_of_the_handler(
    t: Harness, number: int, attempts: int, error: str
) -> None:
    """And `retries` are for the errors that they are for."""
    await send([number])
    if not error:
        await t.run(its.add)
    else:
        with pytest.raises(JobFailed, match="KeyError"):
            await t.run(its.add)
    [row] = history(t, its.add)
    assert (row.attempt, row.error) == (attempts, error)
    if error:
        assert 'raise KeyError("for which retries are not")' in row.traceback
        assert "process_app.py" in row.traceback


async def test_its_process_is_killed_in_the_middle(
    t: Harness, started: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What it had printed is seen all the same."""
    values = [0, 1, 2, 3, 4, BEGUN + 4, 6, 7]
    await send(values)
    async with running(t, its.add):
        await until(lambda: pid_in(started))
        [row] = runner(t).active.values()
        assert row.chunk > 0, "some of it is committed"
        os.kill(pid_in(started), signal.SIGKILL)
    [row] = history(t, its.add)
    assert row.attempt == 2
    check_exact(values, row)
    assert "waiting" in capfd.readouterr().out.splitlines()


async def test_it_dies_after_its_last_commit_before_anybody_is_told(t: Harness) -> None:
    """The run has succeeded: it is not run again."""
    await send([1, 2])
    run = await t.run(its.late)
    [row] = history(t, its.late)
    assert (run.attempt, row.state, row.attempt, sorted(t.sent(its.out))) == (1, "succeeded", 1, [1, 2])


@pytest.mark.parametrize("how", ["timeout", "cancel", "crash"])
async def test_it_is_ended_by_its_timeout_by_a_cancel_and_with_its_worker(t: Harness, started: Path, how: str) -> None:
    await send([1])
    async with running(t, its.hang) as run:
        await until(lambda: pid_in(started))
        pid = pid_in(started)
        if how == "timeout":
            t.clock.advance(its.hang.policies.timeout)  # type: ignore[arg-type]
        elif how == "cancel":
            [row] = runner(t).active.values()
            runner(t).cancel(row, "by a test")
        else:
            run.cancel()
            runner(t).kill()
        await until(lambda: is_gone(pid))
    [row] = history(t, its.hang)
    assert row.state == {"timeout": "timeout", "cancel": "cancelled", "crash": "running"}[how]


async def test_a_table_that_somebody_else_owns(t: Harness) -> None:
    await send([1])
    await t.run(its.add)
    with pytest.raises(JobFailed, match="TableOwned"):
        await t.run(its.own)


async def test_a_disk_that_fails_under_the_worker_is_no_fault_of_the_process(
    t: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it waited for: it is ended, and the run goes on when the disk does."""
    await send([1])
    commits = list[int]()
    store = runner(t).store
    commit = store.commit

    def refuse(what: Any) -> None:
        if any(key.startswith(b"t") for key, _ in what.changes):
            commits.append(1)
            if len(commits) == 1:
                raise DiskFailed("no luck")
        commit(what)

    monkeypatch.setattr(store, "commit", refuse)
    with pytest.raises(DiskFailed):
        await t.run(its.add)
    [row] = runner(t).waiting_rows.values()
    await runner(t).finish(its.add, row)
    check_exact([1], history(t, its.add)[0])


@pytest.fixture
def child_of() -> Iterator[list[Child]]:
    """Workers in processes of their own; ended after the test."""
    children: list[Child] = []
    yield children
    for child in children:
        child.close()


async def test_its_worker_is_killed(tmp_path: Path, started: Path, child_of: list[Child]) -> None:
    """No orphan goes on, and the next worker resumes the run at its last chunk."""
    values = [0, 1, 2, 3, 4, BEGUN + 4, 6, 7]
    child_of.append(Child(WORKER, tmp_path / "data", *values))
    await until(lambda: pid_in(started))
    pid = pid_in(started)
    assert not is_gone(pid)
    child_of[0].kill()
    await until(lambda: is_gone(pid))
    its.app.place = tmp_path / "data"
    try:
        worker = Worker(its.app)
        async with worker.running():
            jobs = worker.jobs
            assert jobs is not None
            await until(lambda: [row.state for row in jobs.history(its.add)] == ["succeeded"])
            its.app.refresh()
            [row] = jobs.history(its.add)
            assert (row.attempt, row.crashes) == (2, 0)
            check_exact(values, row)
    finally:
        its.app.close()
        its.app.place = None


def test_how_a_process_ended_is_said_in_words() -> None:
    assert ended_how(0) == "ended with exit code 0 before its work was done"
    assert ended_how(-11) == "was killed by signal 11 (SIGSEGV)"
    assert ended_how(-9) == "was killed by signal 9 (SIGKILL): was there too little memory?"
