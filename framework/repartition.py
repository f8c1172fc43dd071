"""The stages of a stream with `group_by`: what comes before it runs as an agent of its own.

    flights -> [watch.group-1: filter, key] -> shop.watch.group-1.repartition -> [watch: the loop, its tables]

A stage is an ordinary agent, so what it sends is in its commit, exactly once, and what fails in it becomes a dead
letter of its own. The topic between is read by one agent only, and trimmed behind what that has committed.

The stages of a pipeline are declared with it. Those of a loop are known when the loop begins: until then its task
has read nothing and commits no offset (`Task.begun`). Then its stages are run (`Loops`), the first from where it would
have begun, and it goes on with the last topic. What the stage of a partition does comes from the loop on the same
partition, each time it begins, so that functions which the agent makes inside itself have what they need.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import length_hint
from typing import TYPE_CHECKING, Any, TypeAlias

from framework.agent import Agent
from framework.dead_letter import MAX_HEADERS_BYTES
from framework.effects import current
from framework.errors import DeclarationError, EncodeError
from framework.log import TopicSettings, partition_of
from framework.log.codec import NO_HEADERS, RECORD_OVERHEAD_BYTES
from framework.log.errors import Error
from framework.log.header import HEADER_BYTES
from framework.log.settings import RANGES
from framework.retry import Retry
from framework.returns import UNKNOWN, exact_json
from framework.source import Source
from framework.state import rows
from framework.stream import Stage, decoding, of_kind
from framework.topic import KEY_CACHE_ROWS, Topic

if TYPE_CHECKING:
    from framework.app import App
    from framework.concurrency import ConcurrentTask
    from framework.fetch import Fetch
    from framework.slice import Slice
    from framework.task import Task

SEGMENT_BYTES = 32 << 20
"""The topic between is removed a segment at a time, so this is about what it takes."""
FLUSH_BYTES = 1 << 20
MAX_KEY_BYTES = MAX_HEADERS_BYTES // 2
"""The topic between takes so much more than the stage's own, so that what is passed on as it was read fits."""
RECORD_BYTES = RECORD_OVERHEAD_BYTES - HEADER_BYTES
"""The most that a record takes beside key, value and headers, in a batch with others."""
Place: TypeAlias = tuple[bytes, Callable[[Any], None]]
logger = logging.getLogger("framework.repartition")


class Repartition(Topic[Any, Any]):
    """The topic behind a `group_by`: read by the next stage of the same agent and by nobody else."""

    def __init__(self, app: App, agent: str, stage: Stage, source: Topic[Any, Any]) -> None:
        """What *stage* of the agent sends, having read *source*.

        Raises:
            DeclarationError: Its values or keys cannot be stored.
            InvalidName: The names make none.
        """
        value_type = stage.type_of(source)
        key_type = str if stage.key_type is UNKNOWN else stage.key_type
        super().__init__(
            app,
            f"{app.name}.{agent}.{stage.name}.repartition",
            Any if value_type is UNKNOWN else value_type,
            key_type=key_type,
            overrides={"retention_ms": -1, "segment_bytes": SEGMENT_BYTES},
        )
        self.like = source
        if stage.raw:
            self.value_serde = source.value_serde  # Which is not always that of its type: see the next line.
        elif value_type is UNKNOWN:
            self.value_serde = exact_json(f"say group_by(..., name={stage.name!r}, type=...)")

    def settings(self) -> TopicSettings:
        """With room for the key, beside records as large as the source has."""
        assert self.like is not None
        most = self._app.topic_info(self.like).settings.max_message_bytes + MAX_HEADERS_BYTES
        return TopicSettings(
            retention_ms=-1,
            segment_bytes=SEGMENT_BYTES,
            max_message_bytes=min(most, int(RANGES["max_message_bytes"][1])),
        )


class Forward:
    """What one stage does: its operators, and sending on what comes out of them."""

    def __init__(self, stage: Stage, source: Topic[Any, Any], target: Topic[Any, Any]) -> None:
        """*stage* may be replaced while it runs, by the same one of a loop that has begun anew."""
        self.stage, self._source, self._target = stage, source, target

    async def run(self, task: Source) -> None:
        """Serve *task* until it ends."""
        task.grouped(())
        as_records, _ = self.stage.stream.steps()
        kind = None if as_records else task.kind
        stage: Stage | None = None
        async for values in task.slices(as_records=as_records, deadline=lambda: None, checked=kind is None):
            if stage is not self.stage:
                stage = self.stage
                grouping = None if stage.key is None else Grouping(stage, stage.key, self._target)
                _, operate = stage.stream.steps()
            with decoding(task):
                made = operate(values if kind is None else of_kind(values, kind))
                if grouping is None:
                    for value in made:
                        self._target.send(value)
                else:
                    grouping.gather(made, task.taken)
            if grouping is not None:
                grouping.flush()


