"""A worker that is cancelled or killed at any callback of its event loop, while it commits often, ends exact."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from framework import commit
from tests.faults.log_power import TORTURE, in_memory
from tests.faults.turns import SCALE, Book
from tests.framework.conftest import Shop

RECORDS = 300
MOMENTS = 60
WAYS = ("cancel", "cancel twice", "kill")


@pytest.fixture
def place() -> Iterator[Path]:
    """Where data is copied to, for each moment."""
    with tempfile.TemporaryDirectory(prefix="framework-cancelled-", dir=in_memory()) as path:
        yield Path(path)


def book_in(place: Path, draw: random.Random) -> Book:
    """A shop with records that nobody has handled; two of them fail."""
    book = Book(Shop(place))
    values = [number * SCALE + draw.randrange(SCALE) for number in range(RECORDS)]
    book.failing = {values[RECORDS // 2]}
    book.shop.send(book.source, values)
    return book


def test_a_worker_cancelled_at_any_moment_loses_and_doubles_nothing(
    place: Path, seed: int, monkeypatch: pytest.MonkeyPatch, report: Callable[[str], None]
) -> None:
    """The next worker goes on where the last commit was; table, outputs and dead letters are those of a fold."""
    monkeypatch.setattr(commit, "COMMIT_INTERVAL_S", 0.001)
    monkeypatch.setattr(commit, "MAX_COMMIT_INTERVAL_S", 0.001)
    draw = random.Random(seed)
    first = book_in(place / "first", draw)
    shutil.copytree(place / "first", place / "whole")
    count = Book(Shop(place / "whole"))
    count.failing = first.failing
    turns = count.run_until()
    count.check()
    assert turns > RECORDS
    moments = (
        range(1, turns) if TORTURE else [draw.randrange(turns * i, turns * (i + 1)) // MOMENTS for i in range(MOMENTS)]
    )
    left: Counter[str] = Counter()
    for number, moment in enumerate(moments):
        for way in WAYS if TORTURE else [WAYS[number % len(WAYS)]]:
            data = place / "data"
            shutil.copytree(place / "first", data)
            book = Book(Shop(data))
            book.failing = first.failing
            # The second cancel comes while the worker finishes what it has in hand.
            ends = [(max(1, moment), way.split()[0])]
            if way == "cancel twice":
                ends.append((ends[0][0] + draw.randrange(1, 8), "cancel"))
            book.run_until(*ends)
            done = len(book.shop.values(book.out))
            left["nothing" if done == 0 else "all" if done == RECORDS - 1 else "a part"] += 1
            try:
                book.run()
                book.check()
            except BaseException as error:
                error.add_note(f"after {way} at callback {moment} of {turns}; FRAMEWORK_TEST_SEED={seed}")
                raise
            shutil.rmtree(data)
    report(f"{turns} callbacks; what the ended worker had sent: {dict(left)}")
    assert left["a part"] > len(moments) // 3
