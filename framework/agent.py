"""Agents: the functions that consume topics, and the form each was written in."""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, Generic, Literal, Protocol, overload

from typing_extensions import TypeVar

from framework.errors import DeclarationError
from framework.log import At
from framework.log.ack import Ack
from framework.record import Record
from framework.retry import Retry
from framework.source import Source
from framework.stream import Stream, decoding
from framework.topic import UNSET, Topic, Unset

V = TypeVar("V")
K = TypeVar("K", default=str)
R = TypeVar("R")
O = TypeVar("O", default=Any)  # noqa: E741  # the stub's name for an agent's output

Run = Callable[[Source], Awaitable[None]]
OnGap = Literal["fail", "earliest"]


class Agent(Generic[V, O]):
    """A function that consumes a topic, one instance for each partition."""

    def __init__(
        self,
        name: str,
        source: Topic[V, Any],
        function: Callable[..., Any] | None,
        run: Run,
        *,
        sink: Topic[Any, Any] | None = None,
        start: At = "beginning",
        on_error: Retry | None = None,
        timeout: timedelta | None = None,
        concurrency: int = 1,
        as_records: bool = False,
        on_gap: OnGap = "fail",
    ) -> None:
        """Use `App.agent`. *run* consumes a source until it ends; *as_records* is whether *function* takes `Record`s.

        Raises:
            DeclarationError: *timeout* is not positive, or is given to a function that cannot be interrupted.
        """
        self.name, self.source, self.function, self.run = name, source, function, run
        self.sink, self.start, self.on_gap, self.on_error = sink, start, on_gap, on_error or Retry()
        self.timeout_s = None if timeout is None else timeout.total_seconds()
        if timeout is not None and timeout <= timedelta(0):
            raise DeclarationError(f"agent {name!r}: timeout is {timeout}, it must be positive")
        self.concurrency, self.as_records = concurrency, as_records
        if timeout is not None and not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
            raise DeclarationError(
                f"agent {name!r}: timeout= needs `async def`, nothing can interrupt a plain function"
            )

    async def call(self, value: Any) -> Any:
        """What the function, which is called per record, makes of *value*."""
        assert self.function is not None
        return await self.function(value)

    def send(self, value: V, *, key: Any | Unset = UNSET) -> Ack:
        """Send *value* to the topic the agent consumes."""
        return self.source.send(value, key=key)

    def __repr__(self) -> str:
        return f"<Agent {self.name!r} of {self.source.name!r}>"


class Decorate(Protocol[V, K]):
    """What `App.agent` returns without a sink."""

    @overload
    def __call__(self, function: Callable[[Stream[V, K]], AsyncGenerator[R, None]], /) -> Agent[V, R]: ...
    @overload
    def __call__(self, function: Callable[[Stream[V, K]], Coroutine[Any, Any, None]], /) -> Agent[V, None]: ...
    @overload
    def __call__(self, function: Callable[[V], Coroutine[Any, Any, R]], /) -> Agent[V, R]: ...
    @overload
    def __call__(self, function: Callable[[Record[V, K]], Coroutine[Any, Any, R]], /) -> Agent[V, R]: ...
    @overload
    def __call__(self, function: Callable[[Record[V, K]], R], /) -> Agent[V, R]: ...
    @overload
    def __call__(self, function: Callable[[V], R], /) -> Agent[V, R]: ...


class DecorateSink(Protocol[V, K, O]):
    """What `App.agent` returns with a sink: the function's results must be values of it."""

    @overload
    def __call__(self, function: Callable[[Stream[V, K]], AsyncGenerator[O, None]], /) -> Agent[V, O]: ...
    @overload
    def __call__(self, function: Callable[[V], Coroutine[Any, Any, O | None]], /) -> Agent[V, O]: ...
    @overload
    def __call__(self, function: Callable[[Record[V, K]], Coroutine[Any, Any, O | None]], /) -> Agent[V, O]: ...
    @overload
    def __call__(self, function: Callable[[Record[V, K]], O | None], /) -> Agent[V, O]: ...
    @overload
    def __call__(self, function: Callable[[V], O | None], /) -> Agent[V, O]: ...


