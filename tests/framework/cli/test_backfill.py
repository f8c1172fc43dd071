"""`framework jobs backfill`, `drop` and `rewind`: what they would do, and then doing it, with a worker or without."""

from __future__ import annotations

import re
import signal
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from framework.log import Log, NewRecord, TopicSettings, encode
from framework.log.clock import to_ms

if TYPE_CHECKING:
    from tests.framework.cli.conftest import Shell

pytestmark = pytest.mark.slow

DAILY = """
import sys, time
from datetime import timedelta
from pathlib import Path
from framework import App, Batch, Retry

app = App("daily")
flights = app.topic("flights", int, partitions=2, retention=None)
totals = app.table("totals", int)
out = app.topic("out", int)

@app.job(flights, schedule="@daily", timezone="America/New_York", retries=Retry(0))
def total(batch: Batch[int]) -> None:
    for chunk in batch.chunks(1):
        for miles in chunk:
            if miles == 13 and not Path("fixed").exists():
                raise ValueError("thirteen")
            if miles == 7 and not Path("go").exists():
                print("halts", flush=True)
                while not Path("go").exists():
                    time.sleep(0.01)
            totals["all"] += miles
            out.send(miles)
"""
NEW_YORK = ZoneInfo("America/New_York")
SPAN = ("--from", "2013-03-09", "--to", "2013-03-12")


@pytest.fixture
def daily(shell: Shell) -> Shell:
    """A shell with a job by New York's clocks, and records of the days around the change of clocks, out of order."""
    shell.write("app.py", DAILY)
    return shell


def fill(shell: Shell, *records: str) -> None:
    """Append records, each as a batch: day, number, partition."""
    with Log(shell.folder / "data", create=True) as log:
        flights = log.create_topic("flights", 2, TopicSettings(retention_ms=-1))
        for at, miles, partition in (record.split(",") for record in records):
            stamp = to_ms(datetime.fromisoformat(at).replace(tzinfo=NEW_YORK))
            batches = encode([NewRecord(None, miles.encode(), stamp)], max_batch_bytes=1 << 20)
            log.append(log.partition(flights, int(partition)), batches).result(60)


def runs(shell: Shell, *arguments: str) -> list[dict[str, Any]]:
    """The runs of the job, the first part first."""
    return shell.ok("jobs", "runs", "total", "--json", *arguments).json()[::-1]


def test_it_says_first_what_it_would_do(daily: Shell) -> None:
    """Partitions, records, bytes, and the span of each part; nothing is done."""
    fill(daily, "2013-03-11,5,0", "2013-03-09T23:59,1,0", "2013-03-10T12:00,3,1", "2013-03-10,2,0", "2013-03-12,9,0")
    done = daily.ok("jobs", "backfill", "total", *SPAN, "--split", "day", "--json")
    parts = done.json()
    assert [(part["from"], part["to"], part["partitions"], part["records"]) for part in parts] == [
        ("2013-03-09T00:00:00-05:00", "2013-03-10T00:00:00-05:00", 1, 1),
        ("2013-03-10T00:00:00-05:00", "2013-03-11T00:00:00-04:00", 2, 2),
        ("2013-03-11T00:00:00-04:00", "2013-03-12T00:00:00-04:00", 1, 1),
    ]
    plan = [(entry["partition"], entry["start"], entry["end"]) for entry in parts[1]["plan"]]
    assert plan == [(0, 2, 3), (1, 0, 1)]
    assert all(part["bytes"] > 0 for part in parts)
    text = daily.ok("jobs", "backfill", "total", *SPAN, "--split", "day")
    assert text.out.splitlines()[0].split() == ["PART", "FROM", "TO", "PARTITIONS", "RECORDS", "BYTES"]
    assert re.fullmatch(
        r"would run job 'total': 3 runs over 4 records of 0\.0 MB in topic 'flights'; do it with --execute\n", text.err
    )
    assert runs(daily) == []


@pytest.mark.parametrize("where", ["beside a worker", "without a worker"])
def test_a_scratch_backfill_is_run_and_dropped(daily: Shell, where: str) -> None:
    """Its rows and records are its own; a part that fails does not stop the others, and is told by code 3."""
    fill(daily, "2013-03-09,1,0", "2013-03-10,13,1", "2013-03-11,3,0")
    if where == "beside a worker":
        daily.worker()
    done = daily.run("jobs", "backfill", "total", *SPAN, "--split", "day", "--execute", "--json")
    assert done.code == 3
    assert [run["state"] for run in done.json()] == ["succeeded", "failed", "succeeded"]
    called = done.json()[0]["backfill"]
    lines = done.err.splitlines()
    assert re.fullmatch(
        rf"framework: 1 of 3 runs failed; the first is total@{called}-2: ValueError: thirteen", lines[-1]
    )
    assert lines[-2] == f"backfill {called}: 3 runs, 2 records, 1 failed"
    assert [run["state"] for run in runs(daily, "--backfill", called)] == ["succeeded", "failed", "succeeded"]
    assert daily.ok("tables", "get", f"totals@{called}", "all").out == "4\n"
    topics = {row["topic"]: row["records"] for row in daily.ok("topics", "ls", "--json").json()}
    assert (topics[f"out.backfill-{called}"], topics.get("out", 0)) == (2, 0)
    dry = daily.ok("jobs", "drop", "total", called)
    what = f"3 runs and 1 scratch table (totals@{called}) of backfill {called}"
    also = f"remove topic out.backfill-{called} with `framework topics delete`"
    assert dry.err == f"would remove {what}; do it with --execute; {also}\n"
    assert daily.ok("jobs", "drop", "total", called, "--execute").err == f"removed {what}; {also}\n"
    assert runs(daily) == []


