"""Commands to the worker that owns the jobs of a data directory, and their answers: records of two internal topics.

    __control          {"id", "at", "by", "command", "job", "arguments", "expires"}        times in milliseconds
    __control-replies  {"id", "at", "ok", "text", "exit", "runs", "done"}

Any process may append them, as it may append to any topic. They are kept for 30 days, so they are the record of who did
what, too: a command that is done without a worker is written down by who does it, with an `expires` of 0, and nobody
else does it. The worker notes in the jobs' database up to where it has come before it does what it read: a command is
done once or, if the worker dies at it, not at all, and then it has no answer. One that nobody took until it expires is
refused. What takes long is answered twice, first with `done` false: it is taken.
"""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

import orjson

from framework.jobs.backfill import Backfill
from framework.jobs.commands import Commands, Done
from framework.log import Log, Partition, TopicInfo, TopicSettings
from framework.log.errors import Error, TopicExists, UnknownTopic, UsageError
from framework.log.follow import Follower
from framework.log.locks import JOBS_LOCK
from framework.log.settings import INTERNAL
from framework.state import rows
from framework.state.errors import StateFailed
from framework.state.store import Commit

if TYPE_CHECKING:
    from framework.jobs.runner import JobRunner

CONTROL, REPLIES = f"{INTERNAL}control", f"{INTERNAL}control-replies"
KEPT_MS = 30 * 86_400_000
ANSWER_S = 10.0
"""How long a command waits for the worker to take it."""
LOOK_S = 0.25
"""How often who waits for an answer looks whether the worker is still there."""
RETRY_S = 1.0
"""How long the worker waits before it reads on, when the commands cannot be read."""
SLOW = frozenset({"backfill", "drop-backfill", "rewind"})
"""Commands that others do not wait for."""
T = TypeVar("T")
logger = logging.getLogger("framework.control")


@dataclass(frozen=True, slots=True)
class Order:
    """A command as it is written down."""

    id: str
    by: str
    command: str
    job: str
    arguments: dict[str, Any]
    expires: int
    at: int

    @classmethod
    def load(cls, document: Mapping[str, Any]) -> Order:
        """The command that *document* is.

        Raises:
            UsageError: It is none.
        """
        kinds = {"id": str, "by": str, "command": str, "job": str, "arguments": dict, "expires": int, "at": int}
        return cls(**{name: argument(document, name, kind) for name, kind in kinds.items()})


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a command."""

    id: str
    ok: bool
    text: str
    at: int = 0
    exit: int = 0
    """With which code its sender ends, if it was refused."""
    runs: list[str] = field(default_factory=list)
    done: bool = True
    """Whether it is the last one."""


class NoAnswer(Error):
    """A command that was sent to the worker has no answer."""


def argument(arguments: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """The argument *name* of a command, which is of that *kind*.

    Raises:
        UsageError: It is not.
    """
    value = arguments.get(name)
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        raise UsageError(f"the command has {name}={value!r}, it must be a {kind.__name__}")
    return value


def topic_of(log: Log, name: str) -> TopicInfo:
    """The internal topic *name*, made if it is not there."""
    try:
        return log.topic(name)
    except UnknownTopic:
        try:
            return log.create_topic(name, 1, TopicSettings(retention_ms=KEPT_MS))
        except TopicExists:  # Another process was faster.
            return log.topic(name)


def whoami() -> str:
    """Who gives commands here: user and process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"user {os.getuid()}"
    return f"{user}, process {os.getpid()}"


# Who sends them.


def send(log: Log, command: str, job: str, arguments: Mapping[str, Any], *, answer_s: float = ANSWER_S) -> Reply:
    """Have the worker do *command*; its answer, for which nobody waits longer than *answer_s* unless it is begun.

    Raises:
        NoAnswer: There was none.
    """
    begin = log.partition(topic_of(log, REPLIES), 0).high_watermark
    now_ms = log.clock.now_ms()
    order = Order(secrets.token_hex(8), whoami(), command, job, dict(arguments), now_ms + int(answer_s * 1000), now_ms)
    worker = log.shared.holder(JOBS_LOCK)
    with log.follow(REPLIES, begin) as following:
        _append(log, CONTROL, asdict(order))
        deadline = time.monotonic() + answer_s
        while True:
            is_there = log.shared.holder(JOBS_LOCK) == worker
            for reply in _replies(following, order.id):
                if reply.done:
                    return reply
                deadline = float("inf")
            if not is_there:
                raise NoAnswer(
                    f"the worker (process {worker}) has ended without an answer: the command was not done, or in part. "
                    f"Look with `framework jobs show {job}`, and try again"
                )
            if time.monotonic() >= deadline:
                raise NoAnswer(
                    f"the worker (process {worker}) has not taken the command within {answer_s:g} s, and will not do "
                    "it any more: see whether it hangs, and try again, with more --timeout if it is only slow"
                )
            following.doorbell.wait(min(LOOK_S, max(0.0, deadline - time.monotonic())))


