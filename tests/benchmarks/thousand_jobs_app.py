"""An app with a thousand jobs, each due once a day, at minutes of their own."""

from __future__ import annotations

import os
from typing import Any

from framework import App, Batch

COUNT = "BENCH_JOBS"

app = App("thousand")
orders = app.topic("orders", dict)


def declare(number: int) -> None:
    """The job of that *number*."""

    @app.job(orders, schedule=f"{number % 60} {number // 60 % 24} * * *", name=f"job-{number}")
    def job(batch: Batch[dict[str, Any]]) -> None:
        for _ in batch:
            pass


for each in range(int(os.environ.get(COUNT, "1000"))):
    declare(each)
