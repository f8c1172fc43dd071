"""Records that were removed before an agent read them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from framework import App
from framework.log.errors import OffsetOutOfRange
from framework.worker import Worker
from tests.framework.conftest import Shop
from tests.framework.till import Till


@pytest.fixture
def till(shop: Shop) -> Till:
    return Till(shop)


async def gapped(till: Till, on_gap: Any, removed: int = 20) -> tuple[App, list[int]]:
    """An app whose agent has read 5 records, of which *removed* are gone now, of 25."""
    seen = list[int]()

    def app() -> App:
        made = till.shop.app("gaps", clock=till.clock)
        topic = made.topic("gapped", int)

        @made.agent(topic, on_gap=on_gap)
        def see(number: int) -> None:
            seen.append(number)

        return made

    first = app()
    till.shop.send(first.topic("gapped", int), range(5))
    await till.shop.run(first)
    till.shop.send(first.topic("gapped", int), range(5, 25))
    with first.opened():
        first.log.partition(first.log.topic("gapped"), 0).delete_records(removed)
    return app(), seen


async def test_an_agent_stops_where_records_were_removed_before_it_read_them(till: Till) -> None:
    app, _ = await gapped(till, "fail")
    with pytest.raises(OffsetOutOfRange, match=r"records 5 to 19 were removed .* on_gap='earliest', or run `fra"):
        await till.shop.run(app)


@pytest.mark.parametrize("removed", [20, 25])
async def test_an_agent_goes_on_at_the_log_start_if_it_may(
    till: Till, caplog: pytest.LogCaptureFixture, removed: int
) -> None:
    app, seen = await gapped(till, "earliest", removed)
    await till.shop.run(app)
    assert seen == [*range(5), *range(removed, 25)]
    assert f"see goes on at gapped-0@{removed}: {removed - 5} offsets, 5 to {removed - 1}, were removed" in caplog.text
    till.shop.send(app.topics["gapped"], [100])
    await till.shop.run(app)
    assert seen[-1] == 100


async def test_records_removed_while_the_agent_runs_are_skipped_too(shop: Shop) -> None:
    """It is held up in its last record while the next ones come and go."""
    app, seen, free = shop.app("gaps"), list[int](), asyncio.Event()
    topic = app.topic("gapped", int)

    @app.agent(topic, on_gap="earliest")
    async def see(number: int) -> None:
        seen.append(number)
        await free.wait()

    shop.send(topic, [0])
    worker = Worker(app)
    async with worker.running():
        await shop.until(lambda: bool(seen))
        await topic.send_many(range(1, 10))
        worker.tasks[0].fetch.partition.delete_records(7)
        free.set()
        await shop.until(lambda: seen[-1] == 9 and worker.idle)
    assert seen == [0, 7, 8, 9]
