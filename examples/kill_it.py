"""Two thousand payments, a worker that is killed in the middle of them, and what is counted in the end.

    python examples/kill_it.py send                          # 2,000 payments
    framework worker -A examples/kill_it.py                  # kill -9 it, start it again
    python examples/kill_it.py count

Each payment takes the agent two milliseconds, is added to a table, and gives a receipt.
"""

from __future__ import annotations

import asyncio
import sys

from pydantic import BaseModel

from framework import App

PAYMENTS = 2_000


class Payment(BaseModel):
    """Somebody paid."""

    number: int
    customer: str
    cents: int


class Paid(BaseModel):
    """What a customer has paid so far."""

    payments: int = 0
    cents: int = 0


app = App("kill-it", data="data/kill-it", partitions=2)
payments = app.topic("payments", Payment, key=lambda payment: payment.customer)
receipts = app.topic("receipts", Payment, key=lambda payment: payment.customer)
paid = app.table("paid", Paid)


@app.agent(payments, sink=receipts)
async def charge(payment: Payment) -> Payment:
    """Count the payment, which takes a moment, and give a receipt."""
    customer = paid[payment.customer]
    customer.payments += 1
    await asyncio.sleep(0.002)
    customer.cents += payment.cents
    return payment


def send() -> None:
    """Append the payments; they are on the disk when this returns."""
    with app.opened():
        sent = (Payment(number=n, customer=f"customer {n % 40}", cents=n % 100) for n in range(PAYMENTS))
        payments.send_many(sent).result()
    print(f"sent {PAYMENTS} payments")


def count() -> None:
    """Print what is committed: the table and the receipts, which are all different."""
    with app.opened(create=False):
        numbers = [receipt.number for receipt in receipts.read()]
        counted = sum(customer.payments for customer in paid.values())
        cents = sum(customer.cents for customer in paid.values())
    print(f"{counted} payments of {cents} cents, {len(numbers)} receipts, {len(set(numbers))} different")


if __name__ == "__main__":
    {"send": send, "count": count}[sys.argv[1]]()
