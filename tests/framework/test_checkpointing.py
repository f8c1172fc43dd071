"""A worker makes a checkpoint of its state every hour."""

from __future__ import annotations

import pytest

from framework import App, Stream
from framework.log.errors import InvalidSetting
from framework.state.checkpoints import INTERVAL_MS, Checkpoint, Checkpoints, checkpoints
from framework.state.errors import StateFailed
from framework.state.store import Store
from framework.worker import Worker
from tests.framework.conftest import Shop
from tests.log.conftest import ManualClock


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether one is due is looked every few milliseconds."""
    monkeypatch.setattr("framework.checkpointing.POLL_S", 0.005)


def summing(shop: Shop, clock: ManualClock, snapshots: int = 24) -> App:
    """An app that adds numbers up in partition 1 of two."""
    app = shop.app(clock=clock, snapshots=snapshots)
    numbers, sums = app.topic("numbers", int, partitions=2, key=lambda _: "k1"), app.table("sums", int)

    @app.agent(numbers)
    async def add(stream: Stream[int]) -> None:
        async for number in stream:
            sums["k1"] += number

    return app


def made(shop: Shop) -> list[Checkpoint]:
    """Those of the shards of both partitions."""
    return [*checkpoints(shop.data, "0"), *checkpoints(shop.data, "1")]


async def test_a_worker_makes_one_of_each_store_and_an_hour_later_the_next(shop: Shop) -> None:
    clock = ManualClock()
    app = summing(shop, clock)
    async with Worker(app).running():
        await shop.until(lambda: len(made(shop)) == 2)
        await app.topics["numbers"].send(1)
        clock.ms += INTERVAL_MS
        # That of the other partition would be the same again.
        await shop.until(lambda: len(made(shop)) == 3)
    assert {each.time_ms for each in made(shop)} == {clock.ms, clock.ms - INTERVAL_MS}


async def test_without_snapshots_there_are_none(shop: Shop) -> None:
    clock = ManualClock()
    async with Worker(summing(shop, clock)).running():
        await shop.until(lambda: len(made(shop)) == 2)
    async with Worker(summing(shop, clock, snapshots=0)).running():
        await shop.until(lambda: not made(shop))


async def test_the_worker_goes_on_without_one_that_cannot_be_made(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: Checkpoints, store: Store) -> None:
        raise StateFailed("the disk is full")

    app = summing(shop, ManualClock())
    monkeypatch.setattr(Checkpoints, "make", refuse)
    async with Worker(app).running():
        await shop.until(lambda: "was made: the disk is full" in caplog.text)
        await app.topics["numbers"].send(1)
    assert shop.rows(app.tables["sums"]) == {"k1": 1}


def test_snapshots_cannot_be_negative(shop: Shop) -> None:
    with pytest.raises(InvalidSetting, match="snapshots is -1"):
        shop.app(snapshots=-1)
