"""Values, keys and places that a topic does not take, and what its records are not."""

from __future__ import annotations

from pydantic import BaseModel

from framework import App


class Order(BaseModel):
    """What is sent."""

    customer: str
    amount: int


app = App("shop")
orders = app.topic("orders", Order, key=lambda order: order.customer)
amounts = app.topic("amounts", int, key_type=int)
order = Order(customer="ann", amount=3)

# Declaring.
app.topic("a", Order, key=lambda order: order.name)  # error: attr-defined
app.topic("b", Order, key=lambda order: order.amount)  # error: arg-type, return-value
app.topic("c", Order, key_type=int, key=lambda order: order.customer)  # error: arg-type, return-value
app.topic("d", Order, retention=30)  # error: call-overload

# Sending.
orders.send("ann")  # error: arg-type
orders.send(order, key=7)  # error: arg-type
orders.send(order, timestamp=1700000000)  # error: arg-type
orders.send(order, headers={"trace": "1"})  # error: dict-item
orders.send_many(order)  # error: arg-type
orders.send_many([order, 3])  # error: list-item
amounts.send(3, key="7")  # error: arg-type
orders.send(order).offset  # error: attr-defined

# Reading.
orders.read(start="yesterday")  # error: arg-type
orders.read(start=1.5)  # error: arg-type
wrong: list[int] = list(orders.read())  # error: arg-type
for record in orders.read().records():
    record.key.upper()  # error: union-attr
    record.value.name  # error: attr-defined
    record.value = order  # error: misc
