"""How runs are seen to get on: a bar on a terminal, and elsewhere a line every ten seconds."""

from __future__ import annotations

from typing import TextIO, cast

import pytest

from framework.cli import progress
from framework.cli.live import LiveLine
from framework.cli.progress import Looked, Watch, progress_text
from framework.jobs.runs import RunRow


class Written:
    """A stream that a test reads."""

    def __init__(self, *, terminal: bool) -> None:
        self.text, self._terminal = "", terminal

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


class Seconds:
    """A clock that is set by a test."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Seconds:
    """The clock that progress goes by."""
    seconds = Seconds()
    monkeypatch.setattr(progress, "time", seconds)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return seconds


def line(stream: Written) -> LiveLine:
    """The line of a stream."""
    return LiveLine(cast(TextIO, stream))


def run(name: str = "nightly-1", state: str = "running", size: int = 1000, done: int = 0) -> RunRow:
    """A run that has come so far."""
    return RunRow(name, 0.0, state, [[0, 0, size, done]], attempt=1)


def test_a_terminal_shows_share_rate_and_the_time_that_is_left(seconds: Seconds) -> None:
    stream, row = Written(terminal=True), run()
    watch = Watch(line(stream), lambda: [row])
    watch.show()
    seconds.now, row.plan[0][3] = 2.0, 250
    watch.show()
    assert stream.text.split("\r\x1b[2K")[1:] == [
        "nightly-1 [------------------------]   0 %  0 of 1,000  0/s",
        "nightly-1 [######------------------]  25 %  250 of 1,000  125/s  6 s left",
    ]


def test_elsewhere_a_line_comes_every_ten_seconds(seconds: Seconds) -> None:
    stream, row = Written(terminal=False), run()
    watch = Watch(line(stream), lambda: [row])
    for second in range(25):
        seconds.now, row.plan[0][3] = float(second), 10 * second
        watch.show()
    assert stream.text.splitlines() == [
        "nightly-1 [##----------------------]  10 %  100 of 1,000  10/s  1 min 30 s left",
        "nightly-1 [####--------------------]  20 %  200 of 1,000  10/s  1 min 20 s left",
    ]


def test_a_look_through_the_log_is_shown_the_same_way(seconds: Seconds) -> None:
    terminal, file = Written(terminal=True), Written(terminal=False)
    for stream in (terminal, file):
        seconds.now = 0.0
        looked = Looked(line(stream), "flights")
        for second in range(12):
            seconds.now = float(second)
            looked.seen(10_000_000)
    assert terminal.text.endswith("looking through flights: 120 MB, 10 MB/s")
    assert file.text == "looking through flights: 110 MB, 10 MB/s\n"


@pytest.mark.parametrize(
    ("runs", "text"),
    [
        ([run(state="waiting")], "nightly-1, waits for its next attempt ["),
        ([run(state="planned")], "nightly-1, waits for its turn ["),
        ([run(done=999)], "nightly-1 [#######################-]  99 %"),
        ([run(size=0)], "nightly-1 [########################] 100 %"),
        ([run(state="succeeded"), run(state="failed"), run()], "2 of 3 runs, 1 failed ["),
        ([], ""),
    ],
)
def test_it_says_what_is_run_and_how_it_stands(runs: list[RunRow], text: str) -> None:
    assert progress_text(runs, 0.0).startswith(text)


def test_hours_are_told_as_hours() -> None:
    assert progress_text([run(size=10_000_000)], 1000.0).endswith("  2 h 46 min left")
