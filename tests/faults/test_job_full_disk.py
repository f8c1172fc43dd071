"""A disk that is full or fails, at every write and sync of a job's plan, chunks and last commit: the run ends exact.

A full disk is waited for in the same process. A disk that fails is asked again, unless it was the sync of a
partition, which is not tried again (F5): then the worker ends, and the next one finishes the run.
"""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from framework import full_disk
from framework.jobs.commands import Commands
from framework.log.errors import Error
from framework.state.errors import StateFailed
from tests.faults.failing_disk import Refusals, RefusingDatabase, RefusingFiles
from tests.faults.job_app import Site, make
from tests.faults.log_power import TORTURE

LIMIT_S = 20.0
LONG = 30
"""How many operations are refused, where it lasts."""

KINDS = [(errno.ENOSPC, 1), (errno.ENOSPC, LONG), (errno.EIO, LONG), *[(errno.EIO, 1)] * TORTURE]
"""Which error, and how many operations are refused with it."""

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried again at once."""
    monkeypatch.setattr(full_disk, "DISK_RETRY_S", 0.001)


async def work(data: Path, refusals: Refusals, job: str) -> str | None:
    """One run, due on the disk that refuses; what is wrong behind it."""
    site = Site(data, jobs=[job])
    with site.app.opened(create=False):
        await site.send(range(20))
    RefusingDatabase.refusals = refusals
    async with asyncio.timeout(LIMIT_S), site.served(RefusingFiles(refusals), RefusingDatabase):
        await asyncio.sleep(0)
        refusals.arm()
        site.pass_hour()
        await site.idle()
        refusals.disarm()
        return site.wrong({})


async def work_again(data: Path, job: str) -> str | None:
    """The next worker finishes; what is wrong then."""
    site = Site(data, hour=1, jobs=[job])
    async with asyncio.timeout(LIMIT_S), site.served():
        plans = site.plans()
        await site.idle()
        return site.wrong(plans)


def case(data: Path, refusals: Refusals, job: str) -> str:
    """What became of the jobs on such a disk: `went on`, or the name of the error; then all must be exact."""
    make(data)
    outcome = "went on"
    try:
        difference = asyncio.run(work(data, refusals, job))
    except (Error, OSError) as error:
        outcome = type(error).__name__
        if "next start" not in str(error):
            outcome += f", but it says {error}"
        difference = asyncio.run(work_again(data, job))
    if difference:
        outcome += f", but {difference}"
    shutil.rmtree(data)
    data.with_name(f"{data.name}-outside").unlink(missing_ok=True)
    return outcome


@pytest.mark.parametrize(("number", "count"), KINDS)
def test_a_disk_that_refuses_any_operation_of_a_run_loses_and_doubles_nothing(
    tmp_path: Path, number: int, count: int, report: Callable[[str], None]
) -> None:
    """Of its plan, its chunks, its outputs and its end; a write that is refused may be there all the same."""
    outcomes: dict[str, Counter[str]] = {}
    for job in ("chunked", "whole", "looped") if TORTURE else ("chunked",):
        quiet = Refusals()
        assert case(tmp_path / "data", quiet, job) == "went on"
        assert quiet.names.count("write commit") > 2
        tried = Counter[str]()
        for name in quiet.names:
            target, tried[name] = (name, tried[name]), tried[name] + 1
            if tried[name] > (1 if name != "write commit" else 10 if count == 1 else 4) and not TORTURE:
                continue
            for lands in (False, True) if name == "write commit" and (count == 1 or TORTURE) else (False,):
                refusals = Refusals(number, target, count, syncs=number == errno.EIO, lands=lands)
                outcome = case(tmp_path / "data", refusals, job)
                # Where threads took other turns there may have been one less of it, and nothing to refuse.
                outcomes.setdefault(name, Counter())[outcome if refusals.refused else "never came"] += 1
    report("\n".join(f"{name:24} {dict(found)}" for name, found in sorted(outcomes.items())))
    assert not [name for name, found in outcomes.items() if any("but" in outcome for outcome in found)]
    assert {"write commit", "sync commit", "write log", "sync log", "write outbox deletion"} <= outcomes.keys()
    ended = {name for name, found in outcomes.items() if set(found) - {"went on", "never came"}}
    if number == errno.ENOSPC or count == 1:
        # The sync of a partition is not tried again, whatever it failed of.
        assert ended <= {"sync log", "sync appended"}
    else:
        assert ended >= {"write commit", "sync commit", "write log"}, "a disk that fails for good ends the worker"


async def test_a_command_that_comes_while_the_disk_is_full_is_refused_and_the_worker_goes_on(tmp_path: Path) -> None:
    """What could not be stored is not so in memory either."""
    make(tmp_path / "data")
    site = Site(tmp_path / "data", jobs=["whole"])
    RefusingDatabase.refusals = refusals = Refusals(errno.ENOSPC, ("write commit", 0), 1)
    async with asyncio.timeout(LIMIT_S), site.served(open_database=RefusingDatabase) as runner:
        await site.idle()
        refusals.arm()
        commands = Commands(runner)
        with pytest.raises(StateFailed, match="No space left on device"):
            await commands.pause("whole", by="a test", why="to see")
        await site.send(range(5))
        site.pass_hour()
        await site.idle()
        assert runner.states.of(site.jobs[0]).paused is None
        assert (await commands.pause("whole", by="a test", why="to see")).text.startswith("job 'whole' is paused")
        assert site.wrong({}) is None


async def test_a_handler_that_swallows_the_failure_of_its_commit_is_called_again(tmp_path: Path) -> None:
    """What the chunk did would be missing in the next commit, if there was one."""
    make(tmp_path / "data")
    site, swallowed = Site(tmp_path / "data", jobs=[]), list[BaseException]()
    sums = site.app.table("sums", int)

    def careless(batch: object) -> None:
        chunks = iter(batch.chunks(100))  # type: ignore[attr-defined]
        try:
            for chunk in chunks:
                sums["all"] += sum(chunk)
                site.done.send({"job": "careless"})
        except StateFailed as error:
            swallowed.append(error)
            site.runner._reopen()  # As another job does that waits for the disk.

    site.jobs.append(site.app.job(site.numbers, schedule="@hourly", name="careless")(careless))
    RefusingDatabase.refusals = refusals = Refusals(errno.ENOSPC, ("write commit", 2), 1)
    async with asyncio.timeout(LIMIT_S), site.served(open_database=RefusingDatabase) as runner:
        await site.send(range(5))
        await site.idle()
        refusals.arm()
        site.pass_hour()
        await site.idle()
        assert len(swallowed) == 1
        assert [(row.state, row.attempt) for row in runner.history(site.jobs[0])] == [("succeeded", 2)]
        assert len(list(site.done.read())) == 1
        assert dict(sums.items()) == {"all": 10}


async def test_a_timer_whose_commit_was_refused_is_called_again_for_the_same_time(tmp_path: Path) -> None:
    """What it sent is sent once."""
    make(tmp_path / "data")
    site, calls = Site(tmp_path / "data", jobs=[]), list[int]()

    @site.app.timer(timedelta(hours=1))
    def tick() -> None:
        calls.append(len(calls))
        site.ends.send("tick")

    RefusingDatabase.refusals = refusals = Refusals(errno.ENOSPC, ("write commit", 0), 1)
    async with asyncio.timeout(LIMIT_S), site.served(open_database=RefusingDatabase):
        await site.idle()
        refusals.arm()
        site.pass_hour()
        await site.idle()
        assert refusals.refused
        assert list(site.ends.read()) == ["tick"]
        assert calls == [0, 1]
