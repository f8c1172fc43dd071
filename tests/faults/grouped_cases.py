"""Kills workers of three stages at every operation, as `commit_cases.py` does for one agent: see there.

    python grouped_cases.py DIRECTORY PARTITIONS [no-replay | no-dedup]

filter -> group_by -> a keyed table with outputs, which another agent folds into a table of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

from framework import App, Stream, Table
from framework.log import Log
from framework.worker import Worker
from tests.faults.commit_cases import in_child, mutate
from tests.faults.points import DyingDatabase, DyingFiles, Points
from tests.until import until

ROUND, EXTRA = 12, 5


def key(number: int) -> str:
    """The key behind the group_by."""
    return f"k{number % 3}"


def build(data: Path, partitions: int) -> App:
    """Three stages: before the group_by, behind it, and an agent that reads what comes out."""
    app = App("faults", data=data, partitions=partitions)
    numbers, out = app.topic("numbers", int, key=str), app.topic("out", list, key=lambda pair: pair[0])
    sums = app.table("sums", int)
    last: Table[list[object]] = app.table("last", list)

    @app.agent(numbers)
    async def fold(stream: Stream[int]) -> None:
        async for number in stream.filter(lambda n: n % 4).group_by(key):
            sums[key(number)] += number
            out.send([key(number), number])

    @app.agent(out)
    async def collect(stream: Stream[list[object]]) -> None:
        async for name, number in stream:
            last[str(name)].append(number)

    return app


async def work(data: Path, points: Points, partitions: int) -> None:
    """Send `ROUND` numbers and handle them."""
    DyingDatabase.points = points
    app = build(data, partitions)
    app.open(create=True, log=Log(data, create=True, files=DyingFiles(points)))
    worker = Worker(app, open_database=DyingDatabase)
    async with worker.running():
        points.arm()
        for number in range(ROUND):
            ack = app.topics["numbers"].send(number)
        await ack
        await until(lambda: worker.idle)


def work_again(data: Path, partitions: int) -> None:
    """More input before the start, so that the batches of the next commit are others; then a worker until idle."""
    app = build(data, partitions)
    with app.opened(create=True):
        app.topics["numbers"].send_many(range(1_000, 1_000 + EXTRA))
    asyncio.run(Worker(app).run(until_idle=True))


def wrong(data: Path, partitions: int) -> str | None:
    """What differs from a plain fold over the input."""
    app = build(data, partitions)
    with app.opened(create=False):
        taken = [number for number in app.topics["numbers"].read() if number % 4]
        sums, lists = Counter[str](), dict[str, list[int]]()
        for number in taken:
            sums[key(number)] += number
            lists.setdefault(key(number), []).append(number)
        if sorted(map(tuple, app.topics["out"].read())) != sorted((key(number), number) for number in taken):
            return f"outputs: {len(list(app.topics['out'].read()))} for {len(taken)} inputs"
        if dict(app.tables["sums"].items()) != sums:
            return "the table behind the group_by"
        found = {name: sorted(numbers) for name, numbers in app.tables["last"].items()}
        return None if found == {name: sorted(numbers) for name, numbers in lists.items()} else "the last table"


def case(data: Path, partitions: int, target: tuple[str, int] | None, *, after: bool) -> tuple[list[str], str | None]:
    """Die at *target*, start again with more input, compare; (points, what is wrong)."""
    dying = Points(target, after=after)
    data.mkdir()

    def first(pipe: int) -> None:
        dying.report = pipe
        asyncio.run(work(data / "data", dying, partitions))
        os.write(pipe, "\n".join(dying.names).encode())

    def compare(pipe: int) -> None:
        os.write(pipe, (wrong(data / "data", partitions) or "").encode())

    _, names = in_child(first)
    status, _ = in_child(lambda _: work_again(data / "data", partitions))
    if status:
        return names.split("\n"), "the restart failed"
    status, difference = in_child(compare)
    return names.split("\n"), difference or ("the comparison failed" if status else None)


def main() -> None:
    """Every point, before and after."""
    root, partitions = Path(sys.argv[1]), int(sys.argv[2])
    for name in sys.argv[3:]:
        mutate(name)
    hits: Counter[str] = Counter()
    names, difference = case(root / "alive", partitions, None, after=False)
    failures = [] if difference is None else [f"killed nowhere: {difference}"]
    for number, name in enumerate(names):
        target = (name, names[: number + 1].count(name))
        for when in ("before", "after"):
            where = root / f"{number}-{when}"
            died, difference = case(where, partitions, target, after=when == "after")
            if len(died) == 1:
                hits[f"{when} {died[0]}"] += 1
            if difference is not None:
                failures.append(f"{partitions} partitions, {when} {number} {name}: {difference}")
            shutil.rmtree(where)
        if failures and sys.argv[3:]:
            break  # Found out.
    json.dump({"points": sorted(set(names)), "hits": hits, "failures": failures}, sys.stdout)


if __name__ == "__main__":
    main()