def _replies(following: Follower, called: str) -> Iterator[Reply]:
    """The answers to one command among those there are now; anybody may have appended anything."""
    for _, record in following.take_nowait():
        document = _document(record.value)
        if document.get("id") == called:
            try:
                yield Reply(**document)
            except TypeError:
                logger.warning("an answer cannot be understood: %s", document)


def _document(value: bytes | None) -> dict[str, Any]:
    """The object in a record; an empty one if there is none."""
    try:
        found = orjson.loads(value or b"")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def noted(log: Log, command: str, job: str, arguments: Mapping[str, Any]) -> Iterator[Callable[[Done], None]]:
    """Write down a command that is done in the body, without a worker, and what came of it, which the body says."""
    order = Order(secrets.token_hex(8), whoami(), command, job, dict(arguments), 0, log.clock.now_ms())
    _append(log, CONTROL, asdict(order))
    reply = Reply(order.id, ok=False, text="it was not done", exit=1)

    def say(done: Done) -> None:
        nonlocal reply
        reply = Reply(order.id, ok=True, text=done.text, runs=done.runs)

    try:
        yield say
    except Error as error:
        reply = replace(reply, ok=False, text=str(error), exit=error.exit_code)
        raise
    except KeyboardInterrupt:
        reply = replace(reply, ok=False, text="interrupted", exit=130)
        raise
    finally:
        _append(log, REPLIES, asdict(replace(reply, at=log.clock.now_ms())))


def _append(log: Log, topic: str, document: Mapping[str, Any]) -> None:
    topic_of(log, topic)
    with log.producer() as producer:
        producer.send(topic, orjson.dumps(document)).result()


# Who does them.


async def obey(commands: Commands, order: Order) -> Done:
    """Do what *order* says; runs that it plans are not waited for.

    Raises:
        Error: It is refused.
    """
    job, arguments = order.job, order.arguments
    match order.command:
        case "pause":
            return await commands.pause(job, by=order.by, why=argument(arguments, "why", str))
        case "resume":
            return await commands.resume(job)
        case "cancel":
            run = None if arguments.get("run") is None else argument(arguments, "run", str)
            return await commands.cancel(job, run, by=order.by)
        case "run":
            row = await commands.plan_run(job)
            how = "is begun" if row.unfinished else "has no new records"
            return Done(f"run {row.id} {how}", [row.id])
        case "rewind":
            offsets = {int(number): int(at) for number, at in argument(arguments, "offsets", dict).items()}
            return await commands.rewind(job, offsets, empty=argument(arguments, "empty", bool))
        case "backfill":
            return (await commands.plan_backfill(job, wanted_of(arguments)))[0]
        case "drop-backfill":
            return await commands.drop_backfill(job, argument(arguments, "backfill", str))
    raise UsageError(f"there is no command {order.command!r} here: the worker is of another version than its sender")