def run_of(function: Callable[..., Any], source: Topic[Any, Any], sink: Topic[Any, Any] | None) -> Run:
    """How to run *function*, by the annotation of its first parameter.

    Raises:
        DeclarationError: It is none of the forms there are.
    """
    name = getattr(function, "__name__", "the function")
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) != 1:
        raise DeclarationError(f"agent {name!r} takes {len(parameters)} parameters, it must take one")
    annotation, origin = _annotation(function, parameters[0]), takes(function)
    if annotation is inspect.Parameter.empty or origin is Stream:
        if inspect.isasyncgenfunction(function):
            return _yielding_loop(function, sink)
        if not inspect.iscoroutinefunction(function):
            raise DeclarationError(f"agent {name!r} takes a stream, so it must be `async def`")
        if sink is not None:
            raise DeclarationError(f"agent {name!r} has a sink, so its loop must yield what goes there")
        return lambda task: function(Stream(task))
    if origin is not Record and annotation not in (source.value_type, Any):
        raise DeclarationError(
            f"agent {name!r} takes {annotation!r}; write Stream[...] for a loop, "
            f"{getattr(source.value_type, '__name__', source.value_type)} or Record[...] for one call per record"
        )
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise DeclarationError(f"agent {name!r} is called per record, so it returns a value and does not yield")
    stream: Stream[Any, Any] = Stream(None, as_records=origin is Record)
    if inspect.iscoroutinefunction(function):
        return _per_record_async(function, stream, sink)
    return _per_record(function, stream, sink)


def takes(function: Callable[..., Any]) -> Any:
    """What the first parameter of *function* is annotated with, without what stands in brackets."""
    annotation = _annotation(function, next(iter(inspect.signature(function).parameters.values())))
    return typing.get_origin(annotation) or annotation


def check_concurrency(name: str, function: Callable[..., Any], concurrency: int) -> int:
    """*concurrency*, if the agent *name* can have it.

    Raises:
        DeclarationError: It is below 1, or *function* is not `async def` and called per record.
    """
    if concurrency < 1:
        raise DeclarationError(f"agent {name!r}: concurrency is {concurrency}, it must be at least 1")
    per_record = inspect.iscoroutinefunction(function) and takes(function) not in (Stream, inspect.Parameter.empty)
    if concurrency > 1 and not per_record:
        raise DeclarationError(
            f"agent {name!r}: concurrency={concurrency} needs `async def` that is called per record "
            "(its parameter annotated with the topic's type or Record[...]), a loop has one record in hand"
        )
    return concurrency


def pipeline_run(stream: Stream[Any, Any], sink: Topic[Any, Any]) -> Run:
    """How to run a pipeline of `App.stream` that ends in *sink*."""

    async def run(task: Source) -> None:
        async for value in stream.bound(task):
            sink.send(value)

    return run


def _annotation(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    if not isinstance(parameter.annotation, str):
        return parameter.annotation
    try:
        return typing.get_type_hints(function)[parameter.name]
    except NameError:
        # A type that only the function's own scope knows: the text says which form was meant.
        text = parameter.annotation.partition("[")[0].rpartition(".")[2]
        if text in ("Stream", "Record"):
            return Stream if text == "Stream" else Record
        scope = {**getattr(function, "__globals__", {}), **inspect.getclosurevars(function).nonlocals}
        return scope.get(parameter.annotation, Any)


def _yielding_loop(function: Callable[..., Any], sink: Topic[Any, Any] | None) -> Run:
    async def run(task: Source) -> None:
        async for value in function(Stream(task)):
            if sink is not None and value is not None:
                sink.send(value)

    return run


def _per_record(function: Callable[[Any], Any], stream: Stream[Any, Any], sink: Topic[Any, Any] | None) -> Run:
    async def run(task: Source) -> None:
        async for values in stream.bound(task).slices():
            with decoding(task):
                for value in values:
                    result = function(value)
                    if result is not None and sink is not None:
                        sink.send(result)

    return run


def _per_record_async(function: Callable[[Any], Any], stream: Stream[Any, Any], sink: Topic[Any, Any] | None) -> Run:
    async def run(task: Source) -> None:
        async for values in stream.bound(task).slices():
            with decoding(task):
                for value in values:
                    result = await function(value)
                    if result is not None and sink is not None:
                        sink.send(result)

    return run
