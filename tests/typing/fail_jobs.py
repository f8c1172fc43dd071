"""Jobs that do not fit their topic, and schedules that are none."""

from __future__ import annotations

from pydantic import BaseModel

from framework import App, Batch, Stream


class Order(BaseModel):
    """What is read."""

    customer: str


app = App("shop")
orders = app.topic("orders", Order)
numbered = app.topic("numbered", Order, key_type=int)


@app.job(orders, schedule="@daily")  # error: arg-type
def of_other_values(batch: Batch[int]) -> None: ...


@app.job(numbered, schedule="@daily")  # error: arg-type
def of_other_keys(batch: Batch[Order, str]) -> None: ...


@app.job(orders, schedule="@daily")  # error: arg-type
def of_a_value(order: Order) -> None: ...


@app.job(orders, schedule="@daily")  # error: arg-type
async def of_a_stream(stream: Stream[Order]) -> None: ...


@app.job(orders, schedule="@daily")  # error: arg-type
def that_returns(batch: Batch[Order]) -> int:
    return len(batch)


@app.job(orders)  # error: call-arg
def without_schedule(batch: Batch[Order]) -> None: ...


@app.job(orders, schedule=60)  # error: arg-type
def with_a_number(batch: Batch[Order]) -> None: ...


@app.job(orders, schedule="@daily")
def inside(batch: Batch[Order]) -> None:
    batch.run.id  # error: union-attr
    for chunk in batch.chunks("100"):  # error: arg-type
        chunk.customer  # error: attr-defined
    for order in batch:
        order.name  # error: attr-defined
    batch.to_polars().no_such_method()  # error: attr-defined


@app.job(orders, schedule="@daily")
async def awaited(batch: Batch[Order]) -> None:
    async for chunk in batch.chunks(100):
        chunk.customer  # error: attr-defined
    async for order in batch:  # error: attr-defined
        order.customer
