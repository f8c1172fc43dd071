"""What an app declares: topics, tables, agents and jobs, each known by its name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast, overload

from typing_extensions import TypedDict, TypeVar, Unpack

from framework.agent import Agent, Decorate, DecorateSink, OnGap, check_concurrency, pipeline_run, run_of, takes
from framework.errors import DeclarationError
from framework.expiring import ExpiringTable
from framework.jobs.job import Catchup, DecorateJob, Job, JobOptions, Policies
from framework.jobs.timer import DecorateTimer, Timer
from framework.log import At
from framework.log.errors import InvalidName
from framework.log.settings import check_not_internal, check_partitions
from framework.record import Record
from framework.retry import Retry
from framework.schedule import MIN_PERIOD, BadSchedule, Schedule
from framework.source_table import SourceTable
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


class AgentOptions(TypedDict, total=False):
    """What can be said of an agent beside its topics: see `App.agent`."""

    name: str | None
    """What it is known by, the function's name unless given: its committed offsets hang on it."""
    start: At
    """Where it begins when it has no committed offsets; at the beginning unless said."""
    on_error: Retry
    """What becomes of a record that fails; the app's `on_error` unless given."""
    on_gap: OnGap
    """If records were removed before it read them: `fail` unless said, or go on at the `earliest` that is kept."""
    concurrency: int
    """How many records of a partition may be in hand at once, those of one key one after the other. Above 1 the
    function is `async def`, called per record, and touches only table rows of its record's key."""
    timeout: timedelta | None
    """How long a record may be in hand; then it fails with `TimeoutError`. Needs `async def`."""


