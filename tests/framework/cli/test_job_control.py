"""`framework jobs` doing things: beside a worker, which does them, and without."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.framework.cli.conftest import Running, Shell

pytestmark = pytest.mark.slow

NIGHTLY = """
import time
from pathlib import Path
from framework import App, Batch, Retry

app = App("nightly")
numbers = app.topic("numbers", int, key=str, partitions=3)
sums, seen = app.table("sums", int), app.table("seen", int)

@app.agent(numbers)
def note(number: int) -> None:
    seen[str(number)] += 1

@app.job(numbers, schedule="@weekly", retries=Retry(0))
def total(batch: Batch[int]) -> None:
    for chunk in batch.chunks(2):
        print("at chunk", chunk.number, flush=True)
        while chunk.number == 1 and not Path("go").exists():
            time.sleep(0.01)
        for number in chunk:
            sums["all"] += number

@app.job(numbers, schedule="@weekly")
def check(batch: Batch[int]) -> None:
    sums_of_seen = app.tables["checked"]
    for number in batch:
        sums_of_seen[str(number)] = seen[str(number)]

@app.job(numbers, schedule="@weekly", retries=Retry(0))
def meddle(batch: Batch[int]) -> None:
    seen["1"] = 100

checked = app.table("checked", int)

@app.timer(3600.0)
def hourly() -> None: ...
"""


@pytest.fixture
def nightly(shell: Shell) -> Shell:
    """A shell with an agent and jobs, and five numbers for them."""
    shell.write("app.py", NIGHTLY)
    shell.ok("topics", "send", "numbers", "1", "2", "3", "4", "5")
    return shell


def job(shell: Shell, name: str = "total") -> dict[str, Any]:
    """What `jobs ls` says of one."""
    found: dict[str, dict[str, Any]] = {row["job"]: row for row in shell.ok("jobs", "ls", "--json").json()}
    return found[name]


def run_of(shell: Shell) -> dict[str, Any]:
    """The one run there is."""
    found: list[dict[str, Any]] = shell.ok("jobs", "runs", "total", "--json").json()
    assert len(found) == 1
    return found[0]


def watching(shell: Shell) -> tuple[Running, Running]:
    """A worker whose run stands still, and the command that watches it."""
    worker, watch = shell.worker(), shell.start("jobs", "run", "total")
    watch.wait_for("is begun, by the worker")
    assert (worker.line(), worker.line()) == ("at chunk 0\n", "at chunk 1\n")
    return worker, watch


@pytest.mark.parametrize("where", ["beside a worker", "without a worker"])
def test_a_pause_survives_a_restart_and_says_who_and_why(nightly: Shell, where: str) -> None:
    worker = nightly.worker() if where == "beside a worker" else None
    done = nightly.ok("jobs", "pause", "total", "--why", "new disk")
    assert (done.out, done.err) == ("", "job 'total' is paused; its records stay for when it is resumed\n")
    if worker is not None:
        assert worker.end(signal.SIGTERM).code == 0
        assert re.search(r"^timer  hourly  every hour, next 20\S+Z$", nightly.worker().seen, re.MULTILINE)
    [shown] = nightly.ok("jobs", "show", "total", "--json").json()
    assert (shown["state"], shown["next"], shown["due"]) == ("paused", None, False)
    assert (shown["paused"]["why"], shown["runs"]) == ("new disk", [])
    text = nightly.ok("jobs", "show", "total").out
    assert re.search(r"^paused +since 20\S+Z, by .+, process \d+: new disk$", text, re.MULTILINE)
    assert nightly.ok("jobs", "resume", "total").err == "job 'total' is resumed\n"
    records = nightly.ok("topics", "tail", "__control", "--json").json()
    assert [record["value"]["command"] for record in records] == ["pause", "resume"]
    assert records[0]["value"]["arguments"] == {"why": "new disk"}


def test_ctrl_c_ends_the_watching_and_not_the_run(nightly: Shell) -> None:
    """It goes on, is seen to be running, refuses company, and can be cancelled."""
    _, watch = watching(nightly)
    done = watch.end(signal.SIGINT)
    assert done.code == 130
    assert done.err.splitlines()[-1] == "the worker goes on with it; `framework jobs cancel total` stops it"
    row = run_of(nightly)
    assert (row["state"], row["records"]) == ("running", 2)
    assert job(nightly)["state"] == "running"
    refused = nightly.run("jobs", "run", "total")
    assert (refused.code, refused.err) == (
        5,
        f"framework: run {row['run']} of job 'total' is not finished: wait for it, or cancel it, then run it again\n",
    )
    told = nightly.ok("jobs", "cancel", "total")
    assert told.err == f"told to stop at the next record: {row['run']}\n"


def test_who_watches_a_run_that_is_cancelled_is_told_by_code_3(nightly: Shell) -> None:
    _, watch = watching(nightly)
    nightly.ok("jobs", "cancel", "total")
    nightly.write("go", "")
    done = watch.end()
    assert done.code == 3
    assert re.fullmatch(r"framework: run total-\w+ cancelled: by .+, process \d+", done.err.splitlines()[-1])


def test_who_watches_is_told_when_the_worker_is_killed_and_the_next_goes_on(nightly: Shell) -> None:
    """Until then the run waits, whatever the dead worker has left."""
    worker, watch = watching(nightly)
    worker.end(signal.SIGKILL)
    done = watch.end()
    row = run_of(nightly)
    assert (done.code, done.err.splitlines()[-1]) == (
        1,
        f"framework: the worker has ended before run {row['run']}, which the next one goes on with",
    )
    assert (row["state"], job(nightly)["state"]) == ("waiting", "active")
    nightly.write("go", "")
    nightly.ok("worker", "--until-idle")
    assert (run_of(nightly)["state"], run_of(nightly)["attempt"]) == ("succeeded", 2)
    assert nightly.ok("tables", "get", "sums", "all").out == "15\n"


def test_detached_it_returns_at_once_with_the_run(nightly: Shell) -> None:
    nightly.worker()
    done = nightly.ok("jobs", "run", "total", "--detach", "--json")
    [row] = done.json()
    assert row["state"] in ("planned", "running")
    assert done.err == f"run {row['run']} is begun, by the worker\n"
    assert run_of(nightly)["run"] == row["run"]


def test_a_worker_that_hangs_is_said_not_to_answer_and_does_it_no_more(nightly: Shell) -> None:
    worker = nightly.worker()
    worker.send(signal.SIGSTOP)
    done = nightly.run("jobs", "pause", "total", "--timeout", "0.2")
    worker.send(signal.SIGCONT)
    assert done.code == 1
    assert f"the worker (process {worker.pid}) has not taken the command within 0.2 s" in done.err
    assert nightly.ok("jobs", "resume", "total").err == "job 'total' is not paused\n"
    assert "pause of job total came too late" in worker.end(signal.SIGTERM).err


def test_while_a_run_is_done_without_a_worker_others_are_told_by_whom(nightly: Shell) -> None:
    run = nightly.start("jobs", "run", "total")
    assert (run.line(), run.line()) == ("at chunk 0\n", "at chunk 1\n")
    done = nightly.run("jobs", "pause", "total")
    assert done.code == 5
    assert f"process {run.pid} runs jobs of {nightly.folder / 'data'} without a worker" in done.err
    nightly.write("go", "")
    assert run.end().code == 0
    assert nightly.ok("jobs", "pause", "total").code == 0
    assert nightly.ok("jobs", "run", "total").err.endswith("no new records\n")


def test_without_a_worker_a_job_reads_the_tables_of_agents_and_cannot_write_them(nightly: Shell) -> None:
    """Their rows lie in other databases, spread over three partitions."""
    nightly.ok("worker", "--until-idle")
    nightly.ok("jobs", "run", "check")
    rows = nightly.ok("tables", "scan", "checked", "--json").json()
    assert sorted((row["key"], row["value"]) for row in rows) == [(str(number), 1) for number in range(1, 6)]
    done = nightly.run("jobs", "run", "meddle")
    assert done.code == 3
    assert "TableOwned: table 'seen' is written by 'note'; 'meddle' may only read it" in done.err
    assert nightly.ok("tables", "get", "seen", "1").out == "1\n"


def test_a_run_that_was_interrupted_is_cancelled_without_a_worker(nightly: Shell) -> None:
    run = nightly.start("jobs", "run", "total")
    assert (run.line(), run.line()) == ("at chunk 0\n", "at chunk 1\n")
    run.end(signal.SIGKILL)
    row = run_of(nightly)
    assert row["state"] == "waiting"
    assert nightly.ok("jobs", "cancel", "total", "--run", row["run"]).err == f"cancelled: {row['run']}\n"
    assert nightly.run("jobs", "cancel", "total").code == 4
    assert run_of(nightly)["state"] == "cancelled"
    nightly.write("go", "")
    nightly.ok("jobs", "run", "total")
    assert nightly.ok("tables", "get", "sums", "all").out == "15\n"
