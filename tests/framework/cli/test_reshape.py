"""Topics are altered, emptied and deleted from the command line, and nothing is destroyed without --execute."""

from __future__ import annotations

from pathlib import Path

import pytest

from framework import App, Stream
from framework.log import Log, TopicSettings
from framework.worker import Worker
from tests.framework.cli.conftest import Shell

pytestmark = pytest.mark.slow


@pytest.fixture
def data(shell: Shell) -> Path:
    """A directory with a topic of two partitions and five records."""
    app = App("shop", data=shell.folder / "data", partitions=2)
    with app.opened():
        app.topic("orders", int).send_many(range(5))
    return shell.folder / "data"


def settings(data: Path) -> TopicSettings:
    with Log(data) as log:
        return log.topic("orders").settings


def test_settings_are_altered_by_kafkas_names(shell: Shell, data: Path) -> None:
    done = shell.run("topics", "alter", "orders", "--retention", "12h", "--config", "segment.bytes=8192")
    assert (done.code, done.out) == (0, "")
    assert done.err == "topic 'orders': retention.ms 604800000 -> 43200000, segment.bytes 134217728 -> 8192\n"
    assert settings(data) == TopicSettings(retention_ms=12 * 3600 * 1000, segment_bytes=8192)
    assert shell.run("topics", "alter", "orders").err == "topic 'orders': nothing to change\n"
    refused = shell.run("topics", "alter", "orders", "--partitions", "1")
    assert refused.code == 2
    assert refused.err.startswith("framework: topic 'orders' has 2 partitions and cannot have 1: ")


async def test_partitions_are_not_added_under_a_table(shell: Shell, data: Path) -> None:
    app = App("shop", data=data)
    orders, sums = app.topic("orders", int, key=str), app.table("sums", int)

    @app.agent(orders)
    async def add(stream: Stream[int]) -> None:
        async for record in stream.records():
            sums[record.key or "none"] += 1

    assert shell.run("topics", "alter", "orders", "--partitions", "3").code == 0
    with app.opened():
        orders.send(1)
    await Worker(app).run(until_idle=True)
    refused = shell.run("topics", "alter", "orders", "--partitions", "4")
    assert refused.code == 5
    assert refused.err.startswith(
        "framework: topic 'orders' cannot have more partitions: keys would move, and the rows of"
    )


def test_a_topic_is_deleted_only_when_told_twice(shell: Shell, data: Path) -> None:
    done = shell.run("topics", "delete", "orders")
    assert (done.code, done.err) == (0, "would delete topic 'orders' with 5 records; do it with --execute\n")
    assert shell.run("topics", "show", "orders").code == 0
    done = shell.run("topics", "delete", "orders", "--execute")
    assert (done.code, done.err) == (0, "deleted topic 'orders' with 5 records\n")
    assert shell.run("topics", "show", "orders").code == 4


def test_records_are_deleted_and_offsets_go_on(shell: Shell, data: Path) -> None:
    ahead = shell.run("topics", "delete-records", "orders", "--before", "1", "--partition", "0")
    assert ahead.err == "would delete 1 record of orders-0 before offset 1; do it with --execute\n"
    shell.run("topics", "delete-records", "orders", "--before", "1", "--partition", "0", "--execute")
    with Log(data) as log:
        info = log.topic("orders")
        assert [log.partition(info, number).log_start for number in range(2)] == [1, 0]
    assert shell.run("topics", "purge", "orders", "--execute").code == 0
    with Log(data) as log:
        starts = {log.partition(info, number).log_start for number in range(2)}
        assert starts == {2, 3}
        assert starts == {log.partition(info, number).log_end for number in range(2)}


def test_a_topic_is_compacted_only_if_it_may_be_and_only_with_execute(shell: Shell, data: Path) -> None:
    refused = shell.run("topics", "compact", "orders", "--execute")
    assert refused.code == 2
    assert refused.err.startswith("framework: topic 'orders' has cleanup.policy=delete: say compact")
    app = App("shop", data=data)
    # It becomes compacted when all is there, or a compaction of its own might be faster.
    prices = app.topic("prices", str, partitions=1, config={"segment.bytes": 4096})
    with app.opened():
        for number in range(40):
            prices.send("x" * 500, key=f"item-{number % 2}").result()
        before = len(prices.read())
    assert shell.run("topics", "alter", "prices", "--config", "cleanup.policy=compact").code == 0
    planned = shell.run("topics", "compact", "prices")
    assert planned.err.startswith("would compact prices-0, ")
    done = shell.run("topics", "compact", "prices", "--execute")
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith("compacted ")
    assert done.err.endswith(" bytes freed\n")
    with app.opened(), Log(data) as log:
        assert len(prices.read()) < before
        assert {record.offset for _, record in log.read("prices", -2)} >= {39}
