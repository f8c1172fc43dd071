"""What `App.testing` takes: an app that nobody uses; and how it gives it back: as it was."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from framework import App, Harness
from framework.errors import AppIsOpen
from framework.log import partition_of
from tests.framework.shop_app import ann, app, baskets, fill, numbers_app, orders, receipts


@pytest.mark.parametrize("fails", [False, True])
async def test_the_app_is_as_it_was_and_its_directory_untouched(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAMEWORK_DATA", str(tmp_path / "mine"))
    before = (app.clock, app.data, app.state, set(app.topics))
    place = tmp_path
    with suppress(ZeroDivisionError):
        async with app.testing() as t:
            await orders.send(ann(0))
            await t.idle()
            assert len(t.dead_letters(fill)) == 1
            place = app.data
            assert place.is_dir()
            if fails:
                raise ZeroDivisionError
    assert not app.is_open
    assert not place.exists()
    assert not (tmp_path / "mine").exists()
    assert (app.clock, app.data, app.state, set(app.topics)) == before


async def test_each_testing_begins_with_nothing() -> None:
    for _ in range(3):
        async with app.testing() as t:
            assert t.sent(orders) == []
            await orders.send(ann(1))
            await t.idle()
            assert baskets["ann"].orders == 1


async def test_keys_find_their_partition_in_the_next_directory_too() -> None:
    """It may have more of them than the one before."""
    one = App("one")
    keyed = one.topic("keyed", str, key=lambda value: value)
    for partitions in (2, 4):
        one._partitions = partitions
        async with one.testing():
            await keyed.send_many(f"k{number}" for number in range(20))
            found = {record.value: record.partition for record in keyed.read().records()}
            assert found == {value: partition_of(value.encode(), partitions) for value in found}
            assert len(found) == 20


async def test_an_app_that_is_open_is_not_taken(tmp_path: Path) -> None:
    with app.opened(tmp_path / "data"):
        with pytest.raises(AppIsOpen, match=r"app 'shop' is open in .*data: close it"):
            async with app.testing():
                pass
        assert app.is_open
    async with app.testing():
        with pytest.raises(AppIsOpen):
            async with app.testing():
                pass


async def test_an_app_with_nothing_to_run_can_be_sent_to() -> None:
    one = numbers_app()
    async with one.testing() as t, one:
        await one.topics["numbers"].send(1)
        await t.idle()
        assert t.sent(one.topics["numbers"]) == [1]


@pytest_asyncio.fixture
async def shop_at_work() -> AsyncIterator[Harness]:
    async with app.testing() as t:
        yield t


async def test_it_can_be_a_fixture(shop_at_work: Harness) -> None:
    """Which is set up and torn down by different tasks."""
    await orders.send(ann(1))
    await shop_at_work.idle()
    await shop_at_work.crash()
    assert shop_at_work.sent(receipts) == [1]


@pytest.mark.slow
async def test_fifty_times_leave_neither_threads_nor_descriptors() -> None:
    async def once(*, crash: bool) -> tuple[int, int]:
        async with app.testing() as t:
            await orders.send(ann(1))
            await t.idle()
            if crash:
                await t.crash()
            assert baskets["ann"].orders == 1
        return len(os.listdir("/dev/fd")), threading.active_count()

    first = await once(crash=True)
    for count in range(50):
        last = await once(crash=count % 10 == 0)
    assert last == first
