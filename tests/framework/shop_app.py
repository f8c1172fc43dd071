"""One app for all tests of `App.testing`, as a project has it, and small ones for what it does not show."""

from __future__ import annotations

from pydantic import BaseModel

from framework import App, Batch, Stream


class Order(BaseModel):
    """What somebody buys."""

    customer: str
    amount: int


class Basket(BaseModel):
    """What somebody has bought so far."""

    orders: int = 0
    total: int = 0


# One app for all tests, as a project has it.
app = App("shop")
orders = app.topic("orders", Order, key=lambda order: order.customer, partitions=2)
receipts = app.topic("receipts", int)
baskets = app.table("baskets", Basket)
reports: list[list[int]] = []
"""The amounts of each run of `nightly`."""


@app.agent(orders)
async def fill(stream: Stream[Order]) -> None:
    """Put orders into baskets, and send a receipt for each."""
    async for order in stream:
        if not order.amount:
            raise ValueError("an order over nothing")
        basket = baskets[order.customer]
        basket.orders += 1
        basket.total += order.amount
        receipts.send(order.amount)


@app.job(orders, schedule="0 3 * * *")
def nightly(batch: Batch[Order]) -> None:
    """Report the amounts."""
    amounts = [order.amount for order in batch]
    if 13 in amounts:
        raise ValueError("no luck")
    reports.append(amounts)


def ann(amount: int) -> Order:
    """An order of hers."""
    return Order(customer="ann", amount=amount)


def numbers_app(name: str = "numbers") -> App:
    """An app with the topics `numbers` and `out`."""
    new = App(name)
    new.topic("numbers", int)
    new.topic("out", int)
    return new
