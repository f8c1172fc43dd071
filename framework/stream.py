"""Streams: what an agent's loop iterates over."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic

from typing_extensions import TypeVar

from framework.clock import after
from framework.errors import DeclarationError
from framework.operators.stateless import Step, filtered, flattened, fused, mapped, numbered
from framework.record import Record
from framework.returns import UNKNOWN, elements_of, key_type_of, returned_by
from framework.serdes import SERDE_ERRORS
from framework.source import Source
from framework.topic import Topic

V = TypeVar("V")
K = TypeVar("K", default=str)
W = TypeVar("W")
KX = TypeVar("KX")


class Stream(Generic[V, K]):
    """The values of one partition of a topic, in order, each to be handled once.

    A stream is a description: the operators return new ones. Tombstones are skipped; `records()` shows them.
    """

    def __init__(self, source: Source | None, steps: Sequence[Step] = (), *, as_records: bool = False) -> None:
        """Made by the framework, or by `App.stream`; without a *source* it is a declaration."""
        self._source, self._steps, self._as_records = source, tuple(steps), as_records
        self._take: tuple[int, timedelta] | None = None
        self._stages: tuple[Stage, ...] = ()
        self._type: Callable[[Topic[Any, Any]], Any] = _type_of_topic
        self._only_filters = not as_records
        self._declare: Callable[[Stream[Any, Any], Topic[Any, Any]], None] | None = None

    def records(self) -> Stream[Record[V, K], K]:
        """The same stream as `Record`s: with key, timestamp, offset and headers, and tombstones (value None).

        Raises:
            DeclarationError: It comes after another operator.
        """
        if self._steps or self._take:
            raise DeclarationError("records() comes first: stream.records().filter(...)")
        stream = self._with(as_records=True)
        stream._type = _type_of_records
        return stream

    def items(self) -> Stream[tuple[K, V], K]:
        """The same stream as pairs of key and value, without tombstones; the key of a record without one is None.

        >>> from framework import App
        >>> app = App("shop")
        >>> orders, lines = app.topic("orders", int), app.topic("lines", str)
        >>> app.stream(orders, name="print").items().map(lambda item: f"{item[0]}: {item[1]}").to(lines)

        Raises:
            DeclarationError: It comes after another operator of its stage.
        """
        if self._steps or self._take or self._as_records:
            raise DeclarationError("items() comes first: stream.items().filter(...)")
        stream = self._with(filtered(_has_value), mapped(_item), as_records=True)
        stream._type = _type_of_items
        return stream

    def enumerate(self, start: int = 0) -> Stream[tuple[int, V], K]:
        """Pairs of a number and the value, as Python's `enumerate`.

        Counted are the values that come here in this loop over this partition: a loop that begins anew, after a
        restart or an exception, counts from *start* again. For a number that stays, use `record.offset` or a table.

        >>> from framework import App
        >>> app = App("shop")
        >>> orders, lines = app.topic("orders", int), app.topic("lines", str)
        >>> app.stream(orders, name="number").enumerate(1).map(lambda pair: f"{pair[0]}. {pair[1]}").to(lines)
        """
        inner = self._type
        stream = self._with(numbered(start))
        stream._type = lambda topic: UNKNOWN if inner(topic) is UNKNOWN else tuple[int, inner(topic)]  # type: ignore[misc]
        return stream

    def map(self, function: Callable[[V], W]) -> Stream[W, K]:
        """Each value becomes what *function* makes of it.

        >>> from framework import App
        >>> app = App("shop")
        >>> names, lengths = app.topic("names", str), app.topic("lengths", int)
        >>> app.stream(names, name="measure").map(len).to(lengths)
        """
        stream, made = self._with(mapped(function)), returned_by(function)
        stream._type = lambda _: made
        return stream

    def filter(self, keep: Callable[[V], object]) -> Stream[V, K]:
        """Only the values of which *keep* is true.

        >>> from framework import App
        >>> app = App("shop")
        >>> numbers, odd = app.topic("numbers", int), app.topic("odd", int)
        >>> app.stream(numbers, name="odd-ones").filter(lambda number: number % 2).to(odd)
        """
        stream = self._with(filtered(keep))
        stream._only_filters = self._only_filters
        return stream

    def flat_map(self, function: Callable[[V], Iterable[W]]) -> Stream[W, K]:
        """Each value becomes the values that *function* makes of it, none or many.

        >>> from framework import App
        >>> app = App("shop")
        >>> lines, words = app.topic("lines", str), app.topic("words", str)
        >>> app.stream(lines, name="split").flat_map(str.split).to(words)
        """
        stream, made = self._with(flattened(function)), elements_of(returned_by(function))
        stream._type = lambda _: made
        return stream

    def group_by(
        self,
        key: Callable[[V], KX],
        *,
        name: str | None = None,
        type: type[V] | None = None,  # noqa: A002  # what it is called where it is given
        key_type: type[KX] | None = None,
    ) -> Stream[V, KX]:
        """The same values, those of one *key* in one partition: what tables keyed by it need.

        They go through a topic of their own, `<app>.<agent>.<name>.repartition`, with the timestamps and headers of
        their records, exactly once: what comes before is a stage that runs as the agent `<agent>.<name>` and commits
        by itself. *name* is `group-1`, `group-2` by position unless given. Order is kept between values that had one
        partition before and have one key now.

        Values are stored as the topic stores them; behind a `map` or `flat_map` as *type*, which the function's
        annotation says unless given; if nothing does, as JSON that must give back the same. Keys are `str` unless
        *key_type* or the annotation of the function says another type; None is no key.

        >>> from framework import App
        >>> app = App("shop")
        >>> orders, biggest = app.topic("orders", dict, key=lambda order: order["id"]), app.topic("biggest", dict)
        >>> app.stream(orders, name="find").group_by(lambda order: order["customer"]).to(biggest)
        >>> list(app.agents)
        ['find.group-1', 'find']

        Raises:
            DeclarationError: It comes after `take` or right after `records`, or the name is used twice.
        """
        made = self._type if type is None else lambda _: type
        keys = key_type_of(key) if key_type is None else key_type
        name = name or f"group-{len(self._stages) + 1}"
        return self._next(Stage(name, self, key, keys, made, raw=self._only_filters and type is None))

    def through(self, topic: Topic[V, KX], *, name: str | None = None) -> Stream[V, KX]:
        """Send every value to *topic*, and go on with what is in it: `group_by` with a topic of your own.

        As `to`, it keys them by the topic's `key=`; and as with `group_by`, what comes before is an agent of its own,
        `<agent>.<name>`, *name* being `through-1` by position unless given. Others may read the topic, and what they
        send to it comes here too; it is kept as long as it says. In the loop of an agent the topic must have as many
        partitions as the agent's own.

        >>> from framework import App
        >>> app = App("shop")
        >>> raw, clean, out = app.topic("raw", str), app.topic("clean", str, key=str.lower), app.topic("out", str)
        >>> app.stream(raw, name="tidy").map(str.strip).through(clean).map(str.title).to(out)
        >>> list(app.agents)
        ['tidy.through-1', 'tidy']

        Raises:
            DeclarationError: It comes after `take` or right after `records`, or the name is used twice.
        """
        name = name or f"through-{len(self._stages) + 1}"
        return self._next(Stage(name, self, None, UNKNOWN, self._type, target=topic))

    def take(self, count: int, within: timedelta) -> Stream[list[V], K]:
        """Lists of *count* values, or of fewer when *within* has passed since the first of them.

        A list is handled as one: its records are committed together, and only when it is finished.

        Raises:
            DeclarationError: *count* is below 1, or an operator would follow.
        """
        if count < 1 or within <= timedelta(0):
            raise DeclarationError(f"take({count}, {within}): count must be at least 1 and within positive")
        taken: Stream[list[V], K] = self._with()
        taken._take = (count, within)
        return taken

    def to(self, topic: Topic[V, Any]) -> None:
        """Send every value to *topic*; ends a pipeline that began with `App.stream`.

        Raises:
            DeclarationError: The stream belongs to an agent, which sends with `topic.send`.
        """
        if self._declare is None:
            raise DeclarationError("to() ends a pipeline of app.stream(...); in an agent use topic.send(value)")
        self._declare(self, topic)

    def bound(self, source: Source) -> Stream[V, K]:
        """This description, reading from *source*."""
        stream: Stream[V, K] = self._with()
        stream._source, stream._declare = source, None
        return stream

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What comes before the last `group_by` or `through`, each in a task of its own."""
        return self._stages

    def last_stage(self) -> Stream[V, K]:
        """What comes behind them."""
        stream: Stream[V, K] = self._with()
        stream._stages = ()
        return stream

    def steps(self) -> tuple[bool, Step]:
        """Whether they work on records, and the operators as one, which begins to count."""
        return self._as_records, fused(self._steps)

    @property
    def keeps_all(self) -> bool:
        """Whether there are no operators, so that every value comes out as it went in."""
        return not self._steps

    def _next(self, stage: Stage) -> Stream[Any, Any]:
        """What comes behind *stage*, in which this is the description so far."""
        call = "group_by()" if stage.key else "through()"
        if self._take:
            raise DeclarationError(
                f"take() comes last, {call} goes before it: each list is of one key's partition then"
            )
        if self._type is _type_of_records:
            raise DeclarationError(
                f"{call} passes on values, not records: put records() behind it, or map() the records to what you need"
            )
        if stage.name in {known.name for known in self._stages}:
            raise DeclarationError(f"two stages of one stream are named {stage.name!r}: give one of them another name=")
        stream: Stream[Any, Any] = Stream(self._source)
        stream._stages, stream._declare = (*self._stages, stage), self._declare
        return stream

    def _with(self, *steps: Step, as_records: bool | None = None) -> Stream[Any, Any]:
        if self._take and steps:
            raise DeclarationError("take() comes last: operators go before it")
        keep = self._as_records if as_records is None else as_records
        stream: Stream[Any, Any] = Stream(self._source, (*self._steps, *steps), as_records=keep)
        stream._take, stream._declare = self._take, self._declare
        stream._stages, stream._type = self._stages, self._type
        stream._only_filters = not steps and not keep and self._only_filters
        return stream

    def __aiter__(self) -> AsyncIterator[V]:
        if self._source is None:
            raise DeclarationError("a declared stream cannot be iterated; end it with .to(topic)")
        self._source.grouped(self._stages)
        if self._take:
            return self._lists(self._source, *self._take)  # type: ignore[return-value]
        if self._source.kind is not None and not self._steps and not self._as_records:
            return _values_of_kind(self._source, self._source.kind)
        return self._values(self._source)

    async def slices(self) -> AsyncGenerator[Iterator[Any], None]:
        """Iterators over the values of a few records each, with the operators applied."""
        assert self._source is not None
        self._source.grouped(self._stages)
        run = fused(self._steps)
        async for values in self._source.slices(as_records=self._as_records, deadline=_never):
            yield run(values)

    async def _values(self, source: Source) -> AsyncGenerator[V, None]:
        run = fused(self._steps)
        async for values in source.slices(as_records=self._as_records, deadline=_never):
            with decoding(source):
                for value in run(values):
                    yield value

    async def _lists(self, source: Source, count: int, within: timedelta) -> AsyncGenerator[list[V], None]:
        run = fused(self._steps)
        taken: list[V] = []
        whole, ends = True, 0.0

        def deadline() -> float | None:
            return ends if taken else None

        async for values in source.slices(as_records=self._as_records, deadline=deadline):
            with decoding(source):
                for value in run(values):
                    if not taken:
                        whole = source.hold(effects=bool(self._steps))
                        ends = after(source.now(), within.total_seconds())
                    taken.append(value)
                    if len(taken) == count:
                        yield taken
                        taken = []
                        source.release()
            # A list that began in the middle of a record must end with one: no commit could split them.
            if taken and (not whole or source.isolating or source.now() >= ends):
                yield taken
                taken = []
                source.release()


