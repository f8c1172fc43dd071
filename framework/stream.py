"""Streams: what an agent's loop iterates over."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Generic, Protocol

from typing_extensions import TypeVar

from framework.errors import DeclarationError
from framework.operators.stateless import Step, filtered, flattened, fused, mapped
from framework.record import Record
from framework.serdes import SERDE_ERRORS
from framework.topic import Topic

V = TypeVar("V")
K = TypeVar("K", default=str)
W = TypeVar("W")


class Source(Protocol):
    """Where a stream's values come from: a task."""

    def slices(
        self, *, as_records: bool, deadline: Callable[[], float | None], checked: bool = True
    ) -> AsyncGenerator[Iterator[Any], None]:
        """Iterators over a few values each, empty ones when *deadline* passes.

        Unless *checked* the caller has to look whether each value is of `kind`.
        """

    @property
    def kind(self) -> type | None:
        """The one type that values may be of, None if that takes more than a look."""

    def now(self) -> float:
        """Seconds on the clock that *deadline* is measured by."""

    def hold(self, *, effects: bool) -> bool:
        """Let no commit pass the record being handled; False if a part of it has been handed on already.

        With *effects* there may be some before `release`, so there is no commit at all until then.
        """

    def release(self) -> None:
        """The list that `hold` began has been handled."""

    def skip_undecodable(self) -> bool:
        """Whether it was decoding that failed; the record in hand is then a dead letter, and its slice over."""

    @property
    def isolating(self) -> bool:
        """Whether records come one by one, to find the one that fails."""


class Stream(Generic[V, K]):
    """The values of one partition of a topic, in order, each to be handled once.

    A stream is a description: the operators return new ones. Tombstones are skipped; `records()` shows them.
    """

    def __init__(self, source: Source | None, steps: Sequence[Step] = (), *, as_records: bool = False) -> None:
        """Made by the framework, or by `App.stream`; without a *source* it is a declaration."""
        self._source, self._steps, self._as_records = source, tuple(steps), as_records
        self._take: tuple[int, timedelta] | None = None
        self._declare: Callable[[Stream[Any, Any], Topic[Any, Any]], None] | None = None

    def records(self) -> Stream[Record[V, K], K]:
        """The same stream as `Record`s: with key, timestamp, offset and headers, and tombstones (value None).

        Raises:
            DeclarationError: It comes after another operator.
        """
        if self._steps or self._take:
            raise DeclarationError("records() comes first: stream.records().filter(...)")
        return self._with(as_records=True)

    def map(self, function: Callable[[V], W]) -> Stream[W, K]:
        """Each value becomes what *function* makes of it."""
        return self._with(mapped(function))

    def filter(self, keep: Callable[[V], object]) -> Stream[V, K]:
        """Only the values of which *keep* is true."""
        return self._with(filtered(keep))

    def flat_map(self, function: Callable[[V], Iterable[W]]) -> Stream[W, K]:
        """Each value becomes the values that *function* makes of it, none or many."""
        return self._with(flattened(function))

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

    def _with(self, *steps: Step, as_records: bool | None = None) -> Stream[Any, Any]:
        if self._take and steps:
            raise DeclarationError("take() comes last: operators go before it")
        keep = self._as_records if as_records is None else as_records
        stream: Stream[Any, Any] = Stream(self._source, (*self._steps, *steps), as_records=keep)
        stream._take, stream._declare = self._take, self._declare
        return stream

    def __aiter__(self) -> AsyncIterator[V]:
        if self._source is None:
            raise DeclarationError("a declared stream cannot be iterated; end it with .to(topic)")
        if self._take:
            return self._lists(self._source, *self._take)  # type: ignore[return-value]
        if self._source.kind is not None and not self._steps and not self._as_records:
            return _values_of_kind(self._source, self._source.kind)
        return self._values(self._source)

    async def slices(self) -> AsyncGenerator[Iterator[Any], None]:
        """Iterators over the values of a few records each, with the operators applied."""
        assert self._source is not None
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
                        whole, ends = source.hold(effects=bool(self._steps)), source.now() + within.total_seconds()
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


@contextmanager
def decoding(source: Source) -> Iterator[None]:
    """Iterates over a slice within: ends quietly where a record cannot be decoded, which is no fault of the agent."""
    try:
        yield
    except SERDE_ERRORS:
        if not source.skip_undecodable():
            raise


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