class Declarations:
    """The declaring half of an `App`."""

    def __init__(self, name: str, *, partitions: int, durability: Durability | None, on_error: Retry | None) -> None:
        """Nothing is declared yet; *partitions*, *durability* and *on_error* are for what does not say.

        Raises:
            InvalidName, InvalidSetting: *name* or *partitions* cannot be.
        """
        self.name = check_name("app", name)
        self.topics: dict[str, Topic[Any, Any]] = {}
        self.tables: dict[str, Table[Any, Any]] = {}
        self.agents: dict[str, Agent[Any, Any]] = {}
        self.jobs: dict[str, Job] = {}
        self.timers: dict[str, Timer] = {}
        self._on_error = on_error
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
        check_options(f"topic {name!r} (settings by Kafka's name go into config=)", options, TopicOptions)
        check_not_internal(name)
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
        self,
        name: str,
        default: Callable[[], V],
        *,
        ttl: timedelta | None = None,
        upgrade: Callable[[Any], Any] | None = None,
    ) -> Table[V]: ...
    @overload
    def table(
        self,
        name: str,
        default: Callable[[], V],
        *,
        key_type: type[KX],
        ttl: timedelta | None = None,
        upgrade: Callable[[Any], Any] | None = None,
    ) -> Table[V, KX]: ...
    @overload
    def table(self, name: str, *, source: Topic[V, KX], everywhere: bool = False) -> Table[V, KX]: ...
    def table(
        self,
        name: str,
        default: Callable[[], Any] | None = None,
        *,
        key_type: Any = str,
        ttl: timedelta | None = None,
        upgrade: Callable[[Any], Any] | None = None,
        source: Topic[Any, Any] | None = None,
        everywhere: bool = False,
    ) -> Table[Any, Any]:
        """Declare a table: a row for each key, *default*() where there is none yet.

        With *ttl* a row that was not written for that long is gone: by the time of the agent that writes the table,
        the greatest timestamp of the records its task has taken, so that a replay finds the same rows (in a job, by the
        clock). To read a row is not to write it. Its bytes are removed little by little, with commits that come anyway.
        *upgrade* makes the JSON of a row that was stored as an older type into one of the present type.

        With *source* the table follows that topic: the last value of each key, until a tombstone deletes it. An
        agent of the table's name writes it, all others only read; a key without a row is a `KeyError`. An agent
        reads the rows of its own partition; *everywhere* lets every agent and job read every row, as of
        the last commit where the row lies.

        Raises:
            DeclarationError: There is one of this name, or an agent; or these do not go together.
        """
        self._check_new("table", name)
        if source is None:
            if everywhere:
                raise DeclarationError(
                    f"table {name!r} cannot be there everywhere: only one with a source can, because nobody changes "
                    "its rows in place. Send its rows to a topic, and let another table follow that"
                )
            self.tables[name] = self._plain_table(name, default, key_type, ttl, upgrade)
            return self.tables[name]
        if default is not None or ttl is not None or upgrade is not None or key_type is not str:
            raise DeclarationError(
                f"table {name!r} follows a topic: it has no default, key_type, ttl or upgrade of its own"
            )
        self._check_new("agent", name)
        table = SourceTable(self._app, name, source, everywhere=everywhere)
        self.tables[name] = table
        self.agents[name] = Agent(name, source, None, table.follow)
        return table

    def _plain_table(
        self,
        name: str,
        default: Callable[[], Any] | None,
        key_type: Any,
        ttl: timedelta | None,
        upgrade: Callable[[Any], Any] | None,
    ) -> Table[Any, Any]:
        if default is None:
            raise DeclarationError(f"table {name!r} needs a default, like int or dict, or a source=topic to follow")
        if ttl is None:
            return Table(self._app, name, default, key_type, upgrade)
        return ExpiringTable(self._app, name, default, key_type, ttl, upgrade)

    def stream(self, source: Topic[V, KX], *, name: str) -> Stream[V, KX]:
        """Begin a pipeline: operators, then `.to(topic)`; it runs as an agent called *name*."""
        stream: Stream[V, KX] = Stream(None)
        stream._declare = lambda described, sink: self._declare_pipeline(name, source, described, sink)
        return stream

    @overload
    def agent(
        self, source: Topic[V, KX], *, sink: Topic[W, Any], **options: Unpack[AgentOptions]
    ) -> DecorateSink[V, KX, W]: ...
    @overload
    def agent(self, source: Topic[V, KX], **options: Unpack[AgentOptions]) -> Decorate[V, KX]: ...
    def agent(
        self,
        source: Topic[Any, Any],
        *,
        sink: Topic[Any, Any] | None = None,
        **options: Unpack[AgentOptions],
    ) -> Any:
        """Declare a function as an agent of *source*.

        Its first parameter says how it is used: `Stream[...]` (or nothing) for a loop, the topic's type or
        `Record[...]` to be called per record. What it returns or yields goes to *sink*; None goes nowhere. *options*
        are those of `AgentOptions`.

        Raises:
            DeclarationError: The name is taken, or the function has none of these forms.
        """
        check_options("agent", options, AgentOptions)

        def decorate(function: Callable[..., Any]) -> Agent[Any, Any]:
            called = options.get("name") or cast(str, getattr(function, "__name__", ""))
            self._check_new("agent", called)
            self.agents[called] = Agent(
                called,
                source,
                function,
                run_of(function, source, sink),
                sink=sink,
                start=options.get("start", "beginning"),
                on_error=options.get("on_error", self._on_error),
                on_gap=options.get("on_gap", "fail"),
                timeout=options.get("timeout"),
                concurrency=check_concurrency(called, function, options.get("concurrency", 1)),
                as_records=takes(function) is Record,
            )
            return self.agents[called]

        return decorate

    def job(
        self,
        source: Topic[V, KX],
        *,
        schedule: str | timedelta,
        timezone: str = "UTC",
        **options: Unpack[JobOptions],
    ) -> DecorateJob[V, KX]:
        """Declare a function as a job: called on *schedule* with all the records of *source* since its last run.

        *schedule* is five cron fields, an alias like `@daily`, or a timedelta; *timezone* is where the fields
        are read. *options* are those of `JobOptions`.

        Raises:
            DeclarationError: The name is taken, or options do not go together.
            BadSchedule: The schedule or time zone cannot be understood.
        """
        check_options("job", options, JobOptions)
        policies = Policies(**{name: value for name, value in options.items() if name != "name"})  # type: ignore[arg-type]

        def decorate(function: Callable[..., Any]) -> Job:
            called = options.get("name") or cast(str, getattr(function, "__name__", ""))
            self._check_new("job", called)
            parsed = Schedule.parse(schedule, timezone, name=called)
            self.jobs[called] = Job(self._app, called, source, function, parsed, policies)
            return self.jobs[called]

        return cast("DecorateJob[V, KX]", decorate)

    def timer(
        self, interval: float | timedelta, *, name: str | None = None, catchup: Catchup = "coalesce"
    ) -> DecorateTimer:
        """Declare a function without parameters that the worker calls every *interval*, in seconds if it is a number.

        Counted from the epoch, so that a restart moves nothing. What the function sends, and what it does to tables, is
        committed with the note that it was called: exactly once. *catchup* as for a job. Because each call is a commit
        on the disk, an interval is a second at least; for less there is a loop in a task of your own, which `lifespan`
        begins and ends.

        Raises:
            DeclarationError: The name is taken, or the function has parameters.
            BadSchedule: The interval is too short or too long, or none.
        """
        try:
            every = interval if isinstance(interval, timedelta) else timedelta(seconds=interval)
        except (TypeError, ValueError, OverflowError):
            raise BadSchedule(f"timer({interval!r}): this is no interval, give seconds or a timedelta") from None
        if every < MIN_PERIOD:
            raise BadSchedule(
                f"timer({interval!r}): an interval is 1 second at least, because each call is a commit on the disk; "
                "for less, loop in a task that the app's lifespan begins and ends"
            )
        return self._scheduled(every, "UTC", name, catchup)

    def crontab(
        self, schedule: str, *, timezone: str = "UTC", name: str | None = None, catchup: Catchup = "coalesce"
    ) -> DecorateTimer:
        """Declare a function without parameters that the worker calls on *schedule*, as `timer` and as for a job.

        Raises:
            DeclarationError: The name is taken, or the function has parameters.
            BadSchedule: The schedule or time zone cannot be understood.
        """
        return self._scheduled(schedule, timezone, name, catchup)

    def _scheduled(self, schedule: str | timedelta, timezone: str, name: str | None, catchup: Catchup) -> DecorateTimer:
        def decorate(function: Callable[..., Any]) -> Timer:
            called = name or cast(str, getattr(function, "__name__", ""))
            self._check_new("timer", called)
            parsed = Schedule.parse(schedule, timezone, name=called)
            self.timers[called] = Timer(called, function, parsed, catchup)
            return self.timers[called]

        return decorate

    def _declare_pipeline(
        self, name: str, source: Topic[Any, Any], stream: Stream[Any, Any], sink: Topic[Any, Any]
    ) -> None:
        from framework.repartition import declare_stages

        before, behind = declare_stages(self._app, name, source, stream.stages, on_error=self._on_error)
        run = pipeline_run(stream.last_stage(), sink)
        agents = [*before, Agent(name, behind, None, run, sink=sink, on_error=self._on_error)]
        for agent in agents:
            self._check_new("agent", agent.name)
        self.agents |= {agent.name: agent for agent in agents}

    def _check_new(self, kind: str, name: str) -> None:
        check_name(kind, name)
        known = self.tables if kind == "table" else {**self.agents, **self.jobs, **self.timers}
        if name in known:
            kinds = "tables" if kind == "table" else "agents, jobs or timers"
            raise DeclarationError(f"there are two {kinds} named {name!r}: give one of them another name")


def check_options(what: str, options: Mapping[str, object], known: type) -> None:
    """Refuse what is no option: without a type checker nobody else would.

    Raises:
        DeclarationError: One of *options* is not *known*.
    """
    unknown = sorted(set(options) - set(known.__annotations__))
    if unknown:
        raise DeclarationError(
            f"{', '.join(unknown)} is no option of {what}; there are {', '.join(sorted(known.__annotations__))}"
        )


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
