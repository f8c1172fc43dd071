"""A Faust app with tables: sums of customers, of customers a minute, of cities, and the payments themselves.

After each payment it sends the sums as they are then.
"""

from __future__ import annotations

from datetime import timedelta

import faust


class Payment(faust.Record):
    """Somebody paid in some city."""

    number: int
    customer: str
    city: str
    cents: int


app = faust.App("payments")
payments = app.topic("payments", key_type=str, value_type=Payment)
balances = app.Table("balances", default=int)
minutes = app.Table("minutes", default=int).tumbling(60, expires=timedelta(days=1)).relative_to_stream()
cities = app.Table("cities", default=int)
paid = app.Table("paid", default=int)
sums, totals, answers = app.topic("sums"), app.topic("totals"), app.topic("answers")


@app.agent(payments)
async def pay(stream):
    """Sums of customers; of a payment that is handled twice `paid` knows only once."""
    async for payment in stream:
        balances[payment.customer] += payment.cents
        minutes[payment.customer] += payment.cents
        paid[f"{payment.customer} {payment.number}"] = payment.cents
        of_minute = minutes[payment.customer].current()
        await sums.send(value=[payment.number, payment.customer, balances[payment.customer], of_minute])


@app.agent(payments)
async def move(stream):
    """Sums of cities, which are in many partitions of the payments."""
    async for payment in stream.group_by(Payment.city):
        cities[payment.city] += payment.cents
        await totals.send(value=[payment.number, payment.city, cities[payment.city]])


@app.agent(app.topic("questions"))
async def answer(stream):
    """All payments that the table knows."""
    async for question in stream:
        await answers.send(value=[question, dict(paid.items())])
