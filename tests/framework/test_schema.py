"""Types that change between two runs: the worker stops before it meets what it could not read, or reads it anyway."""

from __future__ import annotations

import logging
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from framework import App, Stream, Topic
from framework.errors import DeclarationError, DecodeError, SchemaChanged
from framework.log.errors import NewerFormat, NotFound
from framework.serdes import SERDE_ERRORS, serde_of
from framework.state import rows
from framework.state.database import Database
from framework.worker import Worker
from tests.framework.test_compatible import model

if TYPE_CHECKING:
    from tests.framework.conftest import Shop


class Old(BaseModel):
    carrier: str
    delay: int


def app_of(shop: Shop, value_type: Any, **options: Any) -> tuple[App, Topic[Any], list[Any]]:
    """An app with an agent of one topic, and what it has seen."""
    app, seen = shop.app(), list[Any]()
    flights: Topic[Any] = app.topic("flights", value_type, partitions=2, **options)

    @app.agent(flights)
    async def watch(stream: Stream[Any]) -> None:
        async for flight in stream:
            seen.append(flight)

    return app, flights, seen


async def stored_as_old(shop: Shop) -> None:
    """A worker has seen the topic as `Old`; then two more records came."""
    app, flights, _ = app_of(shop, Old)
    await shop.run(app)
    shop.send(flights, [Old(carrier="AA", delay=1), Old(carrier="B6", delay=2)])


RENAMED = model("Flight", carrier=str, dep_delay=int)


async def test_a_worker_stops_before_records_it_could_not_read(shop: Shop) -> None:
    await stored_as_old(shop)
    app, _, seen = app_of(shop, RENAMED)
    with pytest.raises(SchemaChanged) as refused:
        await shop.run(app)
    text = str(refused.value)
    assert text.startswith("topic 'flights' holds 2 records (flights-")
    assert "cannot be read as Flight is now: dep_delay is new, and required. " in text
    assert "upgrade=" in text
    assert "--accept-schema flights" in text
    assert not seen
    again, _, seen = app_of(shop, Old)
    await shop.run(again)
    assert len(seen) == 2


async def test_a_type_may_become_anything_while_nothing_is_stored(shop: Shop) -> None:
    await shop.run(app_of(shop, Old)[0])
    await shop.run(app_of(shop, RENAMED)[0])
    await shop.run(app_of(shop, int)[0])
    app, flights, seen = app_of(shop, int)
    shop.send(flights, [1])
    await shop.run(app)
    assert seen == [1]


