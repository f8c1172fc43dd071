"""`framework worker`: what it says, how it stops, and how two of them meet; real processes throughout."""

from __future__ import annotations

import os
import pty
import re
import signal
from typing import TYPE_CHECKING

import pytest

from framework.cli.live import LiveLine, Rate
from framework.cli.session import Report
from framework.worker import Progress, RunProgress

if TYPE_CHECKING:
    from tests.framework.cli.conftest import Shell

RECORDS = 20_000
SLOW = f"""
import asyncio, sys
from pathlib import Path
from framework import App, Stream

app = App("slow")
numbers = app.topic("numbers", int, partitions=2)
doubled = app.topic("doubled", int)
sums = app.table("sums", int)

@app.agent(numbers)
async def double(stream: Stream[int]) -> None:
    handled = 0
    async for number in stream:
        doubled.send(2 * number)
        handled += 1
        if handled == {RECORDS // 8}:
            print("in the middle", file=sys.stderr, flush=True)
            while not Path("go").exists():
                await asyncio.sleep(0.001)

@app.agent(doubled)
async def sum_up(stream: Stream[int]) -> None:
    async for number in stream:
        sums["all"] += number
        sums["records"] += 1
"""
STUCK = """
import asyncio, sys
from framework import App, Stream

app = App("stuck")
numbers = app.topic("numbers", int)

@app.agent(numbers)
async def wait(stream: Stream[int]) -> None:
    async for number in stream:
        print("in hand:", number, file=sys.stderr, flush=True)
        await asyncio.sleep(3600)
"""


@pytest.fixture
def loaded(shell: Shell) -> Shell:
    """A shell with an app that doubles numbers and sums them, and numbers for it."""
    shell.write("app.py", SLOW)
    shell.ok("topics", "send", "numbers", text="".join(f"{number}\n" for number in range(RECORDS)))
    return shell


@pytest.fixture
def stuck(shell: Shell) -> Shell:
    """A shell with an app that never finishes a record, and one record for it."""
    shell.write("app.py", STUCK)
    shell.ok("topics", "send", "numbers", "42")
    return shell


@pytest.mark.slow
def test_the_banner_says_what_runs_and_where(words: Shell) -> None:
    worker = words.start("worker", "--until-idle")
    done = worker.end()
    assert (done.code, done.out) == (0, "")
    lines = done.err.splitlines()
    assert re.fullmatch(rf"framework .+, app words, process {worker.pid}", lines[0])
    assert lines[1:4] == [
        f"data   {words.folder / 'data'}",
        "agent  split    lines, 1 partition",
        "agent  count    words, 3 partitions",
    ]
    assert re.fullmatch(
        r"job    longest  words, 0 3 \* \* \* Europe/Berlin, next \d{4}-\d\d-\d\dT0[12]:00:00Z", lines[4]
    )
    assert lines[5] == "running; SIGTERM or Ctrl-C stops it"
    assert re.fullmatch(r"idle: 8 records in \d+\.\d s, all committed; lag 0", lines[-1])


@pytest.mark.slow
def test_a_directory_that_was_not_there_is_said_to_be_made(shell: Shell) -> None:
    shell.write("app.py", STUCK)
    assert (
        f"data   {shell.folder / 'new' / 'data'} (made)\n"
        in shell.ok("worker", "--until-idle", "--data", "new/data").err
    )
    assert "(made)" not in shell.ok("worker", "--until-idle", "--data", "new/data").err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_commits_and_exits_with_0(loaded: Shell, number: signal.Signals) -> None:
    """Stopped in the middle of its input, the state is that of the records before the committed offsets."""
    worker = loaded.worker()
    worker.wait_for("in the middle")
    worker.send(number)
    worker.wait_for("finishing")
    loaded.write("go", "")
    done = worker.end()
    assert done.code == 0
    assert f"{number.name}: finishing what is in hand; once more to stop at once\n" in done.err
    assert re.search(r"\nstopped: [\d,]+ records in \d+\.\d s, all committed; lag [\d,]+\n$", done.err)

    agents = loaded.ok("agents", "ls", "--json").json()
    doubled = sum(row["committed"] or 0 for row in agents if row["agent"] == "double")
    summed = sum(row["committed"] or 0 for row in agents if row["agent"] == "sum_up")
    assert 0 < doubled < RECORDS
    [topic] = [row for row in loaded.ok("topics", "ls", "--json").json() if row["topic"] == "doubled"]
    assert topic["records"] == doubled
    rows = {row["key"]: row["value"] for row in loaded.ok("tables", "scan", "sums", "--json").json()}
    assert rows.get("records", 0) == summed

    loaded.ok("worker", "--until-idle")
    rows = {row["key"]: row["value"] for row in loaded.ok("tables", "scan", "sums", "--json").json()}
    assert rows == {"all": RECORDS * (RECORDS - 1), "records": RECORDS}


@pytest.mark.slow
def test_an_idle_worker_stops_at_once(words: Shell) -> None:
    worker = words.worker()
    assert worker.end(signal.SIGTERM).code == 0


