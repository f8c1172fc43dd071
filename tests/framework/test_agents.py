"""The forms an agent can have, what it is known by, and where it begins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from framework import App, Record, Stream, Table
from framework.errors import DeclarationError
from framework.log.errors import InvalidName

if TYPE_CHECKING:
    from tests.framework.conftest import Shop

Declare = Callable[[App, list[Any]], object]


class Order(BaseModel):
    """What the agents of this file handle."""

    id: int
    text: str = ""


# Each of these declares an agent of `orders` that adds what it is given to `seen`.


def loop(app: App, seen: list[Any]) -> None:
    @app.agent(app.topics["orders"])
    async def take(stream: Stream[Order]) -> None:
        async for order in stream:
            seen.append(order)  # noqa: PERF401


def loop_without_annotation(app: App, seen: list[Any]) -> None:
    @app.agent(app.topics["orders"])
    async def take(stream) -> None:  # type: ignore[no-untyped-def]
        async for order in stream:
            seen.append(order)  # noqa: PERF401


def loop_that_yields_to_nobody(app: App, seen: list[Any]) -> None:
    @app.agent(app.topics["orders"])
    async def take(stream: Stream[Order]) -> AsyncGenerator[Order, None]:
        async for order in stream:
            seen.append(order)
            yield order


def per_value(app: App, seen: list[Any]) -> None:
    @app.agent(app.topics["orders"])
    def take(order: Order) -> None:
        seen.append(order)


def per_value_awaited(app: App, seen: list[Any]) -> None:
    @app.agent(app.topics["orders"])
    async def take(order: Order) -> None:
        await asyncio.sleep(0)
        seen.append(order)


def per_value_of_any_type(app: App, seen: list[Any]) -> None:
    @app.agent(app.topics["orders"])
    def take(order: Any) -> None:
        seen.append(order)


def per_record(app: App, seen: list[Any]) -> None:
    @app.agent(app.topics["orders"])
    def take(record: Record[Order]) -> None:
        seen.append(record.value)


def per_record_awaited(app: App, seen: list[Any]) -> None:
    @app.agent(app.topics["orders"])
    async def take(record: Record[Order]) -> None:
        await asyncio.sleep(0)
        seen.append(record.value)


def per_record_without_brackets(app: App, seen: list[Any]) -> None:
    @app.agent(app.topics["orders"])
    def take(record: Record) -> None:  # type: ignore[type-arg]
        seen.append(record.value)


FORMS = [
    loop,
    loop_without_annotation,
    loop_that_yields_to_nobody,
    per_value,
    per_value_awaited,
    per_value_of_any_type,
    per_record,
    per_record_awaited,
    per_record_without_brackets,
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
async def test_every_form_gets_each_record_once_and_in_order(shop: Shop, form: Declare) -> None:
    app, seen = shop.app(), list[Order]()
    orders = app.topic("orders", Order)
    form(app, seen)
    sent = [Order(id=number) for number in range(5)]
    shop.send(orders, sent)
    await shop.run(app)
    assert seen == sent
    await shop.run(app)
    assert seen == sent


# Sinks.


async def test_what_a_loop_yields_goes_to_the_sink(shop: Shop) -> None:
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", int)

    @app.agent(numbers, sink=out)
    async def double(stream: Stream[int]) -> AsyncGenerator[int, None]:
        async for number in stream:
            yield 2 * number
            yield 2 * number + 1

    shop.send(numbers, [1, 2])
    await shop.run(app)
    assert shop.values(out) == [2, 3, 4, 5]


async def test_what_a_function_returns_goes_to_the_sink(shop: Shop) -> None:
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", str)

    @app.agent(numbers, sink=out)
    def plain(number: int) -> str:
        return f"plain {number}"

    @app.agent(numbers, sink=out)
    async def awaited(number: int) -> str:
        return f"awaited {number}"

    @app.agent(numbers, sink=out)
    def recorded(record: Record[int]) -> str:
        return f"recorded {record.value}"

    shop.send(numbers, [1, 2])
    await shop.run(app)
    assert sorted(shop.values(out)) == [
        *("awaited 1", "awaited 2", "plain 1", "plain 2", "recorded 1", "recorded 2"),
    ]


async def test_none_goes_nowhere(shop: Shop) -> None:
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", int)

    @app.agent(numbers, sink=out)
    def returns(number: int) -> int | None:
        return number if number % 2 else None

    @app.agent(numbers, sink=out)
    async def yields(stream: Stream[int]) -> AsyncGenerator[Any, None]:
        async for number in stream:
            yield None if number % 2 else number

    shop.send(numbers, range(4))
    await shop.run(app)
    assert sorted(shop.values(out)) == [0, 1, 2, 3]


async def test_zero_and_the_empty_string_are_values_and_go_to_the_sink(shop: Shop) -> None:
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out")

    @app.agent(numbers, sink=out)
    def empty(number: int) -> Any:
        return [0, "", False, [], {}][number]

    shop.send(numbers, range(5))
    await shop.run(app)
    assert shop.values(out) == [0, "", False, [], {}]


# Annotations.


async def test_types_that_only_the_declaring_function_knows_can_be_named(shop: Shop) -> None:
    """Annotations of this file are strings, and these are not found among its globals."""

    class Local(BaseModel):
        id: int

    app, seen = shop.app(), list[object]()
    locals_ = app.topic("locals", Local)

    @app.agent(locals_)
    async def looped(stream: Stream[Local]) -> None:
        async for value in stream:
            seen.append(("looped", value.id))

    @app.agent(locals_)
    def called(value: Local) -> None:
        seen.append(("called", value.id))

    @app.agent(locals_)
    def recorded(record: Record[Local]) -> None:
        seen.append(("recorded", record.value.id))

    shop.send(locals_, [Local(id=1)])
    await shop.run(app)
    assert sorted(map(str, seen)) == ["('called', 1)", "('looped', 1)", "('recorded', 1)"]


@pytest.mark.parametrize("spelled", [lambda: list[int], lambda: dict[str, int], lambda: int | None])
def test_a_function_per_record_may_take_a_type_written_with_brackets(shop: Shop, spelled: Callable[[], Any]) -> None:
    """Two spellings of `list[int]` are equal and not the same object."""
    app = shop.app()

    def take(value): ...  # type: ignore[no-untyped-def]

    take.__annotations__["value"] = spelled()
    assert app.agent(app.topic("values", spelled()))(take).name == "take"


# Wrong forms.


def no_parameter() -> None: ...


def two_parameters(one: Order, two: Order) -> None: ...


def not_async(stream: Stream[Order]) -> None: ...


def of_another_type(number: int) -> None: ...


def yields_per_record(order: Order) -> Any:
    yield order


async def yields_per_record_awaited(record: Record[Order]) -> Any:
    yield record


WRONG = {
    no_parameter: "agent 'no_parameter' takes 0 parameters, it must take one",
    two_parameters: "agent 'two_parameters' takes 2 parameters, it must take one",
    not_async: "agent 'not_async' takes a stream, so it must be `async def`",
    of_another_type: (
        "agent 'of_another_type' takes <class 'int'>; write Stream[...] for a loop, "
        "Order or Record[...] for one call per record"
    ),
    yields_per_record: ("agent 'yields_per_record' is called per record, so it returns a value and does not yield"),
    yields_per_record_awaited: (
        "agent 'yields_per_record_awaited' is called per record, so it returns a value and does not yield"
    ),
}


@pytest.mark.parametrize("function", WRONG, ids=lambda function: function.__name__)
def test_a_function_of_no_form_is_refused_where_it_is_declared(shop: Shop, function: Callable[..., Any]) -> None:
    app = shop.app()
    with pytest.raises(DeclarationError) as refused:
        app.agent(app.topic("orders", Order))(function)
    assert str(refused.value) == WRONG[function]
    assert app.agents == {}


def test_a_loop_with_a_sink_must_yield(shop: Shop) -> None:
    app = shop.app()
    orders = app.topic("orders", Order)

    async def silent(stream: Stream[Order]) -> None: ...

    with pytest.raises(DeclarationError) as refused:
        app.agent(orders, sink=orders)(silent)  # type: ignore[arg-type]
    assert str(refused.value) == "agent 'silent' has a sink, so its loop must yield what goes there"


# Names.


def test_an_agent_is_known_by_its_function_unless_it_is_named(shop: Shop) -> None:
    app = shop.app()
    orders = app.topic("orders", Order)

    def count(order: Order) -> None: ...

    assert app.agent(orders)(count).name == "count"
    assert app.agent(orders, name="count-2")(count).name == "count-2"
    assert list(app.agents) == ["count", "count-2"]


def test_two_agents_of_one_name_are_refused(shop: Shop) -> None:
    app = shop.app()
    orders = app.topic("orders", Order)

    def count(order: Order) -> None: ...

    app.agent(orders)(count)
    with pytest.raises(DeclarationError, match="named 'count': give one of them another name"):
        app.agent(orders)(count)
    with pytest.raises(DeclarationError, match="named 'count': give one of them another name"):
        app.job(orders, schedule="@daily", name="count")(lambda batch: None)
    with pytest.raises(DeclarationError, match="named 'count': give one of them another name"):
        app.stream(orders, name="count").to(orders)


def test_a_lambda_needs_a_name(shop: Shop) -> None:
    app = shop.app()
    with pytest.raises(InvalidName, match="agent name '<lambda>' is not valid"):
        app.agent(app.topic("orders", Order))(lambda stream: None)


async def test_an_agent_sends_to_the_topic_it_consumes(shop: Shop) -> None:
    app, seen = shop.app(), list[int]()
    numbers = app.topic("numbers", int)

    @app.agent(numbers)
    def collect(number: int) -> None:
        seen.append(number)

    async with app:
        await collect.send(7, key="k")
    await shop.run(app)
    assert seen == [7]


async def test_an_agent_may_send_before_its_first_record(shop: Shop) -> None:
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", str)

    @app.agent(numbers)
    async def announce(stream: Stream[int]) -> None:
        out.send("ready")
        async for number in stream:
            out.send(str(number))

    shop.send(numbers, [1])
    await shop.run(app)
    assert shop.values(out) == ["ready", "1"]


async def test_the_keys_that_are_asked_for_are_not_all_remembered(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the rows are an agent's own or another's, and whether they are there: memory has a limit."""
    monkeypatch.setattr("framework.view.CACHE_ROWS", 10)
    app = shop.app()
    numbers, mine = app.topic("numbers", int), app.table("mine", int)
    other: Table[list[int]] = app.table("other", list)

    @app.agent(app.topic("names", str))
    def own(name: str) -> None:
        other[name].append(1)

    @app.agent(numbers)
    async def ask(number: int) -> None:
        assert (f"k{number}" in mine, list(other[f"k{number}"])) == (False, [])

    shop.send(app.topics["names"], ["a"])
    await shop.run(app)
    shop.send(numbers, range(3000))
    worker = await shop.run(app)
    views = next(task for task in worker.tasks if task.agent is app.agents["ask"]).effects.views
    assert all(len(view._rows) < 1000 for view in views.values())