def test_a_backfill_that_is_interrupted_without_a_worker_is_finished_by_the_next(daily: Shell) -> None:
    """Behind its last chunk."""
    fill(daily, "2013-03-09,1,0", "2013-03-10,2,0", "2013-03-10T01:00,7,0", "2013-03-10T04:00,4,0", "2013-03-11,3,0")
    backfill = daily.start("jobs", "backfill", "total", *SPAN, "--split", "day", "--execute")
    assert backfill.line() == "halts\n"
    backfill.send(signal.SIGINT)
    backfill.wait_for("stops at the next record")
    daily.write("go", "")
    done = backfill.end()
    assert done.code == 130
    assert (
        "stopped at the last chunk; the next worker goes on there, or `framework jobs cancel total` ends it" in done.err
    )
    assert [run["state"] for run in runs(daily)] == ["succeeded", "waiting", "planned"]
    daily.ok("worker", "--until-idle")
    done_runs = runs(daily)
    assert [(run["state"], run["attempt"], run["records"]) for run in done_runs] == [
        *(("succeeded", 1, 1), ("succeeded", 2, 3), ("succeeded", 1, 1))
    ]
    assert daily.ok("tables", "get", f"totals@{done_runs[0]['backfill']}", "all").out == "17\n"


def test_a_live_backfill_beside_a_worker_that_is_watched_and_cancelled(daily: Shell) -> None:
    fill(daily, "2013-03-09,1,0", "2013-03-10,7,0", "2013-03-10,2,0", "2013-03-11,3,0")
    worker = daily.worker()
    detached = daily.ok(
        "jobs", "backfill", "total", *SPAN, "--split", "day", "--tables", "live", "--execute", "--detach", "--json"
    )
    assert re.search(
        r"^backfill \S+ is begun: 3 runs over 4 records of 0\.0 MB, by the worker$", detached.err, re.MULTILINE
    )
    assert worker.line() == "halts\n"
    daily.ok("jobs", "cancel", "total")
    daily.write("go", "")
    worker.wait_for("-2: cancelled")
    assert [run["state"] for run in runs(daily)] == ["succeeded", "cancelled", "cancelled"]
    assert daily.ok("tables", "get", "totals", "all").out == "8\n"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("--from yesterday", "--from 'yesterday' is no time like 2026-01-31"),
        ("--from 2013-03-09 --to 2013-03-09", "is not before --to"),
        ("--from 7d --split year", "--split 'year' is none of hour, day, week and month"),
        ("--from 7d --max-active 2 --tables live", "--max-active 1 with --tables live"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(daily: Shell, arguments: str, why: str) -> None:
    done = daily.run("jobs", "backfill", "total", *arguments.split())
    assert (done.code, why in done.err) == (2, True)


def test_a_rewound_job_reads_again_from_there(daily: Shell) -> None:
    """Said first, then done: to an offset of one partition, a record time, so long ago, either end."""
    fill(daily, "2013-03-09,1,0", "2013-03-10,2,0", "2013-03-11,4,1")
    daily.ok("jobs", "run", "total")
    refused = daily.run("jobs", "rewind", "total", "--to", "beginning")
    assert refused.code == 2
    assert "job 'total' writes table 'totals': say --tables reset to empty it first, or --tables keep" in refused.err

    def places(*arguments: str) -> list[tuple[int, int, int, int]]:
        found = daily.ok("jobs", "rewind", "total", "--tables", "keep", "--json", *arguments).json()
        return [(row["partition"], row["from"], row["to"], row["records"]) for row in found]

    assert places("--to", "2013-03-10") == [(0, 2, 1, 1), (1, 1, 0, 1)]
    assert places("--to", "1", "--partition", "0") == [(0, 2, 1, 1)]
    assert places("--to", "1h") == [(0, 2, 2, 0), (1, 1, 1, 0)]
    assert places("--to", "end") == [(0, 2, 2, 0), (1, 1, 1, 0)]
    dry = daily.ok("jobs", "rewind", "total", "--to", "beginning", "--tables", "reset")
    assert dry.err == "would rewind job 'total': 3 records to read; do it with --execute\n"
    daily.worker()
    done = daily.ok("jobs", "rewind", "total", "--to", "beginning", "--tables", "reset", "--execute", "--json")
    assert done.err == "job 'total' reads on from 0@0, 1@0\n"
    assert {row["executed"] for row in done.json()} == {True}
    assert daily.ok("tables", "scan", "totals").out == ""
    daily.ok("jobs", "run", "total")
    assert daily.ok("tables", "get", "totals", "all").out == "7\n"


def test_internal_topics_are_shown_if_asked_for_and_are_nobodys(daily: Shell) -> None:
    fill(daily)
    daily.ok("jobs", "pause", "total")
    assert not [row for row in daily.ok("topics", "ls", "--json").json() if row["topic"].startswith("_")]
    there = [row["topic"] for row in daily.ok("topics", "ls", "--all", "--json").json()]
    assert there[:2] == ["__control", "__control-replies"]
    [one] = daily.ok("topics", "ls", "__control", "--json").json()
    assert (one["topic"], one["records"], one["retention"]) == ("__control", 1, "30d")
    for refused in (daily.run("topics", "create", "__mine"), _declaring(daily)):
        assert refused.code == 2
        assert "'__mine' cannot be: names that begin with '__' are those of internal topics" in refused.err


def _declaring(shell: Shell) -> Any:
    shell.write("mine.py", "from framework import App\napp = App('mine')\napp.topic('__mine', int)\n")
    return shell.run("topics", "ls", "-A", "mine")
