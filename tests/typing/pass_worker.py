"""A program runs its agents itself, sends them records, and looks at what they made of them."""

from __future__ import annotations

from pydantic import BaseModel

from framework import App, Error


class Order(BaseModel):
    """What is sent."""

    customer: str
    amount: int


class Basket(BaseModel):
    """What is made of it."""

    orders: int = 0
    total: int = 0


app = App("embedded")
orders = app.topic("orders", Order, key=lambda order: order.customer)
baskets = app.table("baskets", Basket)


@app.agent(orders)
def fill(order: Order) -> None:
    """Put an order into its basket."""
    baskets[order.customer].total += order.amount


async def main() -> str:
    """Agents run beside the body, and have finished and committed at its end."""
    try:
        async with app.worker():
            sent = await orders.send(Order(customer="ann", amount=3))
            await fill.send(Order(customer="ann", amount=4))
    except Error as error:
        return f"exit code {error.exit_code}"
    with app.opened(create=False):
        assert baskets["ann"] == Basket(orders=2, total=7)
    return f"{sent.topic}-{sent.partition}-{sent.offset}"
