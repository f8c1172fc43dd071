"""The app: the registry of topics, tables, agents and jobs, and, once open, the data directory they use."""

from __future__ import annotations

import atexit
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, overload

from typing_extensions import TypeVar, Unpack

from framework.agent import Agent, Decorate, DecorateSink, pipeline_run, run_of
from framework.committed import CommittedTable
from framework.dead_letter import MAX_HEADERS_BYTES
from framework.errors import DeclarationError
from framework.job import DecorateJob, Job
from framework.log import At, Clock, Log, SystemClock, TopicInfo
from framework.log.errors import InvalidName, TopicExists, UnknownTopic
from framework.log.sending import Producer
from framework.log.settings import RANGES, check_partitions
from framework.schedule import Schedule
from framework.state.view import StateView
from framework.stream import Stream
from framework.table import Table
from framework.topic import Durability, Topic, TopicOptions, overrides_of

V = TypeVar("V")
K = TypeVar("K", default=str)
KX = TypeVar("KX")
W = TypeVar("W")

DATA_VARIABLE = "FRAMEWORK_DATA"
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,100}")


class App:
    """What a program declares. Making one touches no disk, loop or thread.

    `async with app:` opens it for sending and reading in a program of your own, and so does the first `send`;
    agents and jobs run in `framework worker`.
    """

    def __init__(
        self,
        name: str,
        *,
        data: str | os.PathLike[str] | None = None,
        lifespan: Callable[[App], AbstractAsyncContextManager[Any]] | None = None,
        partitions: int = 1,
        durability: Durability | None = None,
        linger: timedelta | None = None,
        batch_bytes: int = 256 << 10,
        clock: Clock | None = None,
    ) -> None:
        """*data* is the data directory (FRAMEWORK_DATA and the command line go before it; default `./data`).

        *lifespan* wraps the time the app is open; what it needs to share it puts into `state`. *partitions* is how
        many a topic has that does not say, *durability* when a send to it is acknowledged. What is sent outside agents
        waits *linger* for company, or until a batch has *batch_bytes*; without, no longer than it must.

        Raises:
            InvalidName, InvalidSetting: *name* or *partitions* cannot be.
        """
        self.name = _check_name("app", name)
        self.state: Any = SimpleNamespace()
        self.topics: dict[str, Topic[Any, Any]] = {}
        self.tables: dict[str, Table[Any, Any]] = {}
        self.agents: dict[str, Agent[Any, Any]] = {}
        self.jobs: dict[str, Job] = {}
        self.clock = clock or SystemClock()
        self.lifespan = lifespan
        self._data, self._partitions = data, check_partitions(partitions)
        linger_ms = None if linger is None else linger // timedelta(milliseconds=1)
        self._producer_options: dict[str, Any] = {"linger_ms": linger_ms, "batch_bytes": batch_bytes}
        self._topic_defaults = {} if durability is None else overrides_of("defaults", {"durability": durability})
        self._log: Log | None = None
        self._producer: Producer | None = None
        self._view: StateView | None = None
        self._infos: dict[str, TopicInfo] = {}
        self._infos_version = -1
        self._exits: list[AsyncExitStack] = []
        self._living = False

    # Declaring.

    @overload
    def topic(
        self,
        name: str,
        value_type: type[V],
        *,
        key: Callable[[V], str] | None = None,
        **options: Unpack[TopicOptions],
    ) -> Topic[V]: ...
    @overload
    def topic(
        self,
        name: str,
        value_type: type[V],
        *,
        key_type: type[KX],
        key: Callable[[V], KX] | None = None,
        **options: Unpack[TopicOptions],
    ) -> Topic[V, KX]: ...
    @overload
    def topic(self, name: str) -> Topic[Any]: ...
    def topic(
        self,
        name: str,
        value_type: Any = Any,
        *,
        key_type: Any = str,
        key: Callable[[Any], Any] | None = None,
        **options: Unpack[TopicOptions],
    ) -> Topic[Any, Any]:
        """Declare a topic: *value_type* is a pydantic model, `dict`, `str`, `bytes`, ...; without one, any JSON.

        *key* derives the key of a record sent without one; *options* are those of `TopicOptions`. The topic is made
        when it is first used.

        Raises:
            DeclarationError: It is declared already, and differently.
            InvalidName, InvalidSetting: Kafka would not take it.
        """
        overrides, partitions = self._topic_defaults | overrides_of(name, options), options.get("partitions")
        topic: Topic[Any, Any] = Topic(
            self, name, value_type, key_type=key_type, key=key, partitions=partitions, overrides=overrides
        )
        known = self.topics.get(name)
        if known is not None:
            if not known.same_as(topic):
                raise DeclarationError(f"topic {name!r} is declared twice, and differently: keep one and share it")
            return known
        self.topics[name] = topic
        return topic

    @overload
    def table(self, name: str, default: Callable[[], V]) -> Table[V]: ...
    @overload
    def table(self, name: str, default: Callable[[], V], *, key_type: type[KX]) -> Table[V, KX]: ...
    def table(self, name: str, default: Callable[[], Any], *, key_type: Any = str) -> Table[Any, Any]:
        """Declare a table: a row for each key, *default*() where there is none yet.

        Raises:
            DeclarationError: There is one of this name.
        """
        self._check_new("table", name)
        self.tables[name] = Table(self, name, default, key_type)
        return self.tables[name]

    def stream(self, source: Topic[V, KX], *, name: str) -> Stream[V, KX]:
        """Begin a pipeline: operators, then `.to(topic)`; it runs as an agent called *name*."""
        stream: Stream[V, KX] = Stream(None)
        stream._declare = lambda described, sink: self._declare_pipeline(name, source, described, sink)
        return stream

    @overload
    def agent(
        self, source: Topic[V, KX], *, sink: Topic[W, Any], name: str | None = None, start: At = "beginning"
    ) -> DecorateSink[V, KX, W]: ...
    @overload
    def agent(self, source: Topic[V, KX], *, name: str | None = None, start: At = "beginning") -> Decorate[V, KX]: ...
    def agent(
        self,
        source: Topic[Any, Any],
        *,
        sink: Topic[Any, Any] | None = None,
        name: str | None = None,
        start: At = "beginning",
    ) -> Any:
        """Declare a function as an agent of *source*.

        Its first parameter says how it is used: `Stream[...]` (or nothing) for a loop, the topic's type or
        `Record[...]` to be called per record. What it returns or yields goes to *sink*; None goes nowhere. It
        is known by *name*, the function's unless given: its committed offsets hang on it. *start* is where it begins
        when it has none.

        Raises:
            DeclarationError: The name is taken, or the function has none of these forms.
        """

        def decorate(function: Callable[..., Any]) -> Agent[Any, Any]:
            called = name or cast(str, getattr(function, "__name__", ""))
            self._check_new("agent", called)
            run = run_of(function, source, sink)
            self.agents[called] = Agent(called, source, function, run, sink=sink, start=start)
            return self.agents[called]

        return decorate

    def job(
        self,
        source: Topic[V, KX],
        *,
        schedule: str | timedelta,
        timezone: str = "UTC",
        name: str | None = None,
    ) -> DecorateJob[V, KX]:
        """Declare a function as a job: called on *schedule* with all the records of *source* since its last run.

        *schedule* is five cron fields, an alias like `@daily`, or a timedelta; *timezone* is where the fields
        are read.

        Raises:
            DeclarationError: The name is taken.
            BadSchedule: The schedule or time zone cannot be understood.
        """

        def decorate(function: Callable[..., Any]) -> Job:
            called = name or cast(str, getattr(function, "__name__", ""))
            self._check_new("job", called)
            self.jobs[called] = Job(self, called, source, function, Schedule.parse(schedule, timezone, name=called))
            return self.jobs[called]

        return cast("DecorateJob[V, KX]", decorate)

    def _declare_pipeline(
        self, name: str, source: Topic[Any, Any], stream: Stream[Any, Any], sink: Topic[Any, Any]
    ) -> None:
        self._check_new("agent", name)
        self.agents[name] = Agent(name, source, None, pipeline_run(stream, sink), sink=sink)

    def _check_new(self, kind: str, name: str) -> None:
        _check_name(kind, name)
        known = self.tables if kind == "table" else {**self.agents, **self.jobs}
        if name in known:
            kinds = "tables" if kind == "table" else "agents or jobs"
            raise DeclarationError(f"there are two {kinds} named {name!r}: give one of them another name")

    # Being open.

    @property
    def data(self) -> Path:
        """The data directory, absolute."""
        if self._log is not None:
            return self._log.path
        return Path(os.environ.get(DATA_VARIABLE) or self._data or "data").absolute()

    @property
    def is_open(self) -> bool:
        """Whether the data directory is open."""
        return self._log is not None

    @property
    def log(self) -> Log:
        """The open log; opens it, making the directory if there is none."""
        if self._log is None:
            self.open(create=True)
        assert self._log is not None
        return self._log

    def open(self, data: str | os.PathLike[str] | None = None, *, create: bool, log: Log | None = None) -> Log:
        """Open the data directory for sending and reading, or use *log*.

        Raises:
            NoDataDirectory: There is none, and *create* is false.
        """
        if self._log is None:
            self._log = log or Log(Path(data or self.data), create=create, clock=self.clock)
            atexit.register(self.close)
        return self._log

    def close(self) -> None:
        """Bring everything sent to disk and close the log; more calls do nothing."""
        atexit.unregister(self.close)
        producer, view, log = self._producer, self._view, self._log
        self._producer = self._view = self._log = None
        self._infos = {}
        if view is not None:
            view.close()
        try:
            if producer is not None:
                producer.close()
        finally:
            if log is not None:
                log.close()

    @contextmanager
    def opened(self, data: str | os.PathLike[str] | None = None, *, create: bool = True) -> Iterator[App]:
        """The app open for sending and reading, for programs without an event loop; `async with app:` for others."""
        self.open(data, create=create)
        try:
            yield self
        finally:
            self.close()

    async def __aenter__(self) -> App:
        """Open for sending and reading; runs no agents."""
        exits = AsyncExitStack()
        if not self.is_open:
            exits.callback(self.close)
        self.open(create=True)
        try:
            await exits.enter_async_context(self.living())
        except BaseException:
            await exits.aclose()
            raise
        self._exits.append(exits)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Flush what was sent and close."""
        await self._exits.pop().aclose()

    @asynccontextmanager
    async def living(self) -> AsyncIterator[None]:
        """Within the lifespan, which runs once however often it is asked for."""
        if self.lifespan is None or self._living:
            yield
            return
        self._living = True
        try:
            async with self.lifespan(self):
                yield
        finally:
            self._living = False

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        """Run agents and jobs beside the body; at its end they finish what is in hand and commit."""
        from framework.worker import Worker

        async with Worker(self).running():
            yield

    # What topics and tables ask.

    def topic_info(self, topic: Topic[Any, Any], *, create: bool = True) -> TopicInfo:
        """The topic in the log; made as declared if it is not there and *create* is true.

        Raises:
            TopicExists: It is there with another number of partitions.
            UnknownTopic: It is not there, and *create* is false.
        """
        log = self.log
        version = log.catalogue_version
        if version != self._infos_version:
            self._infos, self._infos_version = {}, version
        info = self._infos.get(topic.name)
        if info is not None:
            return info
        try:
            info = log.topic(topic.name)
        except UnknownTopic:
            if not create:
                raise
            try:
                info = log.create_topic(topic.name, topic.partitions or self._partitions, topic.settings())
            except TopicExists:  # Another process was faster.
                info = log.topic(topic.name)
        if topic.partitions not in (None, info.partitions):
            raise TopicExists(
                f"topic {topic.name!r} has {info.partitions} partitions in {log.path}, the app declares "
                f"{topic.partitions}: declare {info.partitions}, or use another topic"
            )
        self._infos[topic.name] = info
        return info

    def dead_letters(self, name: str, source: Topic[Any, Any]) -> Topic[Any, Any]:
        """The dead-letter topic of the agent or job *name*, with the partitions of *source*."""
        called = f"{self.name}.{name}.dead-letter"
        info = self.topic_info(source)
        known = self.topics.get(called)
        if known is None:
            most = min(info.settings.max_message_bytes + MAX_HEADERS_BYTES, RANGES["max_message_bytes"][1])
            overrides = {"retention_ms": -1, "max_message_bytes": most}
            known = self.topics[called] = Topic(
                self, called, bytes, key_type=bytes, partitions=info.partitions, overrides=overrides
            )
        return known

    def producer(self) -> Producer:
        """What sends outside agents."""
        if self._producer is None:
            self._producer = self.log.producer(**self._producer_options)
        return self._producer

    def committed(self, table: Table[Any, Any]) -> CommittedTable:
        """The committed rows of *table*, as everybody but its agent sees them."""
        if self._view is None:
            self._view = StateView(self.log)
        return CommittedTable(self._view, self.log, table)

    def __repr__(self) -> str:
        return f"<App {self.name!r}>"


def _check_name(kind: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidName(
            f"{kind} name {name!r} is not valid: 1 to 100 characters, only letters, digits, '.', '_' and '-'"
        )
    return name
