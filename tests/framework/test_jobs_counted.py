"""A run has as many records as its ranges, however its handler has read them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest

from framework import Batch
from framework.jobs.backfill import Backfill
from framework.jobs.commands import Commands
from framework.jobs.runner import JobRunner
from framework.state.shards import Shards

if TYPE_CHECKING:
    from tests.framework.conftest import Shop

BEGIN = datetime(2024, 3, 8, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
WAYS: dict[str, Callable[[Batch[int]], Any]] = {
    "not at all": lambda _: None,
    "in part": lambda batch: list(islice(batch, 3)),
    "whole": list,
    "twice, the second time in part": lambda batch: [list(batch), list(islice(batch, 3))],
    "as records": lambda batch: list(batch.records()),
    "as a frame": lambda batch: batch.to_polars(),
    "by its length": len,
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_run_counts_its_records_however_they_are_read(shop: Shop, way: str) -> None:
    """Of all that came, and of a backfill's part, which passes over what was stamped otherwise."""
    app = shop.app()
    numbers = app.topic("numbers", int, partitions=2)

    @app.job(numbers, schedule="@daily")
    def read(batch: Batch[int]) -> None:
        WAYS[way](batch)

    with app.opened():
        for ack in [numbers.send(number, timestamp=BEGIN + number % 5 * MINUTE) for number in range(21)]:
            ack.result()
        shards = Shards(app.log)
        shards.own_jobs()
        try:
            runner = JobRunner(app, shards.of_jobs())
            row = await runner.run(read, BEGIN)
            commands = Commands(runner)
            _, planned = await commands.plan_backfill("read", Backfill(BEGIN, BEGIN + 3 * MINUTE, MINUTE))
            await commands.finish_backfill(planned)
        finally:
            shards.close()
    assert row.records == 21
    assert [(part.state, part.records) for part in planned] == [("succeeded", 5), ("succeeded", 4), ("succeeded", 4)]
