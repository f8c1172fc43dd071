"""A worker that stops when it is idle has first done what is due, and every run that was planned."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from framework import Batch
from framework.jobs.backfill import Backfill
from framework.jobs.commands import Commands
from framework.jobs.runner import JobRunner
from framework.state.shards import Shards

if TYPE_CHECKING:
    from tests.framework.conftest import Shop

BEGIN = datetime(2024, 3, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)
RUNS = 100


@pytest.mark.slow
async def test_the_runs_of_a_backfill_are_all_done_before_a_worker_is_idle(shop: Shop) -> None:
    app, hours = shop.app(), list[datetime | None]()
    numbers = app.topic("numbers", int)

    @app.job(numbers, schedule="@daily", on_empty="run")
    async def look(batch: Batch[int]) -> None:
        assert batch.run is not None
        hours.append(batch.run.since)

    shop.send(numbers, [1], timestamp=BEGIN)
    with app.opened():
        shards = Shards(app.log)
        shards.own_jobs()
        try:
            wanted = Backfill(BEGIN, BEGIN + RUNS * HOUR, HOUR)
            await Commands(JobRunner(app, shards.of_jobs())).plan_backfill("look", wanted)
        finally:
            shards.close()
    await shop.run(app)
    assert hours == [BEGIN + number * HOUR for number in range(RUNS)]