class Control:
    """The worker's side."""

    name = CONTROL

    def __init__(self, runner: JobRunner, commands: Commands, *, well: Callable[[], None] = lambda: None) -> None:
        """Begins behind what an earlier worker has read; *well* is called when a commit was made."""
        self._runner, self._commands, self._log, self._well = runner, commands, runner.app.log, well

    async def run(self) -> None:
        """Do what comes, until cancelled.

        Raises:
            StateFailed: The disk takes no commits. What was read is done when it does, unless it has expired.
        """
        failure: str | None = None
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    try:
                        await self._follow(group)
                    except StateFailed:
                        raise
                    except (Error, OSError) as error:  # Deleted, damaged, no room for it: jobs and agents go on.
                        if str(error) != failure:
                            logger.error("commands cannot be read, and are tried again and again: %s", error)
                        failure = str(error)
                        await asyncio.sleep(RETRY_S)
        except* StateFailed as failures:
            raise failures.exceptions[0] from None

    async def _follow(self, group: asyncio.TaskGroup) -> None:
        info = topic_of(self._log, CONTROL)
        topic_of(self._log, REPLIES)
        partition = self._log.partition(info, 0)
        offset, version = self._offset(partition), self._log.catalogue_version
        while True:
            self._runner.rung.clear()
            if partition.high_watermark > offset:
                for _, record in self._log.read(CONTROL, max(offset, partition.log_start)):
                    offset = record.offset + 1
                    await self._note(info, offset)
                    await self._take(record.value, group)
            elif self._log.catalogue_version != version:
                version = self._log.catalogue_version
                if topic_of(self._log, CONTROL).id != info.id:
                    return  # Somebody has deleted it: from here on there is another one.
            else:
                await self._runner.rung.wait()

    def _offset(self, partition: Partition) -> int:
        """Where the worker before has stopped; if there was none, commands that have expired are refused."""
        stored = self._runner.store.database.get(rows.meta_key("control"))
        topic_id, offset = orjson.loads(stored) if stored is not None else ("", 0)
        return int(offset) if topic_id == partition.topic.id else partition.log_start

    async def _note(self, info: TopicInfo, offset: int) -> None:
        value = orjson.dumps([info.id, offset])
        await asyncio.to_thread(self._runner.store.commit, Commit([(rows.meta_key("control"), value)]))
        self._well()

    async def _take(self, value: bytes | None, group: asyncio.TaskGroup) -> None:
        document = _document(value)
        called = document.get("id")
        if not isinstance(called, str):
            logger.warning("a record of %s is no command: %.200r", CONTROL, value)
            return
        try:
            order = Order.load(document)
            if order.expires == 0:
                return  # Done by who wrote it down.
            if order.expires < self._log.clock.now_ms():
                raise UsageError(f"{order.command} of job {order.job} came too late: nobody waits for it any more")
        except UsageError as error:
            await self._refuse(called, error)
            return
        if order.command in SLOW:
            await self._reply(Reply(called, ok=True, text="taken", done=False))
            group.create_task(self._answer(order))
        else:
            await self._answer(order)

    async def _answer(self, order: Order) -> None:
        try:
            done = await obey(self._commands, order)
        except (Error, ValueError, TypeError, OverflowError, OSError) as error:
            await self._refuse(order.id, error)  # Whatever it says, the worker goes on.
        else:
            logger.info("%s of job %s by %s: %s", order.command, order.job, order.by, done.text)
            await self._reply(Reply(order.id, ok=True, text=done.text, runs=done.runs))

    async def _refuse(self, called: str, error: Exception) -> None:
        logger.warning("a command was refused: %s", error)
        plain = Error.exit_code if isinstance(error, OSError) else UsageError.exit_code
        code = error.exit_code if isinstance(error, Error) else plain
        await self._reply(Reply(called, ok=False, text=str(error), exit=code))

    async def _reply(self, reply: Reply) -> None:
        answer = asdict(replace(reply, at=self._log.clock.now_ms()))
        try:
            await asyncio.to_thread(_append, self._log, REPLIES, answer)
        except (Error, OSError) as error:
            logger.error("an answer could not be written: %s: %s", error, answer)


def arguments_of(wanted: Backfill) -> dict[str, Any]:
    """*wanted* as the arguments of a command."""
    split = wanted.split
    return {
        "since": wanted.since.isoformat(),
        "until": wanted.until.isoformat(),
        "split": split if split is None or isinstance(split, str) else split.total_seconds(),
        "tables": wanted.tables,
        "max_active": wanted.max_active,
    }


def wanted_of(arguments: Mapping[str, Any]) -> Backfill:
    """What `arguments_of` says; `Backfill.check` is for what it means.

    Raises:
        UsageError, ValueError, OverflowError: It says something else.
    """
    split = arguments.get("split")
    return Backfill(
        datetime.fromisoformat(argument(arguments, "since", str)),
        datetime.fromisoformat(argument(arguments, "until", str)),
        timedelta(seconds=split) if isinstance(split, int | float) else cast(Any, split),
        cast(Any, argument(arguments, "tables", str)),
        argument(arguments, "max_active", int),
    )
