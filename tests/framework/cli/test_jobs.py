"""`framework jobs`: schedules, runs, and running one in the foreground."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.framework.cli.conftest import Shell

pytestmark = pytest.mark.slow

STUBBORN = """
import sys, time
from contextlib import asynccontextmanager
from pathlib import Path
from framework import App, Batch, Retry

@asynccontextmanager
async def lifespan(app):
    print("lifespan begins", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print("lifespan ends", file=sys.stderr, flush=True)

app = App("stubborn", lifespan=lifespan)
numbers = app.topic("numbers", int)
sums = app.table("sums", int)

def halt():
    while not Path("go").exists():
        time.sleep(0.01)

@app.job(numbers, schedule="@daily")
def plain(batch: Batch[int]) -> None:
    for chunk in batch.chunks(2):
        for number in chunk:
            sums["all"] += number
        print("summed chunk", chunk.number, file=sys.stderr, flush=True)
        if chunk.number == 1:
            halt()

@app.job(numbers, schedule="@daily", retries=Retry(0))
def broken(batch: Batch[int]) -> None:
    for chunk in batch.chunks(2):
        if chunk.number == 1 and not Path("fixed").exists():
            raise ValueError("no luck\\nat all")
        for number in chunk:
            sums["broken"] += number

@app.job(numbers, schedule="@hourly")
async def loop(batch: Batch[int]) -> None:
    print("sum", sum(batch))
"""


@pytest.fixture
def stubborn(shell: Shell) -> Shell:
    """A shell with three jobs and five numbers for them."""
    shell.write("app.py", STUBBORN)
    shell.ok("topics", "send", "numbers", "1", "2", "3", "4", "5")
    return shell


def test_ls_gives_schedule_and_next_fire(counted: Shell) -> None:
    [row] = counted.ok("jobs", "ls", "--json").json()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT0[12]:00:00Z", row.pop("next"))
    assert row == {
        "job": "longest",
        "topic": "words",
        "schedule": "0 3 * * * Europe/Berlin",
        "state": "active",
        "due": False,
        "last_run": None,
        "last_state": None,
        "lag": 6,
    }
    lines = counted.ok("jobs", "ls").out.splitlines()
    assert lines[0].split() == [
        "JOB",
        "TOPIC",
        "SCHEDULE",
        "STATE",
        "NEXT",
        "DUE",
        "LAST",
        "RUN",
        "LAST",
        "STATE",
        "LAG",
    ]
    assert lines[1].startswith("longest  words  0 3 * * * Europe/Berlin  active  2")
    assert lines[1].split()[-4:] == ["no", "-", "-", "6"]


def test_a_job_with_no_runs_has_none(counted: Shell) -> None:
    done = counted.ok("jobs", "runs", "longest")
    assert (done.out, done.err) == ("", "no runs of job 'longest'\n")


def test_run_handles_what_is_new_and_then_nothing(words: Shell) -> None:
    words.ok("worker", "--until-idle")
    first = words.ok("jobs", "run", "longest")
    assert [line.split()[:2] for line in first.out.splitlines()] == [["chunk", str(n)] for n in range(3)]
    assert re.fullmatch(r"longest-\d{8}T\d{6}Z: succeeded, 6 records in \d+\.\d s\n", first.err)
    second = words.ok("jobs", "run", "longest", "--json")
    assert re.fullmatch(r"longest-\d{8}T\d{6}Z(-2)?: no new records\n", second.err)
    [empty] = second.json()
    assert (empty["state"], empty["records"], empty["trigger"]) == ("empty", 0, "manual")

    runs = words.ok("jobs", "runs", "longest", "--json").json()
    assert [run["state"] for run in runs] == ["empty", "succeeded"]
    assert runs[1]["records"] == sum(part["end"] - part["start"] for part in runs[1]["plan"]) == 6
    assert all(part["next"] == part["end"] for part in runs[1]["plan"])
    (words.folder / "app.py").unlink()
    assert words.ok("jobs", "runs", "longest", "--json", "--limit", "1").json() == runs[:1]
    lines = words.ok("jobs", "runs", "longest").out.splitlines()
    assert lines[0].split() == [
        *["RUN", "STATE", "ATTEMPT", "RECORDS", "TRIGGER", "DUE", "STARTED", "SECONDS", "ERROR"]
    ]
    assert lines[2].split()[1:5] == ["succeeded", "1", "6", "manual"]


def test_run_enters_the_lifespan_of_the_app(stubborn: Shell) -> None:
    done = stubborn.ok("jobs", "run", "loop")
    assert done.out == "sum 15\n"
    lines = done.err.splitlines()
    assert [lines[0], lines[-1]] == ["lifespan begins", "lifespan ends"]


def test_a_run_that_fails_exits_with_3_and_the_next_goes_on_there(stubborn: Shell) -> None:
    """The first chunk is committed and stays so; the traceback is shown, and the error in one line."""
    done = stubborn.run("jobs", "run", "broken")
    assert done.code == 3
    assert "Traceback" in done.err
    assert re.fullmatch(r"framework: run broken-\w+ failed: ValueError: no luck at all", done.err.splitlines()[-1])
    [failed] = stubborn.ok("jobs", "runs", "broken", "--json").json()
    assert (failed["state"], failed["records"], failed["error"]) == ("failed", 2, "ValueError: no luck\nat all")
    assert stubborn.ok("jobs", "runs", "broken").out.count("\n") == 2

    stubborn.write("fixed", "")
    assert "succeeded, 3 records" in stubborn.ok("jobs", "run", "broken").err
    assert stubborn.ok("tables", "get", "sums", "broken").out == "15\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_resumed_at_its_next_chunk(stubborn: Shell, number: signal.Signals) -> None:
    run = stubborn.start("jobs", "run", "plain")
    run.wait_for("summed chunk 1")
    run.send(number)
    run.wait_for("stops at the next record")
    stubborn.write("go", "")
    done = run.end()
    assert done.code == 130
    assert "Traceback" not in done.err
    assert done.err.splitlines()[-1] == "lifespan ends"
    [row] = stubborn.ok("jobs", "runs", "plain", "--json").json()
    assert (row["state"], row["records"], row["attempt"]) == ("waiting", 4, 1)

    stubborn.ok("topics", "send", "numbers", "6")
    again = stubborn.ok("jobs", "run", "plain", "--json")
    assert f"{row['run']} was interrupted: resumed" in again.err
    resumed, new = again.json()
    assert (resumed["run"], resumed["state"], resumed["attempt"], resumed["records"]) == (
        row["run"],
        "succeeded",
        2,
        5,
    )
    assert (new["state"], new["records"]) == ("succeeded", 1)
    assert stubborn.ok("tables", "get", "sums", "all").out == "21\n"


def test_a_second_ctrl_c_ends_it_at_once(stubborn: Shell) -> None:
    run = stubborn.start("jobs", "run", "plain")
    run.wait_for("summed chunk 1")
    run.send(signal.SIGINT)
    run.wait_for("stops at the next record")
    assert run.end(signal.SIGINT).code == 130
    stubborn.write("go", "")
    stubborn.ok("jobs", "run", "plain")
    assert stubborn.ok("tables", "get", "sums", "all").out == "15\n"


def test_beside_a_worker_that_runs_the_job_and_this_watches(words: Shell) -> None:
    """What the handler prints is the worker's."""
    words.worker()
    done = words.ok("jobs", "run", "longest", "--json")
    [row] = done.json()
    assert (row["state"], row["records"], row["trigger"]) == ("succeeded", 6, "manual")
    first, last = done.err.splitlines()
    assert (first, last.rpartition(" in ")[0] + " in") == (
        f"run {row['run']} is begun, by the worker",
        f"{row['run']}: succeeded, 6 records in",
    )


def test_a_missed_fire_is_shown_as_due(shell: Shell) -> None:
    """A worker saw the job first; the clock then went past its time while none ran."""
    app = (
        "import os\nfrom framework import App, Batch\n"
        "class Clock:\n"
        "    def now_ms(self): return int(os.environ['NOW']) * 1000\n"
        "    def monotonic(self):\n        import time\n        return time.monotonic()\n"
        "app = App('late', clock=Clock())\nt = app.topic('t', int)\n"
        "@app.agent(t)\ndef ignore(n: int) -> None: ...\n"
        "@app.job(t, schedule='@daily')\ndef daily(batch: Batch[int]) -> None:\n    print(len(batch))\n"
    )
    shell.write("app.py", app)
    shell.environment["NOW"] = "1767265200"  # 2026-01-01, 11:00 UTC
    shell.ok("worker", "--until-idle")
    [row] = shell.ok("jobs", "ls", "--json").json()
    assert (row["next"], row["due"]) == ("2026-01-02T00:00:00Z", False)
    shell.environment["NOW"] = "1767400000"  # the day after the next
    [row] = shell.ok("jobs", "ls", "--json").json()
    assert (row["next"], row["due"]) == ("2026-01-03T00:00:00Z", True)
