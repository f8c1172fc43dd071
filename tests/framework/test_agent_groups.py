"""Agents and jobs as consumer groups: what they have read, and who reads."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from framework import App, Batch, Stream
from framework.agent_groups import AgentGroups
from framework.log import Log
from framework.log.locks import SHARD_LOCK
from framework.status import FILE, Counts, TaskStatus
from framework.worker import Worker

pytestmark = pytest.mark.slow


@pytest.fixture
def app(tmp_path: Path) -> App:
    """An app with an agent that has a stage, one without, and a job."""
    app = App("shop", data=tmp_path / "data")
    orders = app.topic("orders", str, partitions=2)
    lengths = app.table("lengths", int)

    @app.agent(orders, start="beginning")
    async def plain(stream: Stream[str]) -> None:
        async for _ in stream:
            pass

    @app.agent(orders, start="beginning")
    async def counted(stream: Stream[str]) -> None:
        async for order in stream.group_by(lambda order: order[:1], name="letter"):
            lengths[order] += 1

    @app.job(orders, schedule="0 3 * * *")
    def nightly(batch: Batch[str]) -> None:
        assert sum(1 for _ in batch)

    return app


async def handled(app: App) -> None:
    """Three orders, read by everybody."""
    async with app:
        for order in ("apple", "pear", "plum"):
            await app.topics["orders"].send(order)
        worker = Worker(app)
        await worker.run(until_idle=True)


async def test_agents_stages_and_jobs_have_a_group_each(app: App, tmp_path: Path) -> None:
    await handled(app)
    with Log(tmp_path / "data") as log:
        groups = AgentGroups(log)
        found = groups.groups()
        orders = log.topic("orders").id
        between = next(info for name, info in log.topics().items() if "repartition" in name).id
        read = {name: {place[0]: 0 for place in group.offsets} for name, group in found.items()}
        assert read["shop.plain"] == read["shop.counted.letter"] == {orders: 0}
        assert read["shop.counted"] == {between: 0}
        assert found["shop.nightly"].offsets == {}
        assert sum(found["shop.plain"].offsets.values()) == 3
        assert "shop.plain" not in groups.names(), "it has not looked yet"
        groups.refresh()
        names = groups.names()
        assert all(name in names for name in found)
        assert not any(name in names for name in ("shop", "plain", "shop.plainer", "shop.plain.more"))
        assert all(not group.members for group in found.values()), "no worker runs"
        groups.close()


async def test_without_a_state_there_are_no_groups(tmp_path: Path) -> None:
    with Log(tmp_path / "data", create=True) as log:
        groups = AgentGroups(log)
        groups.refresh()
        assert (groups.groups(), "shop.plain" in groups.names()) == ({}, False)
        (tmp_path / "data" / FILE).touch()
        assert groups.groups() == {}, "what a power cut left of the status of a worker is none"
        groups.close()


async def test_the_worker_is_the_member_of_what_it_runs(app: App, tmp_path: Path) -> None:
    """Also for a broker in the worker's own process, which is not told of its own locks."""
    await handled(app)
    with Log(tmp_path / "data") as log:
        task = TaskStatus("plain", "orders", 1, "idle", None, None, Counts(0, 0, 0, 0, 0.0, 0, None))
        status = {"pid": os.getpid(), "tasks": [asdict(task)]}
        (tmp_path / "data" / FILE).write_text(json.dumps(status))
        groups = AgentGroups(log)
        assert groups.groups()["shop.plain"].members == (), "it has no lock, so it is an old file"
        assert log.shared.try_own(SHARD_LOCK) is None
        [member] = groups.groups()["shop.plain"].members
        assert (member.member_id, member.partitions) == (f"worker-{os.getpid()}", {"orders": [1]})
        log.shared.disown(SHARD_LOCK)
        groups.close()
