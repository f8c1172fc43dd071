"""Tables that follow a topic: what is in them, who reads which row, and that nobody writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from framework import App, Batch, Table, Topic
from framework.errors import DeclarationError, WrongPartition
from framework.log import partition_of
from framework.state.view import StateView
from framework.worker import Worker

if TYPE_CHECKING:
    from tests.framework.conftest import Shop


class Price(BaseModel):
    item: str
    cents: int


def shop_of(app: App, partitions: int = 3, **options: Any) -> tuple[Topic[Price], Table[Price]]:
    """Prices by item, and the table that follows them."""
    prices = app.topic("prices", Price, key=lambda price: price.item, partitions=partitions)
    return prices, app.table("price_of", source=prices, **options)


def price(item: str, cents: int = 1) -> Price:
    """A price."""
    return Price(item=item, cents=cents)


async def test_it_holds_the_last_value_of_each_key_and_a_tombstone_deletes_it(shop: Shop) -> None:
    app = shop.app()
    prices, table = shop_of(app)
    shop.send(prices, [price(item, cents) for cents, item in enumerate("abcabd")])
    await shop.run(app)
    with app.opened():
        prices.send_tombstone("b")
        prices.send_tombstone("never was")
    await shop.run(app)
    app = shop.app()
    prices, table = shop_of(app)
    with app.opened():
        assert {key: row.cents for key, row in table.items()} == {"a": 3, "c": 2, "d": 5}
        assert table["a"] == price("a", 3)
        assert (table.get("b"), "b" in table, "a" in table, len(table)) == (None, False, True, 3)
        assert [key for key, _ in table.range("b")] == ["c", "d"]
        with pytest.raises(KeyError, match="'b'"):
            table["b"]
    assert shop.dead(app, "price_of") == []


async def test_nobody_writes_it(shop: Shop) -> None:
    app, refused = shop.app(), list[str]()
    prices, table = shop_of(app, 1)
    writes: list[Callable[[], object]] = [
        lambda: table.update(a=price("a")),
        lambda: table.pop("a"),
        lambda: table.setdefault("z", price("z")),
        table.clear,
    ]

    def attempt() -> None:
        for write in writes:
            with pytest.raises(TypeError) as error:
                write()
            refused.append(str(error.value))

    @app.agent(prices)
    def reader(one: Price) -> None:
        if one.cents == 2:
            attempt()

    shop.send(prices, [price("a")])
    await shop.run(app)
    shop.send(prices, [price("a", 2)])
    await shop.run(app)
    with app.opened():
        attempt()
    text = "table 'price_of' follows topic 'prices' and takes no writes: send the row to the topic"
    assert {error.partition(", or a")[0] for error in refused} == {text}
    assert len(refused) == 8
    assert shop.dead(app, "reader") == []
    assert shop.rows(table) == {"a": price("a", 2)}


async def test_an_agent_reads_the_rows_of_its_partition_as_of_their_last_commit(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change as soon as it is committed, and without opening the database a second time."""
    app, seen = shop.app(), list[Any]()
    prices, table = shop_of(app)
    sales = app.topic("sales", str, key=str, partitions=3)
    monkeypatch.setattr(StateView, "_snapshot", None)

    @app.agent(sales)
    def sell(item: str) -> None:
        row = table.get(item)
        seen.append((item, row and row.cents, item in table, sorted(table) == sorted(table.keys())))
        if row is not None:
            row.cents = -1  # A copy of its own.

    worker = Worker(app)
    async with worker.running():
        for step, item in enumerate("abaab"):
            await prices.send(price("a", step))
            await shop.until(lambda: worker.idle)
            await sales.send(item)
            await sales.send(item)
            await shop.until(lambda step=step: len(seen) == 2 * (step + 1) and worker.idle)  # type: ignore[misc]
    expected = [(item, None if item == "b" else step, item == "a", True) for step, item in enumerate("abaab")]
    assert seen == [row for row in expected for _ in range(2)]
    assert shop.dead(app, "sell") == []


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("partitions", [3, 2], ids=["as many partitions", "others"])
async def test_a_row_of_another_partition_is_refused_unless_the_table_is_everywhere(
    shop: Shop, partitions: int, *, everywhere: bool
) -> None:
    app, seen, errors = shop.app(), dict[str, int](), list[str]()
    prices, table = shop_of(app, everywhere=everywhere)

    @app.agent(app.topic("asked", int, partitions=partitions))
    def look(_: int) -> None:
        for item in "abcdefgh":
            try:
                seen[item] = table[item].cents
                assert item in table
            except WrongPartition as refused:
                errors.append(str(refused))

    shop.send(prices, [price(item, cents) for cents, item in enumerate("abcdefgh")])
    await shop.run(app)
    shop.send(app.topics["asked"], [1])
    await shop.run(app)
    assert shop.dead(app, "look") == []
    assert len(seen) + len(errors) == 8
    assert all(seen[item] == "abcdefgh".index(item) for item in seen)
    if everywhere:
        assert errors == []
    else:
        assert bool(seen) == (partitions == 3)
        assert errors
        assert all("stream.group_by(...)" in text and "everywhere=True" in text for text in errors)