async def test_a_compatible_type_is_taken_and_said(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    await stored_as_old(shop)
    wider = model("Flight", carrier=str, delay=float, gate=(str, ""))
    app, _, seen = app_of(shop, wider)
    with caplog.at_level(logging.INFO, "framework.worker"):
        await shop.run(app)
    assert "topic 'flights': Flight has changed; what is stored can be read as it is now" in caplog.messages
    assert sorted(flight.delay for flight in seen) == [1.0, 2.0]


async def test_what_was_stored_before_the_last_type_counts_too(shop: Shop) -> None:
    """Each step is compatible with the one before, and the last one not with the first."""
    await stored_as_old(shop)
    await shop.run(app_of(shop, model("Flight", carrier=str))[0])
    with pytest.raises(SchemaChanged, match="delay was integer, is boolean now"):
        await shop.run(app_of(shop, model("Flight", carrier=str, delay=(bool, False)))[0])


async def test_accepted_records_that_cannot_be_read_are_dead_letters(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stored_as_old(shop)
    monkeypatch.setenv("FRAMEWORK_ACCEPT_SCHEMA", "fights")
    with pytest.raises(NotFound, match="no topic or table 'fights'; there are flights"):
        await shop.run(app_of(shop, RENAMED)[0])
    monkeypatch.setenv("FRAMEWORK_ACCEPT_SCHEMA", "flights")
    app, _, seen = app_of(shop, RENAMED)
    await shop.run(app)
    assert not seen
    assert len(shop.dead(app, "watch")) == 2
    monkeypatch.delenv("FRAMEWORK_ACCEPT_SCHEMA")
    await shop.run(app_of(shop, RENAMED)[0])


async def test_upgraded_records_are_read_and_only_those(shop: Shop) -> None:
    await stored_as_old(shop)
    given: list[Any] = []

    def upgrade(flight: Any) -> Any:
        given.append(flight)
        return {"carrier": flight["carrier"], "dep_delay": flight["delay"]}

    app, flights, seen = app_of(shop, RENAMED, upgrade=upgrade)
    shop.send(flights, [RENAMED(carrier="UA", dep_delay=3)])
    await shop.run(app)
    assert sorted(flight.dep_delay for flight in seen) == [1, 2, 3]
    assert sorted(flight["delay"] for flight in given) == [1, 2]
    assert sorted(flight.dep_delay for flight in shop.values(flights)) == [1, 2, 3]
    assert not shop.dead(app, "watch")
    with pytest.raises(SchemaChanged, match="dep_delay is new, and required"):
        await shop.run(app_of(shop, RENAMED)[0])


async def test_what_upgrade_cannot_do_is_a_dead_letter(shop: Shop) -> None:
    await stored_as_old(shop)
    app, flights, seen = app_of(shop, RENAMED, upgrade=lambda flight: {"carrier": flight["airline"]})
    await shop.run(app)
    assert not seen
    assert len(shop.dead(app, "watch")) == 2
    with pytest.raises(DecodeError, match="upgrade failed: KeyError: 'airline'"):
        flights.value_serde.decode(b'{"carrier":"AA"}')


@pytest.mark.parametrize(
    ("upgrade", "why"),
    [
        (lambda value: value["x"], "upgrade failed: KeyError"),
        (lambda value: object(), "upgrade failed: PydanticSerializationError"),
        (lambda value: {"b": 1}, "what upgrade returned is none either: a: Field required"),
    ],
)
def test_errors_of_an_upgrade_are_decode_errors(upgrade: Any, why: str) -> None:
    topic = App("shop").topic("t", model("A", a=int), upgrade=upgrade)
    with pytest.raises(DecodeError, match=why):
        topic.value_serde.decode(b'{"b": 1}')
    with pytest.raises(DecodeError):
        topic.value_serde.decode(b"no JSON")
    with pytest.raises(SERDE_ERRORS):
        topic.value_serde.parse(b"no JSON")


def test_an_upgrade_may_return_a_value_of_the_type(shop: Shop) -> None:
    point = model("Point", x=int, at=(date | None, None))
    topic = shop.app().topic("t", point, upgrade=lambda old: point(x=old, at=date(2026, 1, 31)))
    assert topic.value_serde.decode(b"7") == point(x=7, at=date(2026, 1, 31))
    numbers = shop.app().topic("n", int, upgrade=int)
    assert numbers.value_serde.decode(b'"12"') == 12


def test_an_upgrade_needs_a_type(shop: Shop) -> None:
    with pytest.raises(DeclarationError, match="topic 't' has upgrade=, but stores str"):
        shop.app().topic("t", str, upgrade=str)
    with pytest.raises(DeclarationError, match="table 't' has upgrade=, but stores JSON"):
        shop.app().table("t", dict, upgrade=dict)


async def test_rows_of_tables_are_checked_and_upgraded(shop: Shop) -> None:
    def app_with(row: Any, **options: Any) -> tuple[App, Topic[str], Any]:
        app = shop.app()
        names = app.topic("names", str, key=lambda name: name, partitions=3)
        table = app.table("counts", row, **options)

        @app.agent(names)
        async def count(stream: Stream[str]) -> None:
            async for name in stream:
                table[name].n += 1

        return app, names, table

    app, names, table = app_with(model("Count", n=(int, 0)))
    shop.send(names, ["a", "b", "a"])
    await shop.run(app)
    split = model("Count", n=(int, 0), by=(dict[str, int], ...))
    with pytest.raises(SchemaChanged) as refused:
        await shop.run(app_with(lambda: split(by={}))[0])
    assert "table 'counts' holds 2 rows, " in str(refused.value)
    assert "by is new, and required" in str(refused.value)
    app, names, table = app_with(lambda: split(by={}), upgrade=lambda row: {**row, "by": {"all": row["n"]}})
    shop.send(names, ["b"])
    await shop.run(app)
    assert shop.rows(table) == {"a": split(n=2, by={"all": 2}), "b": split(n=2, by={"all": 1})}


async def test_rows_of_an_older_type_are_read_by_other_agents(shop: Shop) -> None:
    """They encode to other bytes than are stored, which is no write."""

    def app_with(row: Any, *, reads: bool) -> tuple[App, Topic[str], list[Any]]:
        app, seen = shop.app(), list[Any]()
        names, table = app.topic("names", str, key=lambda name: name), app.table("counts", row)

        @app.agent(names, name="writer")
        def write(name: str) -> None:
            if not reads:
                table[name].n += 1

        @app.agent(names, name="reader")
        def read(name: str) -> None:
            if reads:
                seen.append(table[name])

        return app, names, seen

    app, names, _ = app_with(model("Count", n=(int, 0)), reads=False)
    shop.send(names, ["a"])
    await shop.run(app)
    wider = model("Count", n=(int, 0), more=(int, 0))
    app, names, seen = app_with(wider, reads=True)
    shop.send(names, ["a"])
    await shop.run(app)
    assert seen == [wider(n=1)]


async def test_an_unchanged_app_writes_nothing_at_its_start(shop: Shop) -> None:
    await stored_as_old(shop)
    await shop.run(app_of(shop, Old)[0])
    before = stored_rows(shop)
    seen: list[int] = []

    class Counting(Database):
        def write(self, changes: Any) -> None:
            seen.append(len(changes))
            super().write(changes)

    async with Worker(app_of(shop, Old)[0], open_database=Counting).running():
        pass
    assert (seen, stored_rows(shop)) == ([], before)
    assert [key for key in before if key.startswith(b"j")] == [rows.schema_key("shop", "topic", "flights")]


async def test_a_topic_made_anew_has_no_past(shop: Shop) -> None:
    await stored_as_old(shop)
    app, flights, seen = app_of(shop, int)
    with app.opened():
        app.log.delete_topic("flights")
        flights.send(5)
    await shop.run(app)
    assert seen == [5]


async def test_two_apps_may_see_a_topic_as_different_types(shop: Shop) -> None:
    await stored_as_old(shop)
    other = shop.app("other")
    raw = other.topic("flights", bytes)

    @other.agent(raw, name="raw")
    def look(value: bytes) -> None: ...

    await shop.run(other)
    await shop.run(app_of(shop, Old)[0])


async def test_a_newer_format_is_refused(shop: Shop) -> None:
    await stored_as_old(shop)
    database = Database(shop.data / "state" / "0")
    key = rows.schema_key("shop", "topic", "flights")
    stored = database.get(key)
    assert stored is not None
    database.write([(key, stored.replace(b'"version":1', b'"version":2'))])
    database.close()
    with pytest.raises(NewerFormat, match="the schema of topic 'flights' has format 2"):
        await shop.run(app_of(shop, Old)[0])


def stored_rows(shop: Shop) -> dict[bytes, bytes]:
    database = Database(shop.data / "state" / "0")
    try:
        return dict(database.scan(b"j")) | dict(database.scan(b"n"))
    finally:
        database.close()


def test_serdes_know_their_type() -> None:
    assert serde_of(list[int]).value_type == list[int]
