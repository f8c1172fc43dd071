"""Runs workers that die at every operation of a commit, restarts them, and compares with a plain fold.

    python commit_cases.py DIRECTORY BATCHES ROUNDS [swap | no-replay | no-dedup]

There are ROUNDS commits, each of which sends BATCHES batches to one partition. Prints one JSON object: the points there
are, how often each was hit, and every case that did not end exact. Each worker is a process of its own, forked from
this one, which has no threads and no log open. With a mutation the commit is broken on purpose.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from framework import App, Stream, Table
from framework.log import Log, TopicSettings
from framework.log.producers import Producers
from framework.state.rows import Change
from framework.state.store import Commit, Store
from framework.worker import Worker
from tests.faults.points import DyingDatabase, DyingFiles, Points
from tests.until import until

ROUND = 12
EXTRA = 5
VALUE_BYTES = 300
MAX_MESSAGE_BYTES = {1: 1 << 20, 2: 2600, 10: 1024}
"""How many batches the outputs of one round become, and the setting that makes it so many."""


def build(data: Path) -> App:
    """An agent with a table of numbers, a table of lists, and an output for every input."""
    app = App("faults", data=data)
    numbers, out = app.topic("numbers", int), app.topic("out", dict)
    sums = app.table("sums", int)
    lists: Table[list[int]] = app.table("lists", list)

    @app.agent(numbers)
    async def fold(stream: Stream[int]) -> None:
        async for number in stream:
            key = f"k{number % 3}"
            sums[key] += number
            lists[key].append(number)
            out.send({"number": number, "sum": sums[key], "padding": "." * VALUE_BYTES}, key=key)

    return app


def make(data: Path, batches: int) -> None:
    """An empty directory with the two topics; segments so small that outputs roll."""
    with Log(data, create=True) as log:
        log.create_topic("numbers", 1)
        log.create_topic("out", 1, TopicSettings(segment_bytes=4096, max_message_bytes=MAX_MESSAGE_BYTES[batches]))


async def work(data: Path, points: Points, rounds: int) -> None:
    """Send `ROUND` numbers, wait until they are handled, and again: *rounds* commits in one worker."""
    DyingDatabase.points = points
    app = build(data)
    app.open(create=False, log=Log(data, files=DyingFiles(points)))
    worker = Worker(app, open_database=DyingDatabase)
    async with worker.running():
        points.arm()
        for turn in range(rounds):
            for number in range(turn * ROUND, (turn + 1) * ROUND):
                ack = app.topics["numbers"].send(number)
            await ack
            await until(lambda: worker.idle)


def work_again(data: Path) -> None:
    """More input before the start, so that the batches of the next commit are others; then a worker until idle."""
    app = build(data)
    with app.opened(create=False):
        app.topics["numbers"].send_many(range(1_000, 1_000 + EXTRA))
    asyncio.run(Worker(app).run(until_idle=True))


def in_child(run: Callable[[int], None]) -> tuple[int, str]:
    """Run in a forked process; its wait status, and what it wrote to the pipe it was given."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            run(writing)
        except BaseException:  # noqa: BLE001  # the child ends here, whatever it was
            traceback.print_exc(limit=-1, chain=False)
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    return os.waitpid(pid, 0)[1], text


def case(
    data: Path, batches: int, rounds: int, target: tuple[str, int] | None, *, after: bool
) -> tuple[list[str], str | None]:
    """Die at *target*, start again with more input, compare; (points, what is wrong)."""
    make(data, batches)
    dying = Points(target, after=after)

    def first(pipe: int) -> None:
        dying.report = pipe
        asyncio.run(work(data, dying, rounds))
        os.write(pipe, "\n".join(dying.names).encode())

    def compare(pipe: int) -> None:
        os.write(pipe, (wrong(data) or "").encode())

    _, names = in_child(first)
    status, _ = in_child(lambda _: work_again(data))
    if status:
        return names.split("\n"), "the restart failed"
    status, difference = in_child(compare)
    return names.split("\n"), difference or ("the comparison failed" if status else None)


def wrong(data: Path) -> str | None:
    """What differs from a plain fold over the input."""
    app = build(data)
    with app.opened(create=False):
        sums: Counter[str] = Counter()
        lists: dict[str, list[int]] = {}
        outputs = []
        for number in app.topics["numbers"].read():
            key = f"k{number % 3}"
            sums[key] += number
            lists.setdefault(key, []).append(number)
            outputs.append((number, sums[key]))
        found = [(value["number"], value["sum"]) for value in app.topics["out"].read()]
        if found != outputs:
            return f"outputs: {len(found)} for {len(outputs)} inputs"
        if dict(app.tables["sums"].items()) != sums:
            return "the table of sums"
        return None if dict(app.tables["lists"].items()) == lists else "the table of lists"


def mutate(name: str) -> None:
    """Break the commit the way *name* says."""
    if name == "swap":

        def commit(self: Store, commit: Commit) -> None:
            written = self.database.write
            held: list[Sequence[Change]] = []
            self.database.write = held.append  # type: ignore[method-assign, assignment]
            synced, self.database.sync = self.database.sync, lambda: None  # type: ignore[method-assign]
            try:
                original(self, commit)
            finally:
                self.database.write, self.database.sync = written, synced  # type: ignore[method-assign]
            for changes in held:
                self.database.write(changes)
            self.database.sync()

        original = Store._commit
        Store._commit = commit  # type: ignore[method-assign]
    elif name == "no-replay":
        Store._replay = lambda self: 0  # type: ignore[method-assign]
    elif name == "no-dedup":
        Producers.is_duplicate = lambda self, header: False  # type: ignore[method-assign]
    else:
        raise SystemExit(f"no mutation {name!r}")


def main() -> None:
    """Every point, before and after."""
    root, batches, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    for name in sys.argv[4:]:
        mutate(name)
    hits: Counter[str] = Counter()
    failures: list[str] = []
    names, difference = case(root / "alive", batches, rounds, None, after=False)
    if difference is not None:
        failures.append(f"killed nowhere: {difference}")
    for number, name in enumerate(names):
        # The threads of one commit may come in another order each time, so a point is known by its name.
        target = (name, names[: number + 1].count(name))
        for when in ("before", "after"):
            where = root / f"{number}-{when}"
            died, difference = case(where, batches, rounds, target, after=when == "after")
            if len(died) == 1:
                hits[f"{when} {died[0]}"] += 1
            if difference is not None:
                failures.append(f"{batches} batches, {when} {number} {name}: {difference}")
            shutil.rmtree(where)
        if failures and sys.argv[4:]:
            break  # Found out.
    json.dump({"points": sorted(set(names)), "hits": hits, "failures": failures}, sys.stdout)


if __name__ == "__main__":
    main()
