"""A disk that is full or fails, at every write and sync of a commit: nothing is lost, nothing is done twice.

A full disk is waited for in the same process. A disk that fails is asked again, unless it was the sync of a
partition, which is not tried again (F5): then the worker ends, and the next one ends exact.
"""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from framework import full_disk
from framework.log import Log
from framework.log.errors import Error
from framework.worker import Worker
from tests.faults.commit_cases import ROUND, VALUE_BYTES, build, make, work_again, wrong
from tests.faults.failing_disk import Refusals, RefusingDatabase, RefusingFiles
from tests.faults.log_power import TORTURE
from tests.until import until

LIMIT_S = 20.0
ROUNDS = 2
LONG = 30
"""How many operations are refused, where it lasts."""

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried again at once; and several commits, each behind a few records."""
    monkeypatch.setattr(full_disk, "DISK_RETRY_S", 0.001)
    monkeypatch.setattr("framework.effects.SOFT_LIMIT_BYTES", 7 * VALUE_BYTES)


async def work(data: Path, refusals: Refusals) -> None:
    """One worker, on the disk that refuses."""
    app = build(data)
    app.open(create=False, log=Log(data))
    for number in range(ROUNDS * ROUND):
        app.topics["numbers"].send(number)
    await app.topics["numbers"].send(1)
    app.close()
    RefusingDatabase.refusals = refusals
    app = build(data)
    app.open(create=False, log=Log(data, files=RefusingFiles(refusals)))
    try:
        async with asyncio.timeout(LIMIT_S):
            worker = Worker(app, open_database=RefusingDatabase)
            async with worker.running():
                refusals.arm()
                await until(lambda: worker.idle)
    finally:
        app.close()


def case(data: Path, refusals: Refusals) -> str:
    """What became of a worker on such a disk: `went on`, or the name of its error; then all must be exact."""
    make(data, 2)
    outcome = "went on"
    try:
        asyncio.run(work(data, refusals))
    except (Error, OSError) as error:
        outcome = type(error).__name__
        if "next start" not in str(error):
            outcome += f", but it says {error}"
        work_again(data)
    if difference := wrong(data):
        outcome += f", but {difference}"
    shutil.rmtree(data)
    return outcome


@pytest.mark.parametrize("count", [1, LONG], ids=["once", "for a while"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["full", "failing"])
def test_a_disk_that_refuses_any_operation_of_a_commit_loses_and_doubles_nothing(
    tmp_path: Path, number: int, count: int, report: Callable[[str], None]
) -> None:
    """The worker goes on by itself, or ends with an error that says what to do."""
    quiet = Refusals()
    assert case(tmp_path / "data", quiet) == "went on"
    assert quiet.names.count("write commit") > 2
    outcomes: dict[str, Counter[str]] = {}
    tried = Counter[str]()
    for name in quiet.names:
        target, tried[name] = (name, tried[name]), tried[name] + 1
        if tried[name] > (3 if count == 1 else 1) and not TORTURE:
            continue
        for lands in (False, True) if name.startswith("write commit") else (False,):
            refusals = Refusals(number, target, count, syncs=number == errno.EIO, lands=lands)
            outcome = case(tmp_path / "data", refusals)
            # Where threads took other turns there may have been one less of it, and nothing to refuse.
            outcomes.setdefault(name, Counter())[outcome if refusals.refused else "never came"] += 1
    report("\n".join(f"{name:24} {dict(found)}" for name, found in sorted(outcomes.items())))
    assert not [name for name, found in outcomes.items() if any("but" in outcome for outcome in found)]
    assert {"write commit", "sync commit", "write log", "sync log", "write outbox deletion"} <= outcomes.keys()
    assert not [name for name, found in outcomes.items() if set(found) == {"never came"}]
    ended = {name for name, found in outcomes.items() if set(found) - {"went on", "never came"}}
    if number == errno.ENOSPC or count == 1:
        # The sync of a partition is not tried again, whatever it failed of.
        assert ended <= {"sync log", "sync appended"}
    else:
        assert ended >= {"write commit", "sync commit", "write log"}, "a disk that fails for good ends the worker"
