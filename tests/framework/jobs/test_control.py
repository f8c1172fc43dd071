"""Commands to a worker: done once, answered, written down; and nothing that anybody appends there hurts it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from framework.alongside import alongside
from framework.jobs.control import CONTROL, REPLIES, NoAnswer, Reply, noted, send, topic_of
from framework.jobs.runs import DueState, due_key
from framework.log.errors import NotFound
from framework.state import rows
from framework.state.database import Database
from framework.state.errors import DiskFull
from framework.state.rows import Change
from framework.worker import Worker
from tests.framework.jobs.yard import LIMIT_S, START, Yard, summing
from tests.until import until

ROOT = Path(__file__).parents[3]
SHORT_S = 0.05


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    """A yard with a job; closed after the test."""
    yard = Yard(tmp_path / "data")
    summing(yard)
    yield yard
    yard.app.close()


@asynccontextmanager
async def working(yard: Yard, open_database: Callable[[Path], Database] = Database) -> AsyncIterator[Worker]:
    """A worker beside the body."""
    yard.app.open(create=True)
    async with Worker(yard.app, open_database=open_database).running() as worker:
        yield worker


async def ask(yard: Yard, command: str, arguments: dict[str, Any], job: str = "total") -> Reply:
    """What `framework jobs` does beside a worker."""
    return await asyncio.to_thread(send, yard.app.log, command, job, arguments, answer_s=LIMIT_S)


def append(yard: Yard, topic: str, value: bytes | None) -> None:
    """Append anything to an internal topic, as anybody can."""
    topic_of(yard.app.log, topic)
    with yard.app.log.producer() as producer:
        producer.send(topic, value).result()


def documents(yard: Yard, topic: str) -> list[dict[str, Any]]:
    """The records of an internal topic."""
    return [orjson.loads(record.value or b"") for _, record in yard.app.log.read(topic)]


def paused(worker: Worker) -> dict[str, str] | None:
    """Whether the job is paused, as it is stored."""
    assert worker.jobs is not None
    stored = worker.jobs.store.database.get(due_key("job", "total"))
    return None if stored is None else DueState.load(stored).paused


async def test_a_command_is_done_answered_and_written_down(yard: Yard) -> None:
    """Who, when, what, and what came of it; also what was refused."""
    async with working(yard) as worker:
        reply = await ask(yard, "pause", {"why": "disk swap"})
        assert (reply.ok, reply.text) == (True, "job 'total' is paused; its records stay for when it is resumed")
        stored = paused(worker)
        refused = await ask(yard, "cancel", {"run": None})
        assert (refused.ok, refused.exit, refused.text) == (False, 4, "job 'total' is not running")
        first, second = documents(yard, CONTROL)
        assert stored == {"at": "2024-03-08T00:00:00Z", "by": first["by"], "why": "disk swap"}
        assert first["by"].endswith(f", process {os.getpid()}")
        assert (first["command"], first["job"], first["arguments"]) == ("pause", "total", {"why": "disk swap"})
        assert (second["command"], second["arguments"]) == ("cancel", {"run": None})
        answers = documents(yard, REPLIES)
        assert [(each["id"], each["ok"], each["exit"]) for each in answers] == [
            (first["id"], True, 0),
            (second["id"], False, 4),
        ]


async def test_what_is_done_without_a_worker_is_written_down_and_done_by_no_other(yard: Yard) -> None:
    yard.app.open(create=True)

    def fail() -> None:
        with noted(yard.app.log, "pause", "total", {"why": ""}):
            raise NotFound("no such thing")

    with pytest.raises(NotFound):
        fail()
    [reply] = documents(yard, REPLIES)
    assert (reply["ok"], reply["exit"], reply["text"]) == (False, 4, "no such thing")
    async with working(yard) as worker:
        assert (await ask(yard, "resume", {})).text == "job 'total' is not paused"
        assert paused(worker) is None


def command(**changes: Any) -> dict[str, Any]:
    """A good command, but for *changes*."""
    good = {"id": "x", "at": 0, "by": "me", "command": "resume", "job": "total", "arguments": {}, "expires": 1 << 50}
    return {**good, **changes}


def backfill(**changes: Any) -> dict[str, Any]:
    """A good backfill, but for *changes* of its arguments."""
    since, to = "2024-01-01T00:00:00+00:00", "2024-01-02T00:00:00+00:00"
    good = {"since": since, "until": to, "split": None, "tables": "scratch", "max_active": 1}
    return command(command="backfill", arguments={**good, **changes})


NONSENSE = [None, b"", b"\xff\x00", b"null", b"[]", b"1", b"{", b"[" * 100_000, b'{"id": 1}', b"{}"]
NO_SPLITS: list[Any] = [0, -1, 0.1, 1e300, "year", [], True]
REFUSED = [
    {"id": "x"},
    command(job="nobody"),
    command(job=["total"]),
    command(by=None),
    command(arguments=None),
    command(arguments=[]),
    command(command="eval"),
    command(command=["run"]),
    command(expires="never"),
    command(expires=True),
    command(command="pause"),
    command(command="pause", arguments={"why": 1}),
    command(command="cancel", arguments={"run": {}}),
    command(command="rewind", arguments={"offsets": {"x": 0}, "empty": False}),
    command(command="rewind", arguments={"offsets": {"0": None}, "empty": False}),
    command(command="rewind", arguments={"offsets": {"7": 0}, "empty": False}),
    command(command="rewind", arguments={"offsets": {"0": -1}, "empty": False}),
    command(command="rewind", arguments={"offsets": {"0": 10**6}, "empty": False}),
    command(command="rewind", arguments={"offsets": {}, "empty": "yes"}),
    command(command="drop-backfill", arguments={"backfill": ""}),
    *(backfill(split=each) for each in NO_SPLITS),
    backfill(since="yesterday"),
    backfill(since="2024-01-01"),
    backfill(since="9999-12-31T23:59:59+00:00"),
    backfill(since="0001-01-01T00:00:00+00:00", split="month", until="9999-12-31T23:59:59+00:00"),
    backfill(until="9999-12-31T23:59:59-12:00", since="9999-12-01T00:00:00+00:00", split="month"),
    backfill(tables="none"),
    backfill(tables=None),
    backfill(max_active="2"),
    backfill(max_active=-1),
]


async def test_nothing_that_is_appended_there_hurts_the_worker(yard: Yard) -> None:
    """What has an id is refused, what has none is passed over, and the next command is done."""
    async with working(yard) as worker:
        for value in NONSENSE:
            append(yard, CONTROL, value)
            append(yard, REPLIES, value)
        for number, document in enumerate(REFUSED):
            append(yard, CONTROL, orjson.dumps({**document, "id": f"x{number}"}))
        append(yard, REPLIES, b'{"id": "x", "what": 1}')
        assert (await ask(yard, "pause", {"why": ""})).ok
        assert paused(worker) is not None
        called = {f"x{number}" for number in range(len(REFUSED))}
        # Backfills are looked at beside the other commands.
        await until(lambda: called <= refusals(yard).keys())
        last = refusals(yard)
        wrong = [(REFUSED[int(name[1:])], last[name]) for name in called if last[name]["ok"]]
        assert wrong == []
        assert {each["exit"] for name, each in last.items() if name in called} == {2, 4}
        assert worker.jobs is not None
        assert worker.jobs.stored.of("total") == []


def refusals(yard: Yard) -> dict[str, dict[str, Any]]:
    """The last answer to each command that is done with, by its id."""
    answers = [orjson.loads(record.value or b"0") for _, record in yard.app.log.read(REPLIES) if _is_json(record)]
    return {each["id"]: each for each in answers if isinstance(each, dict) and each.get("done")}


def _is_json(record: Any) -> bool:
    try:
        orjson.loads(record.value or b"")
    except ValueError:
        return False
    return True


async def test_a_command_that_has_expired_is_refused_by_the_worker_that_comes_later(yard: Yard) -> None:
    """Also by the first there ever was."""
    yard.app.open(create=True)
    with pytest.raises(NoAnswer, match=r"has not taken the command within 0\.05 s, and will not do it any more"):
        send(yard.app.log, "pause", "total", {"why": ""}, answer_s=SHORT_S)
    yard.clock.ms += 51
    async with working(yard) as worker:
        assert (await ask(yard, "resume", {})).text == "job 'total' is not paused"
        assert paused(worker) is None
    first = documents(yard, REPLIES)[0]
    assert (first["ok"], first["text"]) == (False, "pause of job total came too late: nobody waits for it any more")


async def test_a_command_is_done_by_the_worker_that_starts_in_its_time(yard: Yard) -> None:
    yard.app.open(create=True)
    topic_of(yard.app.log, CONTROL)

    async def ask_early() -> None:
        assert (await ask(yard, "pause", {"why": ""})).ok
        answered.set()
        await asyncio.get_running_loop().create_future()

    answered = asyncio.Event()
    async with alongside(ask_early()):
        await until(lambda: len(documents(yard, CONTROL)) == 1)
        async with working(yard) as worker:
            await answered.wait()
            assert paused(worker) is not None


@pytest.mark.slow
def test_a_command_is_done_once_or_not_at_all(yard: Yard) -> None:
    """The worker dies between its note and the deed: its sender is told at once, and no later worker does it."""
    start = [sys.executable, "-m", "tests.framework.jobs.dying_worker", str(yard.app.data)]
    with subprocess.Popen(start, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        log = yard.app.open(create=False)
        with pytest.raises(NoAnswer, match=rf"\(process {process.pid}\) has ended without an answer"):
            send(log, "pause", "total", {"why": ""}, answer_s=LIMIT_S)

    async def look() -> None:
        async with working(yard) as worker:
            assert (await ask(yard, "resume", {})).text == "job 'total' is not paused"
            assert paused(worker) is None
        assert len(documents(yard, REPLIES)) == 1

    asyncio.run(look())


async def test_the_worker_goes_on_when_the_commands_are_deleted(yard: Yard) -> None:
    async with working(yard) as worker:
        assert (await ask(yard, "pause", {"why": ""})).ok
        yard.app.log.delete_topic(CONTROL)
        assert (await ask(yard, "resume", {})).ok
        assert paused(worker) is None


class Full(Database):
    """A disk that is full when the first command is noted."""

    refused = 0

    def write(self, changes: Sequence[Change]) -> None:
        """Write, or not."""
        if not Full.refused and any(key == rows.meta_key("control") for key, _ in changes):
            Full.refused += 1
            raise DiskFull("no space", path=self.path)
        super().write(changes)


@pytest.mark.slow
async def test_a_command_waits_for_a_full_disk_and_the_worker_with_it(yard: Yard) -> None:
    async with working(yard, Full) as worker:
        assert (await ask(yard, "pause", {"why": ""})).ok
        assert (Full.refused, paused(worker) is not None) == (1, True)


async def test_a_run_is_begun_by_command(yard: Yard) -> None:
    async with working(yard) as worker:
        yard.append(START, 1, 2)
        reply = await ask(yard, "run", {})
        assert worker.jobs is not None
        jobs, runs = worker.jobs, worker.jobs.stored
        await until(lambda: runs.of("total")[0].state == "succeeded" and not jobs.active)
        assert reply.runs == [runs.of("total")[0].id]
        assert (await ask(yard, "run", {})).text.endswith("has no new records")
