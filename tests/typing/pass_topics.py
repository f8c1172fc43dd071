"""Topics know the types of their values and keys, when sending and when reading."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from pydantic import BaseModel

from framework import Ack, App, Batch, Record, Sent, Topic


class Order(BaseModel):
    """What is sent."""

    customer: str
    amount: int


app = App("shop", data="./data", partitions=4)

orders = app.topic("orders", Order, key=lambda order: order.customer, retention=timedelta(days=30))
assert_type(orders, Topic[Order, str])

amounts = app.topic("amounts", int, key_type=int, partitions=2, retention=None)
assert_type(amounts, Topic[int, int])

by_amount = app.topic("by-amount", Order, key_type=int, key=lambda order: order.amount)
assert_type(by_amount, Topic[Order, int])

untyped = app.topic("untyped")
assert_type(untyped, Topic[Any, str])


async def send() -> Sent:
    """Every way to send."""
    order = Order(customer="ann", amount=3)
    assert_type(orders.send(order), Ack)
    orders.send(order, key="ann", timestamp=datetime.now(UTC), headers={"trace": b"1"})
    orders.send(order, key=None)
    amounts.send(3, key=7)
    untyped.send({"any": ["thing"]})
    assert_type(orders.send(order).result(timedelta(seconds=5)), Sent)
    return await orders.send_many([order, order])


async def follow() -> None:
    """What comes, with `for` and with `async for`."""
    async for order in orders.follow("beginning", timeout=timedelta(seconds=1)):
        assert_type(order, Order)
    for record in by_amount.follow(-10).records():
        assert_type(record, Record[Order, int])


def declare() -> None:
    """Every option of a topic."""
    app.topic("prices", int, compact=True, compression="zstd", durability="always", config={"segment.bytes": 1 << 20})
    amounts.send_tombstone(7)


def read() -> int | None:
    """Every way to read without an agent."""
    assert_type(orders.read(), Batch[Order, str])
    orders.read("beginning", 17)
    orders.read(datetime.now(UTC), "end")
    batch = by_amount.read(start=timedelta(days=1))
    assert_type(iter(batch), Iterator[Order])
    for record in batch.records():
        assert_type(record, Record[Order, int])
        assert_type(record.key, int | None)
        assert_type(record.value, Order)
        assert_type(record.timestamp, datetime)
        assert_type(record.id, str)
    return max((record.key for record in batch.records() if record.key), default=None)
