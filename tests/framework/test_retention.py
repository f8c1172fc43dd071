"""The worker lets retention wait for what its agents and jobs have not read."""

from __future__ import annotations

from typing import Any

from framework import Batch, Stream
from framework.worker import Worker
from tests.framework.conftest import Shop


async def test_the_slowest_agent_and_the_job_that_never_ran_hold_the_log(shop: Shop) -> None:
    app = shop.app()
    numbers = app.topic("numbers", int)

    @app.agent(numbers)
    async def fast(stream: Stream[int]) -> None:
        async for _ in stream:
            pass

    @app.agent(numbers, start=2)
    async def slow(stream: Stream[int]) -> None:
        async for _ in stream:
            pass

    shop.send(numbers, range(5))
    hold = await hold_after(shop, app)
    assert hold == 5

    @app.job(numbers, schedule="@weekly")
    def weekly(batch: Batch[int]) -> None:
        pass

    assert await hold_after(shop, app) == 0


async def hold_after(shop: Shop, app: Any) -> int | None:
    """Where the hold of `numbers` stands when a worker is idle."""
    worker = Worker(app)
    async with worker.running():
        partition = app.log.partition(app.log.topic("numbers"), 0)
        await shop.until(lambda: worker.idle and all(task.durable == 5 for task in worker.tasks))
        worker.publish_holds()
        hold: int | None = app.log.shared.hold(partition.slot)
    return hold
