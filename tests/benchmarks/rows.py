"""What a row of the benchmark is, and how it is measured: pairs of two sides in turn, or samples of one.

Machines differ and are noisy, so what can be compared is: the two sides of a pair run one behind the other in this
process, which goes first alternates, and the median of the pairs' ratios counts. What people wait for, or
what is promised in figures, is the median of several samples against a figure.
"""

from __future__ import annotations

import gc
import math
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRESS_S = 2.0
Side = Callable[[], float]
"""Does the work of one side once, and returns its rate in the unit of the row."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done in each row."""

    records: int = 1_000_000
    pairs: int = 5
    job_records: int = 10_000_000
    backlog_bytes: int = 5_000_000_000
    small_bytes: int = 250_000_000
    """The log without a backlog, to compare with."""
    recovered_bytes: int = 1_000_000_000
    partitions: int = 1_000
    sends: int = 50_000
    caught_up: int = 2_000
    """How many batches a caught-up reader waits for, one after the other."""
    low_rate_s: float = 10.0
    idle_s: float = 10.0
    idle_tasks: int = 1_000
    resident_records: int = 10_000_000
    """Memory is compared between a tenth of them and all."""
    starts: int = 7


QUICK = Scale(
    records=10_000,
    pairs=1,
    job_records=10_000,
    backlog_bytes=8_000_000,
    small_bytes=2_000_000,
    recovered_bytes=4_000_000,
    partitions=20,
    sends=1_000,
    caught_up=20,
    low_rate_s=0.2,
    idle_s=0.1,
    idle_tasks=20,
    resident_records=10_000,
    starts=1,
)
"""Shows that every row runs; its figures say nothing."""


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table: a value, and the target it is to be at least, or below."""

    name: str
    value: float
    unit: str
    low: float
    high: float
    at_least: float | None = None
    below: float | None = None
    rates: str = ""
    """Of a ratio: what the two sides did."""

    @property
    def missed(self) -> bool:
        """Whether the value is on the wrong side of its target."""
        too_low = self.at_least is not None and self.value < self.at_least
        return too_low or (self.below is not None and self.value >= self.below)

    @property
    def target(self) -> str:
        """The target, as the table shows it."""
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.below is None else f"< {self.below:g}"


class Bench:
    """One run: how much to do, where, and what rows share; everything on disk is removed at the end."""

    def __init__(self, directory: Path, scale: Scale) -> None:
        """*directory* is empty."""
        self.directory, self.scale = directory, scale
        self._shared: dict[str, Path] = {}

    @contextmanager
    def place(self) -> Iterator[Path]:
        """A directory of a row's own."""
        path = Path(tempfile.mkdtemp(dir=self.directory))
        try:
            yield path
        finally:
            shutil.rmtree(path)

    def shared(self, name: str, fill: Callable[[Path], None]) -> Path:
        """A directory that several rows use, filled by the first of them."""
        path = self._shared.get(name)
        if path is None:
            path = self.directory / name
            fill(path)
            self._shared[name] = path
        return path


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it is named on the command line; it may give several lines of the table."""

    name: str
    measure: Callable[[Bench], Iterable[Result]]


class Pairs:
    """The rates of two sides that ran in turn."""

    def __init__(self, ours: Side, other: Side, count: int, unit: str) -> None:
        """Run them *count* times each."""
        self._unit = unit
        self._rates = [_run_pair(ours, other, ours_first=number % 2 == 0) for number in range(count)]

    def ratio(self, name: str, at_least: float | None = None) -> Result:
        """Our rate over the other one; without a target it says what the machine would allow."""
        ratios = [ours / other for ours, other in self._rates]
        ours, other = (statistics.median(side) for side in zip(*self._rates, strict=True))
        rates = f"{ours:.2f} : {other:.2f} {self._unit}"
        median = statistics.median(ratios)
        return Result(name, median, "", min(ratios), max(ratios), at_least=at_least, rates=rates)

    def ours(self, name: str, at_least: float) -> Result:
        """Our rate alone."""
        return samples(name, [ours for ours, _ in self._rates], self._unit, at_least=at_least)


def samples(
    name: str, values: Sequence[float], unit: str, *, at_least: float | None = None, below: float | None = None
) -> Result:
    """The median of *values* against a target, or against none."""
    return Result(name, statistics.median(values), unit, min(values), max(values), at_least, below)


def skipped(name: str, why: str) -> Result:
    """A line that says that nothing was measured, and why."""
    return Result(name, math.nan, "", math.nan, math.nan, rates=f"skipped: {why}")


def percentile(values: Iterable[float], percent: float) -> float:
    """The value that *percent* of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def _run_pair(ours: Side, other: Side, *, ours_first: bool) -> tuple[float, float]:
    """Rates of both sides, run one behind the other."""
    gc.collect()
    gc.freeze()  # The million records that a side may have in a list are no part of either loop.
    if ours_first:
        return ours(), other()
    rate = other()
    return ours(), rate


def say(text: str) -> None:
    """What is being done, on standard error: some rows take minutes."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """How far something long has come, said now and then."""

    def __init__(self, what: str, total_bytes: int) -> None:
        """Nothing is said about what is over at once."""
        self._what, self._total_bytes, self._said_at = what, total_bytes, time.monotonic()

    def at(self, done_bytes: int) -> None:
        """It has come to *done_bytes*."""
        if time.monotonic() - self._said_at >= PROGRESS_S:
            self._said_at = time.monotonic()
            say(f"  {self._what}: {done_bytes / 1e9:.1f} of {self._total_bytes / 1e9:.1f} GB")