class Grouping:
    """Finds keys and partitions, and sends a slice's records to each of them at once."""

    def __init__(self, stage: Stage, key: Callable[[Any], Any], target: Topic[Any, Any]) -> None:
        """*key* is the one of *stage*; *target* is open."""
        self._stage, self._key, self._target = stage, key, target
        self._info = target._app.topic_info(target)
        # Tuples as `NewRecord` has them, which takes longer to make than all the rest of a record here, but for no
        # headers an empty tuple: those with a list in them the garbage collector would look through again and again.
        self._gathered: list[list[Any]] = [[] for _ in range(self._info.partitions)]
        self._size = self._longest_key = 0
        self._known = Places(self._find)
        # Others may be equal and not the same, as 1 and True, or cannot be in a dict.
        self._hashed = target.key_type in (str, bytes)

    def gather(self, values: Iterator[Any], taken: Slice) -> None:
        """Take all *values*, made of those *taken*; they are sent by `flush`, or before if they are many.

        Raises:
            EncodeError: A key or value cannot be stored.
            RecordTooLarge: The topic does not take it.
        """
        stamps, headers = taken.stamps()
        if self._stage.raw and not headers:
            self._gather_as_read(values, taken, stamps)
            return
        encode = None if self._stage.raw else self._target.value_serde.encode
        for value in values:
            key = self._key(value)
            raw, add = self._known[key] if self._hashed else self._find(key)
            at = len(taken.items) - length_hint(taken.iterator) - 1
            data = taken.items[at] if encode is None else encode(value)
            self._size += self._info.check_record(raw, data, headers.get(at, NO_HEADERS))
            add((raw, data, stamps[at], headers.get(at, ())))
            if self._size > FLUSH_BYTES:
                self.flush()

    def _gather_as_read(self, values: Iterator[Any], taken: Slice, stamps: list[int]) -> None:
        """Values that nothing has changed fit: the topic takes larger ones than the stage's own."""
        key_of, known, find, hashed = self._key, self._known, self._find, self._hashed
        items, iterator = taken.items, taken.iterator
        if self._stage.stream.keeps_all and hashed:
            places = map(known.__getitem__, map(key_of, values))
            for (raw, add), data, stamp in zip(places, items, stamps, strict=False):
                add((raw, data, stamp, ()))
        else:
            for value in values:
                key = key_of(value)
                raw, add = known[key] if hashed else find(key)
                at = len(items) - length_hint(iterator) - 1
                add((raw, items[at], stamps[at], ()))
        self._size += sum(map(len, items)) + len(items) * (RECORD_BYTES + self._longest_key)

    def flush(self) -> None:
        """Let what was gathered join the commit."""
        effects, size = current.get(), self._size
        assert effects is not None
        self._size = 0
        for partition, gathered in enumerate(self._gathered):
            if gathered:
                effects.send_many(self._info, partition, gathered, size)
                size = 0
                gathered.clear()
        if len(self._known) > KEY_CACHE_ROWS:
            self._known.clear()

    def _find(self, key: Any) -> Place:
        """The bytes of *key*, and where its records are gathered."""
        if key is None:
            raise EncodeError(f"group_by {self._stage.name!r} was given None for a key: filter those values out before")
        if self._stage.key_type is UNKNOWN and not isinstance(key, str):
            kind = type(key).__name__
            raise DeclarationError(
                f"group_by {self._stage.name!r} was given the key {key!r}, of type {kind}; nothing says that keys are "
                f"not str: say group_by(..., key_type={kind})"
            )
        raw = self._target.key_serde.encode(key)
        self._longest_key = max(self._longest_key, len(raw))
        if len(raw) > MAX_KEY_BYTES:
            raise EncodeError(
                f"group_by {self._stage.name!r} was given a key of {len(raw)} bytes, {MAX_KEY_BYTES} is most"
            )
        return raw, self._gathered[partition_of(raw, self._info.partitions)].append


class Places(dict[Any, Place]):
    """Of each key its bytes and where it goes, found when it first comes."""

    def __init__(self, find: Callable[[Any], Place]) -> None:
        """Nothing is known yet; *find* does the work."""
        self._find = find

    def __missing__(self, key: Any) -> Place:
        place = self[key] = self._find(key)
        return place


def declare_stages(
    app: App, name: str, source: Topic[Any, Any], stages: Sequence[Stage], *, on_error: Retry | None
) -> tuple[list[Agent[Any, Any]], Topic[Any, Any]]:
    """The agents of the *stages* of a pipeline *name* that begins with *source*, and what the last of them sends to.

    Raises:
        DeclarationError, InvalidName: See `Repartition`.
    """
    agents: list[Agent[Any, Any]] = []
    for stage in stages:
        target = stage.target or Repartition(app, name, stage, source)
        agents.append(
            Agent(f"{name}.{stage.name}", source, None, Forward(stage, source, target).run, on_error=on_error)
        )
        source = target
    return agents, source