async def test_a_job_reads_a_table_that_is_everywhere_and_no_other(shop: Shop) -> None:
    app = shop.app()
    prices, table = shop_of(app, everywhere=True)
    near = app.table("near", source=prices)
    found = list[Any]()

    @app.job(prices, schedule="* * * * *")
    def report(batch: Batch[Price]) -> None:
        found.append([sum(table[one.item].cents for one in batch), len(table), sorted(table)])
        with pytest.raises(WrongPartition, match="'report' in a job"):
            near["a"]
        with pytest.raises(WrongPartition, match="its rows cannot be read by 'report' in a job"):
            len(near)

    shop.send(prices, [price(item, 2) for item in "abcdefgh"])
    await shop.run(app)
    worker = Worker(app)
    async with worker.running():
        assert worker.jobs is not None
        await worker.jobs.run(app.jobs["report"], worker.jobs.now(), trigger="test")
    assert found[-1] == [16, 8, list("abcdefgh")]


async def test_a_record_that_is_no_row_is_a_dead_letter(shop: Shop) -> None:
    """Without a key, with a value that is none, in a partition where nobody would look."""
    app = shop.app()
    prices, table = shop_of(app, partitions=2)
    shop.send(prices, [price("a")])
    raw = price("b").model_dump_json().encode()
    shop.send_raw(prices, raw)
    shop.send_raw(prices, b"{}", key=b"c")
    with app.opened():
        prices.send_raw(b"d", raw, None, [], partition=1 - partition_of(b"d", 2))
    await shop.run(app)
    errors = sorted(letter.headers["dead-letter.error"].decode()[:45] for letter in shop.dead(app, "price_of"))
    assert errors == [
        "DecodeError: not a valid Price: item: Field r",
        "EncodeError: a record without a key is no row",
        "WrongPartition: table 'price_of': key 'd' bel",
    ]
    assert shop.rows(table) == {"a": price("a")}


async def test_keys_and_values_are_of_the_topics_types(shop: Shop) -> None:
    app = shop.app()
    names = app.topic("names", str, key_type=int)
    table = app.table("name_of", source=names)
    with app.opened():
        names.send("seven", key=7)
    await shop.run(app)
    assert shop.rows(table) == {7: "seven"}


def test_what_does_not_go_together_is_refused(shop: Shop) -> None:
    app = shop.app()
    prices, _ = shop_of(app)
    anything: Any = app
    with pytest.raises(DeclarationError, match="table 'a' follows a topic: it has no default, key_type, ttl or"):
        anything.table("a", int, source=prices)
    with pytest.raises(DeclarationError, match="table 'b' needs a default, like int or dict, or a source=topic"):
        anything.table("b")
    with pytest.raises(DeclarationError, match="table 'c' cannot be there everywhere: only one with a source can"):
        anything.table("c", int, everywhere=True)
    with pytest.raises(DeclarationError, match="two agents or jobs named 'price_of'"):
        app.agent(prices, name="price_of")(lambda price: None)


def test_reading_one_whose_topic_is_not_there_finds_nothing_and_makes_none(shop: Shop) -> None:
    app = shop.app()
    _, table = shop_of(app)
    with app.opened():
        assert (table.get("a"), list(table), list(table.range())) == (None, [], [])
        assert app.log.topics() == {}
