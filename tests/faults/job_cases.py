"""Runs jobs that die at every operation of their plans and commits, or at random moments, and compares.

    python job_cases.py seams DIRECTORY JOB SHARE SEED [MUTATION]
    python job_cases.py moments DIRECTORY KILLS SEED

Prints one JSON object: for seams the points there are, how often each was hit, and every case that did not end exact;
SHARE is how many of the points are tried, one in so many. Each worker is a process of its own, forked from this one,
which has no threads and no log open. With a mutation the commits are broken on purpose.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from framework.errors import JobFailed
from framework.jobs.attempt import Attempt
from framework.jobs.runner import JobRunner
from framework.jobs.runs import RunRow
from framework.state import rows
from framework.state.store import Commit, Store
from tests.faults.commit_cases import in_child
from tests.faults.job_app import Site, make
from tests.faults.points import DyingDatabase, DyingFiles, Points

AT_ONCE = 17
FAILS, CANCELS = 0.02, 0.05
"""How often a handler raises in a chunk, and how often a run is cancelled in a turn."""
MAX_TURNS = 60
"""How long a worker lives at most."""


# At every operation.


async def begin(data: Path, job: str) -> None:
    """A first run, so that all segments have been made: those of a log are another test's."""
    make(data)
    site = Site(data, jobs=[job])
    async with site.served():
        await site.send(range(100, 106))
        site.pass_hour()
        await site.idle()


async def work(data: Path, points: Points, job: str) -> None:
    """One run that was due, and one that somebody wants."""
    DyingDatabase.points = points
    site = Site(data, hour=1, jobs=[job])
    async with site.served(DyingFiles(points), DyingDatabase):
        points.arm()
        await site.send(range(AT_ONCE))
        site.pass_hour()
        await site.idle()
        await site.send(range(AT_ONCE, AT_ONCE + 5))
        await site.runner.run(site.jobs[0], site.clock.now)


async def work_again(data: Path, job: str) -> str | None:
    """More input before the start; then what was interrupted, and what is due. What is wrong then."""
    site = Site(data, hour=2, jobs=[job])
    with site.app.opened(create=False):
        await site.send(range(1000, 1010))
    async with site.served():
        plans = site.plans()
        await site.idle()
        site.pass_hour()
        await site.idle()
        return site.wrong(plans)


def case(
    begun: Path, job: str, target: tuple[str, int] | None = None, *, after: bool = False
) -> tuple[list[str], str | None]:
    """Go on in a copy of *begun*, die at *target*, start again with more input, compare; (points, what is wrong)."""
    data = begun.with_name("data")
    shutil.copytree(begun, data)
    dying = Points(target, after=after)

    def first(pipe: int) -> None:
        dying.report = pipe
        asyncio.run(work(data, dying, job))
        os.write(pipe, "\n".join(dying.names).encode())

    def second(pipe: int) -> None:
        os.write(pipe, (asyncio.run(work_again(data, job)) or "").encode())

    _, names = in_child(first)
    status, difference = in_child(second)
    shutil.rmtree(data)
    data.with_name("data-outside").unlink()
    return names.split("\n"), difference or ("the restart failed" if status else None)


def seams(root: Path, job: str, share: int, seed: int) -> dict[str, Any]:
    """Every point, or one in *share*, before and after."""
    hits: Counter[str] = Counter()
    failures: list[str] = []
    begun = root / "begun"
    in_child(lambda _: asyncio.run(begin(begun, job)))
    names, difference = case(begun, job)
    if difference is not None:
        failures.append(f"killed nowhere: {difference}")
    broken = bool(sys.argv[6:])
    for number, name in enumerate(names):
        if broken and name != "write commit":
            continue  # What is broken is in the order of these.
        for when in ("before", "after"):
            if (2 * number + (when == "after") + seed) % share:
                continue
            # Threads take turns as they like, so a point is known by its name.
            target = (name, names[: number + 1].count(name))
            died, difference = case(begun, job, target, after=when == "after")
            if len(died) == 1:
                hits[f"{when} {died[0]}"] += 1
            if difference is not None:
                failures.append(f"{when} {number} {name}: {difference}")
        if failures and broken:
            break  # Found out.
    return {"points": sorted(set(names)), "hits": hits, "failures": failures}