@dataclass(frozen=True, slots=True)
class Stage:
    """What comes before a `group_by` or `through`, and where it goes from there."""

    name: str
    stream: Stream[Any, Any]
    key: Callable[[Any], Any] | None
    key_type: Any
    type_of: Callable[[Topic[Any, Any]], Any]
    """The type of the values, by the topic that the stage reads."""
    raw: bool = False
    """Whether values are passed on as they were read, so that nobody has to encode them."""
    target: Topic[Any, Any] | None = None
    """The topic of `through`."""


@contextmanager
def decoding(source: Source) -> Iterator[None]:
    """Iterates over a slice within: ends quietly where a record cannot be decoded, which is no fault of the agent."""
    try:
        yield
    except SERDE_ERRORS:
        if not source.skip_undecodable():
            raise


def of_kind(values: Iterator[Any], kind: type) -> Iterator[Any]:
    """The *values*, which must be of this very type."""
    for value in values:
        if type(value) is not kind:
            raise TypeError(f"it is a {type(value).__name__}")
        yield value


async def _values_of_kind(source: Source, kind: type) -> AsyncGenerator[Any, None]:
    """Every value; the look at its type is here, because a call for each would take a tenth of a small loop's time."""
    async for values in source.slices(as_records=False, deadline=_never, checked=False):
        with decoding(source):
            for value in values:
                if type(value) is not kind:
                    raise TypeError(f"it is a {type(value).__name__}")
                yield value


def _never() -> float | None:
    return None


def _type_of_topic(topic: Topic[Any, Any]) -> Any:
    return topic.value_type


def _type_of_records(_: Topic[Any, Any]) -> Any:
    return Record


def _type_of_items(topic: Topic[Any, Any]) -> Any:
    return tuple[topic.key_type | None, topic.value_type]  # type: ignore[name-defined]


def _has_value(record: Record[Any, Any]) -> bool:
    return not record.is_tombstone


def _item(record: Record[Any, Any]) -> tuple[Any, Any]:
    return record.key, record.value