class Loops:
    """The stages of loops in one worker: known, and run, when the loops begin."""

    def __init__(
        self,
        app: App,
        start: Callable[[Agent[Any, Any], int], object],
        place: Callable[[Agent[Any, Any], int], tuple[Fetch, bool]],
    ) -> None:
        """*start* runs an agent on a partition; *place* is where one would begin, and whether it is new there."""
        self._app, self._start, self._place = app, start, place
        self._topics: dict[str, Topic[Any, Any]] = {}
        self._begun: dict[Task, list[Forward]] = {}

    def begin(self, task: Task, stages: Sequence[Stage]) -> None:
        """The agent of *task* begins a loop behind *stages*: run them, and let it read what the last one sends.

        Raises:
            DeclarationError: It has begun another one before, or its stages cannot work.
        """
        forwards = self._begun.get(task)
        if forwards is None:
            self._check_first(task, stages[0].name if stages else None)
            self._begun[task] = forwards = self._run(task, stages) if stages else []
        before, now = [forward.stage.name for forward in forwards], [stage.name for stage in stages]
        if before != now:
            raise DeclarationError(
                f"agent {task.agent.name!r} has begun a loop behind {before or 'no stages'}, and then one behind "
                f"{now or 'no stages'}: an agent reads its stream in one way. Declare two agents"
            )
        for forward, stage in zip(forwards, stages, strict=True):
            forward.stage = stage

    def _check_first(self, task: Task, name: str | None) -> None:
        """Another first stage would begin its topic anew, and handle again what the one before it has."""
        agent, partition = task.agent, task.fetch.partition
        for key, _ in task.effects.store.database.scan(b"o" + f"{agent.name}.".encode()):
            known, topic_id, number = rows.split_offset_key(key)
            same = (topic_id, number) == (partition.topic.id, partition.number)
            if same and known not in self._app.agents and known != f"{agent.name}.{name}":
                raise DeclarationError(
                    f"agent {agent.name!r} has read {agent.source.name!r} by its stage {known!r} so far: by "
                    f"{'itself' if name is None else f'{agent.name}.{name}'!r} it would handle the same records again. "
                    f"Keep group_by(..., name={known.removeprefix(agent.name + '.')!r}), or give the agent another "
                    "name to begin anew"
                )

    def _run(self, task: Task, stages: Sequence[Stage]) -> list[Forward]:
        agent, number = task.agent, task.fetch.partition.number
        count = self._app.topic_info(agent.source).partitions
        source, start, forwards = agent.source, task.fetch.offset, list[Forward]()
        before: list[Agent[Any, Any]] = []
        for stage in stages:
            target = self._target(agent, stage, source)
            partitions = self._app.topic_info(target).partitions
            if partitions != count:
                raise DeclarationError(
                    f"agent {agent.name!r}: through({target.name!r}) has {partitions} partitions and "
                    f"{agent.source.name!r} {count}: in a loop they must have as many; use app.stream(...)"
                )
            forward = Forward(stage, source, target)
            name = f"{agent.name}.{stage.name}"
            before.append(Agent(name, source, None, forward.run, start=start, on_error=agent.on_error))
            forwards.append(forward)
            source, start = target, 0
        behind = copy.copy(agent)
        behind.source, behind.start = source, "beginning"
        fetch, is_new = self._place(behind, number)
        # Only now, when nothing can fail any more: it does not begin to read before its stages run.
        for one in before:
            self._start(one, number)
        task.read_from(behind, fetch, is_new=is_new)
        return forwards

    def _target(self, agent: Agent[Any, Any], stage: Stage, source: Topic[Any, Any]) -> Topic[Any, Any]:
        """The same object for all partitions."""
        name = f"{agent.name}.{stage.name}"
        if name not in self._topics:
            self._topics[name] = stage.target or Repartition(self._app, agent.name, stage, source)
        return self._topics[name]


async def trim(tasks: Iterable[Task | ConcurrentTask]) -> None:
    """Remove what lies between two stages and is committed behind them, whole segments at a time."""
    for task in [task for task in tasks if isinstance(task.agent.source, Repartition)]:
        partition, durable = task.fetch.partition, task.durable
        below = [segment.base_offset for segment in partition.segments() if segment.base_offset <= durable]
        if len(below) > 1 and below[-1] > partition.log_start:
            try:
                await asyncio.to_thread(partition.delete_records, below[-1])
            except (Error, OSError) as error:
                logger.warning("%s cannot be trimmed: %s", partition.name, error)
