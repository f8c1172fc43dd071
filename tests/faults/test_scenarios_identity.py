"""The ways in which state loses who it belongs to, numbered as where they were first written down.

F28  (b) partitions of an input added later: keys move, state stays
"""

from __future__ import annotations

from pathlib import Path

import pytest

from framework import App, Stream, Table, Topic
from framework.errors import IdentityUnclear
from framework.worker import Worker

pytestmark = pytest.mark.slow
NAMES = [f"name {number}" for number in range(30)]


def app_of(data: Path, topic: str = "names", *, stateful: bool = True) -> tuple[App, Topic[str], Table[int]]:
    """An app that counts names, or looks at them."""
    app = App("shop", data=data)
    names, counts = app.topic(topic, str, key=lambda name: name), app.table("counts", int)

    @app.agent(names)
    async def count(stream: Stream[str]) -> None:
        async for name in stream:
            if stateful:
                counts[name] += 1

    return app, names, counts


async def counted(data: Path, *, stateful: bool = True, partitions: int = 2) -> None:
    app, names, _ = app_of(data, stateful=stateful)
    with app.opened():
        app.log.create_topic("names", partitions)
        names.send_many(NAMES)
    await Worker(app).run(until_idle=True)


def add_partitions(data: Path) -> None:
    """As a client of Kafka's does it, who knows nothing of tables."""
    app, _, _ = app_of(data)
    with app.opened():
        info = app.log.topic("names")
        app.log.alter_topic("names", info.settings, 3)


async def test_f28_state_refuses_partitions_that_were_added_later(tmp_path: Path) -> None:
    data = tmp_path / "data"
    await counted(data)
    add_partitions(data)
    app, names, _ = app_of(data)
    with app.opened():
        names.send_many(NAMES)
    with pytest.raises(IdentityUnclear) as refused:
        await Worker(app).run(until_idle=True)
    text = str(refused.value)
    assert "topic 'names' has 3 partitions, and agent 'count' made the rows of table 'counts' when" in text
    assert "had 2: keys have moved, and rows have not." in text
    assert "`framework agents forget count --execute --tables`" in text


async def test_f28_a_topic_made_anew_with_other_partitions_is_no_way_around(tmp_path: Path) -> None:
    data = tmp_path / "data"
    await counted(data)
    app, _, _ = app_of(data)
    with app.opened():
        app.log.delete_topic("names")
        app.log.create_topic("names", 5)
    with pytest.raises(IdentityUnclear, match="has 5 partitions"):
        await Worker(app).run(until_idle=True)


async def test_f28_partitions_may_be_added_where_nothing_hangs_on_them(tmp_path: Path) -> None:
    data = tmp_path / "data"
    await counted(data, stateful=False)
    add_partitions(data)
    app, names, _ = app_of(data, stateful=False)
    with app.opened():
        names.send_many(NAMES)
    worker = Worker(app)
    await worker.run(until_idle=True)
    assert worker.progress.records == len(NAMES)