@pytest.mark.slow
def test_a_second_signal_does_not_wait(stuck: Shell) -> None:
    """The record in hand is not committed, and comes again."""
    worker = stuck.worker()
    worker.wait_for("in hand: 42")
    worker.send(signal.SIGINT)
    worker.wait_for("finishing what is in hand")
    done = worker.end(signal.SIGINT)
    assert done.code == 130
    assert done.err.endswith("SIGINT: stopped at once; what was not committed will be done again\n")
    stuck.worker().wait_for("in hand: 42")


@pytest.mark.slow
def test_a_second_worker_is_told_who_has_the_directory(words: Shell) -> None:
    first = words.worker()
    second = words.run("worker")
    assert (second.code, second.out) == (5, "")
    assert second.err == (
        f"framework: process {first.pid} owns shard 0 of {words.folder / 'data'}: a worker is running there. "
        "Stop it, or wait for it with --wait SECONDS\n"
    )
    assert words.ok("tables", "ls").code == 0
    assert first.end(signal.SIGTERM).code == 0


@pytest.mark.slow
def test_a_worker_that_waits_takes_over(words: Shell) -> None:
    first = words.worker()
    second = words.start("worker", "--wait", "50")
    waiting = second.wait_for("waiting")
    assert waiting == f"process {first.pid} has {words.folder / 'data'}; waiting up to 50 s for it to end\n"
    assert first.end(signal.SIGTERM).code == 0
    second.wait_for("running")
    assert second.end(signal.SIGTERM).code == 0


@pytest.mark.slow
def test_a_wait_ends(words: Shell) -> None:
    first = words.worker()
    second = words.run("worker", "--wait", "0.1")
    assert second.code == 5
    assert f"process {first.pid} owns shard 0" in second.err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_waits_can_be_stopped(words: Shell, number: signal.Signals) -> None:
    first = words.worker()
    second = words.start("worker", "--wait", "50")
    second.wait_for("waiting")
    done = second.end(number)
    assert (done.code, done.err.splitlines()[-1]) == (0, "stopped before it had started")
    assert first.process.poll() is None


@pytest.mark.slow
def test_what_is_no_mistake_of_the_user_shows_its_traceback(shell: Shell) -> None:
    shell.write(
        "app.py",
        STUCK.replace('App("stuck")', 'App("stuck", lifespan=lifespan)').replace(
            "app =", "def lifespan(app):\n    raise RuntimeError('no such luck')\n\napp =", 1
        ),
    )
    done = shell.run("worker")
    assert done.code == 1
    assert done.err.splitlines()[-1] == "RuntimeError: no such luck"
    assert 'app.py", line' in done.err


@pytest.mark.slow
def test_the_log_level_is_as_asked(shell: Shell) -> None:
    shell.write(
        "app.py",
        "import logging\nfrom framework import App\napp = App('a')\nt = app.topic('t', int)\n"
        "@app.agent(t)\ndef log(n: int) -> None:\n"
        "    logging.getLogger('mine').info('quiet')\n    logging.getLogger('mine').error('loud')\n",
    )
    shell.ok("topics", "send", "t", "1")
    err = shell.ok("worker", "--until-idle", "--log-level", "error").err
    assert "ERROR mine: loud" in err
    assert "quiet" not in err
    shell.ok("topics", "send", "t", "1")
    assert "INFO mine: quiet" in shell.ok("worker", "--until-idle").err


@pytest.mark.slow
def test_a_terminal_shows_progress_in_one_line(words: Shell) -> None:
    ours, theirs = pty.openpty()
    worker = words.start("worker", stderr=theirs)
    os.close(theirs)
    shown = b""
    while b"records/s" not in shown:
        shown += os.read(ours, 4096)
    worker.send(signal.SIGINT)
    while b"stopped:" not in shown:
        shown += os.read(ours, 4096)
    assert worker.process.wait() == 0
    os.close(ours)
    assert b"\r\x1b[2K" in shown
    assert re.search(rb"\d+ records/s, 8 records, lag 0", shown)


class Written:
    """A stream that keeps what is written to it."""

    def __init__(self, *, terminal: bool) -> None:
        self.text, self._terminal = "", terminal

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_elsewhere_it_logs_every_ten_seconds_if_something_moved(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    stream = Written(terminal=False)
    report = Report(LiveLine(stream))  # type: ignore[arg-type]
    for second in range(41):
        report.tick(float(second), Progress(min(second, 15) * 1000, 7, (RunProgress("daily-1", 1, 3),)))
    assert [record.message for record in caplog.records] == [
        "1,000 records/s, 10,000 records, lag 7, daily-1 33 %",
        "0 records/s, 15,000 records, lag 7, daily-1 33 %",
    ]
    assert stream.text == ""


def test_the_live_line_stays_below_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "12")
    stream = Written(terminal=True)
    line = LiveLine(stream)  # type: ignore[arg-type]
    line.show("a line that is longer than the terminal")
    line.print("printed")
    line.remove()
    assert stream.text == "\r\x1b[2Ka line that\r\x1b[2Kprinted\na line that\r\x1b[2K"


def test_a_rate_is_that_of_the_last_seconds() -> None:
    rate = Rate()
    assert rate.add(0.0, 0) == 0.0
    assert rate.add(1.0, 500) == 500.0
    assert [rate.add(2.0 + n, 500) for n in range(4)][-1] == 0.0