def mutate(name: str) -> None:
    """Break plans or commits the way *name* says."""
    commit_all = Store.commit

    def kinds(commit: Commit) -> list[RunRow]:
        return [RunRow.load(value) for key, value in commit.changes if key.startswith(b"r") and value is not None]

    def split(first: bool, key_prefix: bytes) -> None:
        """Rows of chunks that begin with *key_prefix* are committed by themselves, *first* or last."""

        def commit(self: Store, commit: Commit) -> None:
            alone = [change for change in commit.changes if change[0].startswith(key_prefix)]
            if len(alone) == len(commit.changes) or not kinds(commit):
                commit_all(self, commit)
                return
            commit.changes = [change for change in commit.changes if not change[0].startswith(key_prefix)]
            if first:
                commit_all(self, Commit(alone))
            commit_all(self, commit)
            if not first:
                commit_all(self, Commit(alone))

        Store.commit = commit  # type: ignore[method-assign]

    if name == "plan-late":

        def commit(self: Store, commit: Commit) -> None:
            if not any(row.state in ("planned", "running") and row.chunk == 0 for row in kinds(commit)):
                commit_all(self, commit)

        Store.commit = commit  # type: ignore[method-assign]
    elif name == "progress-apart":
        split(False, b"r")
    elif name == "position-apart":
        split(False, rows.offset_key("", "", 0)[:1])
    elif name == "position-forgotten":
        Attempt._moved = lambda self, row: []  # type: ignore[method-assign]
    else:
        raise SystemExit(f"no mutation {name!r}")


# At random moments.


async def live(data: Path, seed: int, turn: int, pipe: int) -> None:
    """Send and run until killed."""
    draw = random.Random(seed)
    site = Site(data, hour=turn)

    def may_fail(job: str) -> None:
        if draw.random() < FAILS:
            raise RuntimeError("at random")

    site.on_chunk = may_fail
    number = turn * 1_000_000

    async def by_hand(runner: JobRunner) -> None:
        with suppress(JobFailed):  # It was cancelled.
            await runner.run(draw.choice(site.jobs), site.clock.now)

    async with site.served() as runner, asyncio.TaskGroup() as group:
        seen = dict[str, Any]()
        while True:
            await site.send(range(number, number + AT_ONCE))
            number += AT_ONCE
            what = draw.random()
            if what < 0.2:
                site.pass_hour()
            elif what < 0.3:
                group.create_task(by_hand(runner))
            for row in list(runner.active.values()):
                if draw.random() < CANCELS:
                    runner.cancel(row, "at random")
            new = {run: plan for run, plan in site.plans().items() if run not in seen}
            seen |= new
            os.write(pipe, json.dumps(new).encode() + b"\n")


def kill(data: Path, draw: random.Random, turn: int, plans: dict[str, Any]) -> bool:
    """Start a worker and kill it at a random moment; whether it was alive then. Adds to the *plans* that were seen."""
    reading, writing = os.pipe()
    seed = draw.randrange(1 << 32)
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # the failures that are made up
            asyncio.run(live(data, seed, turn, writing))
        finally:
            os._exit(1)
    os.close(writing)
    turns = draw.randint(1, MAX_TURNS)
    with os.fdopen(reading) as pipe:
        lines = [pipe.readline() for _ in range(turns)]
        os.kill(pid, signal.SIGKILL)  # While somebody listens: a broken pipe would end it, too.
        alive = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    for line in lines:
        for run, plan in json.loads(line or "{}").items():
            plans.setdefault(run, plan)
    return alive


def moments(root: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill, finish, compare."""
    draw, data, plans = random.Random(seed), root / "data", dict[str, Any]()
    make(data)
    killed = sum(kill(data, draw, turn * 200, plans) for turn in range(kills))

    async def finish() -> dict[str, Any]:
        site = Site(data, hour=kills * 200)
        async with site.served():
            await site.idle()
            site.pass_hour()
            await site.idle()
            states = Counter(row.state for job in site.jobs for row in site.runner.history(job))
            resumed = sum(row.attempt > 1 for job in site.jobs for row in site.runner.history(job))
            counts = {"records": sum(1 for _ in site.numbers.read()), "resumed": resumed, **states}
            return {"wrong": site.wrong(plans), "counts": counts}

    def tell(pipe: int) -> None:
        os.write(pipe, json.dumps(asyncio.run(finish())).encode())

    status, found = in_child(tell)
    return {"killed": killed, "plans": len(plans), "status": status, **json.loads(found or "{}")}


def main() -> None:
    """What the arguments say."""
    root = Path(sys.argv[2])
    if sys.argv[1] == "moments":
        json.dump(moments(root, int(sys.argv[3]), int(sys.argv[4])), sys.stdout)
        return
    for name in sys.argv[6:]:
        mutate(name)
    json.dump(seams(root, sys.argv[3], int(sys.argv[4]), int(sys.argv[5])), sys.stdout)


if __name__ == "__main__":
    main()
