"""Jobs whose handlers run in a process of their own: a module, because the process imports it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel

from framework import App, Batch, Retry

BEGUN = 100
"""A number at which handlers say where they are, and wait to be ended."""


class Total(BaseModel):
    """A row of a table."""

    count: int = 0
    total: int = 0


@asynccontextmanager
async def lifespan(living: App) -> AsyncIterator[None]:
    """Opens what belongs to a process."""
    living.state.pid = os.getpid()
    living.state.dies = False
    yield
    if living.state.dies:
        os.kill(os.getpid(), signal.SIGKILL)


app = App("process", lifespan=lifespan)
# Jobs are due once a year: no test that goes by the clock of the machine meets that moment.
numbers = app.topic("numbers", int, partitions=2, retention=None)
out = app.topic("out", int)
totals = app.table("totals", Total)
RETRIES = Retry(2, wait=timedelta(0), on=(ValueError, OSError))


@app.job(numbers, schedule="@yearly", executor="process", retries=RETRIES)
def add(batch: Batch[int]) -> None:
    """Sum into a table, chunk by chunk; at some numbers it comes to grief."""
    for chunk in batch.chunks(2):
        for number in chunk:
            row = totals[str(number % 3)]
            row.count += 1
            row.total += number
            if number >= BEGUN:
                meet(number, batch)
        out.send_many(chunk)


def meet(number: int, batch: Batch[int]) -> None:
    """What a number does to the first attempt."""
    assert batch.run is not None
    if batch.run.attempt > 1:
        return
    if number == BEGUN:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == BEGUN + 1:
        raise ValueError("no luck with it")
    if number == BEGUN + 2:
        raise KeyError("for which retries are not")
    if number == BEGUN + 3:
        sys.exit(7)
    if number == BEGUN + 4:
        print("waiting")
        Path(os.environ["STARTED"]).write_text(str(os.getpid()))
        while True:
            signal.pause()  # Until somebody ends the process.


@app.job(numbers, schedule="@yearly", executor="process", timeout=timedelta(minutes=1), retries=Retry(0))
def hang(batch: Batch[int]) -> None:
    """Never comes to a record."""
    Path(os.environ["STARTED"]).write_text(str(os.getpid()))
    while True:
        signal.pause()


@app.job(numbers, schedule="@yearly", executor="process", on_empty="run", name="look-around")
def look(batch: Batch[int]) -> None:
    """Read, change and remove rows; send all that there is; and say who we are."""
    before = {key: row.total for key, row in totals.items()}
    for key in list(before):
        del totals[key]
    for at in range(2500):
        totals[f"row-{at:04}"].total = at + 1
    assert len(list(totals.items())) == 2500
    print(f"look: {before} {len(batch)} {app.state.pid == os.getpid()} {os.environ['STARTED']}")
    out.send(1, key="k", headers={"h": b"x"})
    out.send_tombstone("k")


@app.job(numbers, schedule="@yearly", executor="process")
def late(batch: Batch[int]) -> None:
    """Succeed, and die before anybody is told."""
    list(batch)
    out.send_many(batch)
    app.state.dies = True


@app.job(numbers, schedule="@yearly", executor="process")
def own(batch: Batch[int]) -> None:
    """Writes to a table that another job owns."""
    totals["mine"].total += sum(batch)
