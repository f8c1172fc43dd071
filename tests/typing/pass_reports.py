"""A nightly job writes what has come since the last one, and a notebook looks at the same topic."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel

from framework import App, Batch


class Order(BaseModel):
    """What is reported."""

    customer: str
    amount: float


app = App("reports")
orders = app.topic("orders", Order, key=lambda order: order.customer, partitions=4)


@app.job(orders, schedule="0 3 * * *", timezone="Asia/Seoul")
def nightly(batch: Batch[Order]) -> None:
    """A file a chunk; a run that is resumed goes on with the chunk it was at."""
    for chunk in batch.chunks(100_000):
        assert chunk.run is not None
        path = Path("reports", f"{chunk.run.id}-{chunk.number:05}.csv")
        path.write_text("".join(f"{order.customer},{order.amount}\n" for order in chunk))


def yesterday() -> float:
    """What a notebook asks, at any time and without moving anybody's offsets."""
    return sum(order.amount for order in orders.read(start=timedelta(days=1)))
