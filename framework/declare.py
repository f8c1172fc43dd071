"""What an app declares: topics, tables, agents and jobs, each known by its name."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast, overload

from typing_extensions import TypeVar, Unpack

from framework.agent import Agent, Decorate, DecorateSink, pipeline_run, run_of
from framework.errors import DeclarationError
from framework.job import DecorateJob, Job
from framework.log import At
from framework.log.errors import InvalidName
from framework.log.settings import check_partitions
from framework.schedule import Schedule
from framework.stream import Stream
from framework.table import Table
from framework.topic import Durability, Topic, TopicOptions, overrides_of

if TYPE_CHECKING:
    from framework.app import App

V = TypeVar("V")
K = TypeVar("K", default=str)
KX = TypeVar("KX")
W = TypeVar("W")

_NAME = re.compile(r"[a-zA-Z0-9._-]{1,100}")


class Declarations:
    """The declaring half of an `App`."""

    def __init__(self, name: str, *, partitions: int, durability: Durability | None) -> None:
        """Nothing is declared yet; *partitions* and *durability* are those of topics that do not say.

        Raises:
            InvalidName, InvalidSetting: *name* or *partitions* cannot be.
        """
        self.name = check_name("app", name)
        self.topics: dict[str, Topic[Any, Any]] = {}
        self.tables: dict[str, Table[Any, Any]] = {}
        self.agents: dict[str, Agent[Any, Any]] = {}
        self.jobs: dict[str, Job] = {}
        self._partitions = check_partitions(partitions)
        self._topic_defaults = {} if durability is None else overrides_of("defaults", {"durability": durability})

    @property
    def _app(self) -> App:
        return cast("App", self)

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
            self._app,
            name,
            value_type,
            key_type=key_type,
            key=key,
            partitions=partitions,
            overrides=overrides,
            upgrade=options.get("upgrade"),
        )
        known = self.topics.get(name)
        if known is not None:
            if not known.same_as(topic):
                raise DeclarationError(f"topic {name!r} is declared twice, and differently: keep one and share it")
            return known
        self.topics[name] = topic
        return topic

    @overload
    def table(
        self, name: str, default: Callable[[], V], *, upgrade: Callable[[Any], Any] | None = None
    ) -> Table[V]: ...
    @overload
    def table(
        self,
        name: str,
        default: Callable[[], V],
        *,
        key_type: type[KX],
        upgrade: Callable[[Any], Any] | None = None,
    ) -> Table[V, KX]: ...
    def table(
        self,
        name: str,
        default: Callable[[], Any],
        *,
        key_type: Any = str,
        upgrade: Callable[[Any], Any] | None = None,
    ) -> Table[Any, Any]:
        """Declare a table: a row for each key, *default*() where there is none yet.

        *upgrade* makes the JSON of a row that was stored as an older type into one of the present type.

        Raises:
            DeclarationError: There is one of this name.
        """
        self._check_new("table", name)
        self.tables[name] = Table(self._app, name, default, key_type, upgrade)
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
            self.jobs[called] = Job(
                self._app, called, source, function, Schedule.parse(schedule, timezone, name=called)
            )
            return self.jobs[called]

        return cast("DecorateJob[V, KX]", decorate)

    def _declare_pipeline(
        self, name: str, source: Topic[Any, Any], stream: Stream[Any, Any], sink: Topic[Any, Any]
    ) -> None:
        self._check_new("agent", name)
        self.agents[name] = Agent(name, source, None, pipeline_run(stream, sink), sink=sink)

    def _check_new(self, kind: str, name: str) -> None:
        check_name(kind, name)
        known = self.tables if kind == "table" else {**self.agents, **self.jobs}
        if name in known:
            kinds = "tables" if kind == "table" else "agents or jobs"
            raise DeclarationError(f"there are two {kinds} named {name!r}: give one of them another name")


def check_name(kind: str, name: str) -> str:
    """*name*, if a *kind* can be called that.

    Raises:
        InvalidName: It cannot.
    """
    if not _NAME.fullmatch(name):
        raise InvalidName(
            f"{kind} name {name!r} is not valid: 1 to 100 characters, only letters, digits, '.', '_' and '-'"
        )
    return name
