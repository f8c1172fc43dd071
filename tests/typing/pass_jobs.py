"""Jobs get batches of their topic's values and keys, in a thread or on the loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from typing import assert_type

import polars
from pydantic import BaseModel

from framework import App, Batch, Job, Record, Run


class Order(BaseModel):
    """What is read."""

    customer: str
    amount: float


app = App("shop")
orders = app.topic("orders", Order, key=lambda order: order.customer)
numbered = app.topic("numbered", Order, key_type=int)
totals = app.table("totals", float)


@app.job(orders, schedule="0 3 * * *", timezone="Asia/Seoul")
def nightly(batch: Batch[Order]) -> None:
    """`def` runs in a thread, and a chunk that is finished is committed."""
    for chunk in batch.chunks(100_000):
        assert_type(chunk, Batch[Order, str])
        assert_type(chunk.number, int)
        for order in chunk:
            assert_type(order, Order)
            totals[order.customer] += order.amount


@app.job(numbered, schedule=timedelta(hours=1), name="every-hour")
async def hourly(batch: Batch[Order, int]) -> None:
    """`async def` runs on the loop."""
    assert_type(batch.run, Run | None)
    assert_type(batch.records(), Iterator[Record[Order, int]])
    if batch.run is not None:
        assert_type(batch.run.nominal, datetime)
        assert_type(batch.run.attempt, int)


@app.job(numbered, schedule=timedelta(hours=2))
async def in_the_background(batch: Batch[Order, int]) -> None:
    """`async for` reads and commits in a thread; a chunk can be had as a frame."""
    iterated: Iterator[Batch[Order, int]] = batch.chunks(10)
    awaited: AsyncIterator[Batch[Order, int]] = batch.chunks(10)
    assert_type(next(iterated), Batch[Order, int])
    assert_type(await anext(awaited), Batch[Order, int])
    async for chunk in batch.chunks(100_000):
        assert_type(chunk, Batch[Order, int])
        assert_type(chunk.resumed, bool)
        assert_type(chunk.to_polars(), polars.DataFrame)


@app.job(orders, schedule="@weekly")
def between(batch: Batch[Order]) -> None:
    """The run of a backfill has bounds."""
    if batch.run is not None:
        assert_type(batch.run.since, datetime | None)
        assert_type(batch.run.until, datetime | None)


@app.job(numbered, schedule="@daily")
def daily(batch: Batch[Order, int]) -> None:
    """An alias, and a batch that is not read is read all the same."""
    assert_type(len(batch), int)


assert_type(nightly, Job)
assert_type(hourly, Job)
