"""What groups need while nobody asks: deadlines and offsets that go, whatever the disk and the state of agents do."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Container, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from framework.log import Log
from framework.log.broker import Code
from framework.log.broker.group_settings import GroupSettings
from framework.log.broker.offsets import MemoryOffsets
from framework.log.broker.table_group_admin import DescribeGroupsRequest, ListGroupsRequest
from framework.log.broker.table_groups import OffsetFetchGroup, OffsetFetchRequest, OffsetFetchTopic
from framework.log.errors import Error
from tests.log.broker.office import Office, StillClock
from tests.until import until

DAY_MS = 86_400_000
OFTEN = GroupSettings(offsets_retention_check_interval_ms=1)


class Searching(MemoryOffsets):
    """A store that takes its time to look through the offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.searches: list[Future[int]] = []

    def expire(self, before_ms: int, now_ms: int, live: Collection[str], topics: Container[str]) -> Future[int]:
        """Done when the test says so."""
        self.searches.append(Future())
        return self.searches[-1]


@pytest.fixture
def clock() -> StillClock:
    """The time."""
    return StillClock()


@pytest.fixture
def log(tmp_path: Path, clock: StillClock) -> Iterator[Log]:
    """An empty log."""
    with Log(tmp_path / "data", create=True, clock=clock) as opened:
        yield opened


async def test_offsets_are_looked_through_again_and_again(log: Log, clock: StillClock) -> None:
    office = Office(log, clock, settings=OFTEN)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(office.handlers.run())
        for _ in range(2):
            await office.codes(("flights", 0, 1))
            clock.passed_ms += 8 * DAY_MS
            await until(lambda: not office.offsets.groups())
        watching.cancel()


async def test_sessions_end_while_offsets_are_looked_through(log: Log, clock: StillClock) -> None:
    """A disk that is slow holds up nobody who joins, and no deadline that is new meanwhile is missed."""
    store = Searching()
    office = Office(log, clock, store, OFTEN)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(office.handlers.run())
        await until(lambda: store.searches)
        await office.member()
        clock.passed_ms += 10_000
        await until(lambda: not office.handlers.coordinator.has_members("readers"))
        watching.cancel()


@pytest.mark.parametrize("fault", [Error("the disk refused"), OSError(5, "Input/output error")])
async def test_upkeep_goes_on_behind_what_the_disk_refused(log: Log, clock: StillClock, fault: Exception) -> None:
    """Too many open files, or a disk that fails for a moment, do not end the broker."""
    store = Searching()
    office = Office(log, clock, store, OFTEN)
    office.agents.fault = fault
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(office.handlers.run())
        for count in (1, 2):
            await until(lambda count=count: len(store.searches) == count)  # type: ignore[misc]
            store.searches[-1].set_exception(fault)
        await until(lambda: office.agents.looked)
        assert not watching.done()
        watching.cancel()


@pytest.mark.parametrize("fault", [Error("the state is damaged"), OSError(24, "Too many open files")])
async def test_agents_that_cannot_be_read_keep_nobody_from_other_groups(
    log: Log, clock: StillClock, fault: Exception
) -> None:
    office = Office(log, clock)
    await office.codes(("flights", 0, 1))
    office.agents.fault = fault
    listed = await office.ask(ListGroupsRequest())
    assert [group.group_id for group in listed.groups] == ["readers"]
    described = await office.ask(DescribeGroupsRequest(groups=["readers", "shop.fold"]))
    assert [group.state for group in described.groups] == ["Empty", "Dead"]
    asked = [OffsetFetchGroup(group_id=name, topics=None) for name in ("readers", "shop.fold")]
    fetched = await office.ask(OffsetFetchRequest(groups=asked), 8)
    assert [len(group.topics) for group in fetched.groups] == [1, 0]
    assert fetched.groups[0].error_code == Code.NONE != fetched.groups[1].error_code
    topics = [OffsetFetchTopic(name="flights", partitions=[0])]
    old = await office.ask(OffsetFetchRequest(group_id="shop.fold", topics=topics), 1)
    assert old.topics[0].partitions[0].error_code == fetched.groups[1].error_code
