"""A web application takes orders and shows baskets; agents in a worker fill them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from pydantic import BaseModel

from framework import App


class Order(BaseModel):
    """What a customer buys."""

    customer: str
    amount: float


class Basket(BaseModel):
    """All that one customer bought."""

    orders: int = 0
    total: float = 0


app = App("shop", data="./data/shop")
orders = app.topic("orders", Order, key=lambda order: order.customer, partitions=4, retention=timedelta(days=30))
baskets = app.table("baskets", Basket)


@app.agent(orders)
def fill(order: Order) -> None:
    """Put an order into its basket, in place."""
    basket = baskets[order.customer]
    basket.orders += 1
    basket.total += order.amount


@asynccontextmanager
async def lifespan(_: object) -> AsyncIterator[None]:
    """The web application's own; the app is open meanwhile and runs no agents."""
    async with app:
        yield


async def create(order: Order) -> int | None:
    """Take an order on an event loop."""
    return (await orders.send(order)).offset


def create_in_a_thread(order: Order) -> int | None:
    """Take an order where there is none."""
    return orders.send(order).result(timedelta(seconds=5)).offset


async def show(customer: str) -> Basket:
    """A basket as the worker has committed it."""
    return baskets[customer]
