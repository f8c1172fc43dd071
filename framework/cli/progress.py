"""How runs get on, as their user sees it: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from framework.cli.live import LiveLine, Rate

if TYPE_CHECKING:
    from framework.jobs.runs import RunRow

LINE_S = 0.25
LOG_S = 10.0
BAR = 24
SAID_RUNS = 20
"""Up to so many runs are said one by one when they have ended; of more, those that have not succeeded."""


class Watch:
    """Shows the progress of some runs until it is cancelled, or they are done."""

    def __init__(self, line: LiveLine, runs: Callable[[], Sequence[RunRow]]) -> None:
        """*runs* are asked again each time."""
        self._line, self._runs = line, runs
        self._rate, self._said_at = Rate(), time.monotonic()

    async def keep(self) -> None:
        """Show it again and again."""
        while True:
            self.show()
            await asyncio.sleep(LINE_S)

    def show(self) -> None:
        """Show it once."""
        now, runs = time.monotonic(), self._runs()
        text = progress_text(runs, self._rate.add(now, sum(row.done for row in runs)))
        if self._line.on:
            self._line.show(text)
        elif now - self._said_at >= LOG_S and text:
            self._said_at = now
            self._line.print(text)


def is_worth_saying(row: RunRow, runs: int) -> bool:
    """Whether *row*, which has ended and is one of so many *runs*, is said by itself."""
    return runs == 1 or row.state not in (("empty",) if runs <= SAID_RUNS else ("empty", "succeeded"))


class Looked:
    """Shows how far a look through a topic has come."""

    def __init__(self, line: LiveLine, topic: str) -> None:
        """Nothing has been looked at yet."""
        self._line, self._topic = line, topic
        self._done, self._rate, self._said_at = 0, Rate(), time.monotonic()

    def seen(self, size: int) -> None:
        """So many bytes more."""
        self._done, now = self._done + size, time.monotonic()
        rate = self._rate.add(now, self._done)
        text = f"looking through {self._topic}: {self._done / 1e6:,.0f} MB, {rate / 1e6:,.0f} MB/s"
        if self._line.on:
            self._line.show(text)
        elif now - self._said_at >= LOG_S:
            self._said_at = now
            self._line.print(text)


def progress_text(runs: Sequence[RunRow], rate: float) -> str:
    """One line: the run, or how many of them, with a bar, the share, the rate and the time that is left.

    >>> from framework.jobs.runs import RunRow
    >>> progress_text([RunRow("nightly-1", 0.0, "running", [[0, 0, 1000, 250]])], 50.0)
    'nightly-1 [######------------------]  25 %  250 of 1,000  50/s  15 s left'
    """
    if not runs:
        return ""
    done, size = sum(row.done for row in runs), sum(row.size for row in runs)
    share = done / size if size else 1.0
    filled = int(share * BAR)
    left = f"  {_seconds((size - done) / rate)} left" if rate > 0 and done < size else ""
    bar = "#" * filled + "-" * (BAR - filled)
    return f"{_name(runs)} [{bar}] {int(share * 100):3} %  {done:,} of {size:,}  {rate:,.0f}/s{left}"


def ended_text(row: RunRow) -> str:
    """One line about a run that has ended.

    >>> from framework.jobs.runs import RunRow
    >>> ended_text(RunRow("nightly-1", 0.0, "failed", [], records=3, started=5.0, ended=6.5, error="ValueError: no"))
    'nightly-1: failed, 3 records in 1.5 s: ValueError: no'
    """
    seconds = max(0.0, row.ended - row.started) if row.started else 0.0
    why = f": {row.error}" if row.error else ""
    return f"{row.id}: {row.state}, {row.records:,} record{'s' * (row.records != 1)} in {seconds:.1f} s{why}"


def _name(runs: Sequence[RunRow]) -> str:
    if len(runs) > 1:
        ended = sum(not row.unfinished for row in runs)
        failed = sum(not row.unfinished and row.state not in ("succeeded", "empty") for row in runs)
        return f"{ended} of {len(runs)} runs{f', {failed} failed' if failed else ''}"
    [row] = runs
    state = {"waiting": ", waits for its next attempt", "planned": ", waits for its turn"}.get(row.state, "")
    attempt = f", attempt {row.attempt}" if row.attempt > 1 else ""
    return f"{row.id}{attempt}{state}"


def _seconds(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
