"""Commands to the worker that owns the jobs of a data directory, and their answers: records of two internal topics.

    __control          {"id", "at", "by", "command", "job", "arguments", "expires"}        times in milliseconds
    __control-replies  {"id", "at", "ok", "text", "exit", "runs"}

Any process may append them, as it may append to any topic. They are kept for 30 days, so they are the record of who did
what, too. The worker notes in the jobs' database up to where it has come before it does what it read: a command is done
once or, if the worker dies at it, not at all, and then it has no answer. One that nobody took until it expires is
refused.
"""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import orjson

from framework.jobs.backfill import Backfill
from framework.jobs.commands import Commands, Done, argument
from framework.log import Log, Partition, TopicInfo, TopicSettings
from framework.log.errors import Error, TopicExists, UnknownTopic, UsageError
from framework.state import rows
from framework.state.errors import StateFailed
from framework.state.store import Commit

if TYPE_CHECKING:
    from framework.jobs.runner import JobRunner

CONTROL, REPLIES = "__control", "__control-replies"
KEPT_MS = 30 * 86_400_000
ANSWER_S = 10.0
"""How long a command waits for the worker to take it and, as a rule, to answer."""
SLOW = frozenset({"backfill", "drop-backfill"})
"""Commands that others do not wait for."""
logger = logging.getLogger("framework.control")


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


class NoAnswer(Error):
    """A command that was sent to the worker has no answer."""


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


def send(log: Log, command: str, job: str, arguments: Mapping[str, Any], *, timeout_s: float = ANSWER_S) -> Reply:
    """Have the worker do *command*; its answer.

    Raises:
        NoAnswer: There was none.
    """
    replies = log.partition(topic_of(log, REPLIES), 0)
    begin, called = replies.high_watermark, secrets.token_hex(8)
    now_ms = log.clock.now_ms()
    _append(
        log,
        CONTROL,
        {
            "id": called,
            "at": now_ms,
            "by": whoami(),
            "command": command,
            "job": job,
            "arguments": dict(arguments),
            "expires": now_ms + int(ANSWER_S * 1000),
        },
    )
    deadline = time.monotonic() + timeout_s
    with log.follow(REPLIES, begin, timeout_s=timeout_s) as following:
        for _, record in following:
            document = orjson.loads(record.value or b"{}")
            if document.get("id") == called:
                return Reply(**document)
            if time.monotonic() > deadline:
                break
    raise NoAnswer(
        f"the worker has not answered within {timeout_s:g} s, so the command was not done, or the worker died at it. "
        "Look with `framework jobs show`, and try again"
    )


def note(log: Log, command: str, job: str, arguments: Mapping[str, Any], reply: Reply) -> None:
    """Write down a command that was done without a worker, for the record."""
    document = {"id": reply.id, "at": log.clock.now_ms(), "by": whoami(), "command": command, "job": job}
    _append(log, CONTROL, {**document, "arguments": dict(arguments), "expires": 0})
    _append(log, REPLIES, asdict(reply))


def _append(log: Log, topic: str, document: Mapping[str, Any]) -> None:
    topic_of(log, topic)
    with log.producer() as producer:
        producer.send(topic, orjson.dumps(document)).result()


# Who does them.


class Control:
    """The worker's side."""

    def __init__(self, runner: JobRunner, commands: Commands) -> None:
        """Begins behind what an earlier worker has read."""
        self._runner, self._commands, self._log = runner, commands, runner.app.log
        self._known: dict[str, Callable[[str, Mapping[str, Any], str], Any]] = {
            "pause": self._pause,
            "resume": lambda job, _, __: commands.resume(job),
            "cancel": self._cancel,
            "run": self._run,
            "rewind": self._rewind,
            "backfill": self._backfill,
            "drop-backfill": self._drop,
        }

    async def run(self) -> None:
        """Do what comes, until cancelled.

        Raises:
            StateFailed: The disk takes no commits.
        """
        try:
            async with asyncio.TaskGroup() as group:
                await self._follow(group)
        except* StateFailed as failures:
            raise failures.exceptions[0] from None

    async def _follow(self, group: asyncio.TaskGroup) -> None:
        info = topic_of(self._log, CONTROL)
        topic_of(self._log, REPLIES)
        partition = self._log.partition(info, 0)
        offset = self._offset(partition)
        while True:
            if partition.high_watermark > offset:
                for _, record in self._log.read(CONTROL, max(offset, partition.log_start)):
                    offset = record.offset + 1
                    await self._note(info, offset)
                    await self._take(record.value or b"{}", group)
            else:
                await self._runner.rung.wait()
                self._runner.rung.clear()

    def _offset(self, partition: Partition) -> int:
        stored = self._runner.store.database.get(rows.meta_key("control"))
        topic_id, offset = orjson.loads(stored) if stored is not None else ("", 0)
        return int(offset) if topic_id == partition.topic.id else partition.high_watermark

    async def _note(self, info: TopicInfo, offset: int) -> None:
        value = orjson.dumps([info.id, offset])
        await asyncio.to_thread(self._runner.store.commit, Commit([(rows.meta_key("control"), value)]))

    async def _take(self, value: bytes, group: asyncio.TaskGroup) -> None:
        document: Any = None
        with suppress(ValueError):
            document = orjson.loads(value)
        if not isinstance(document, dict) or document.get("expires") == 0:
            return  # Done by who wrote it down; or whatever it is.
        if document.get("command") in SLOW:
            group.create_task(self._answer(document))
        else:
            await self._answer(document)

    async def _answer(self, document: Mapping[str, Any]) -> None:
        called = str(document.get("id"))
        try:
            by, command = document["by"], document["command"]
            if document["expires"] < self._log.clock.now_ms():
                raise UsageError("it came too late: nobody waits for it any more")
            if command not in self._known:
                raise UsageError(f"there is no command {command!r} here; there are {', '.join(self._known)}")
            done: Done = await self._known[command](document["job"], document["arguments"], by)
            reply = Reply(called, ok=True, text=done.text, runs=done.runs, at=self._log.clock.now_ms())
            logger.info("%s of job %s by %s: %s", command, document["job"], by, done.text)
        except (Error, KeyError, TypeError, ValueError) as error:
            # Whatever somebody has appended there, the worker goes on.
            code = getattr(error, "exit_code", 1)
            reply = Reply(called, ok=False, text=str(error), exit=code, at=self._log.clock.now_ms())
            logger.warning("a command was refused: %s", error)
        await asyncio.to_thread(_append, self._log, REPLIES, asdict(reply))

    async def _pause(self, job: str, arguments: Mapping[str, Any], by: str) -> Done:
        return await self._commands.pause(job, by=by, why=argument(arguments, "why", str))

    async def _cancel(self, job: str, arguments: Mapping[str, Any], by: str) -> Done:
        return await self._commands.cancel(job, arguments.get("run"), by=by)

    async def _run(self, job: str, _: Mapping[str, Any], __: str) -> Done:
        row = await self._commands.plan_run(job)
        self._runner.changed(self._commands.job(job)).set()
        return Done(f"run {row.id} is begun", [row.id])

    async def _rewind(self, job: str, arguments: Mapping[str, Any], _: str) -> Done:
        offsets = {int(number): int(at) for number, at in argument(arguments, "offsets", dict).items()}
        return await self._commands.rewind(job, offsets, empty=argument(arguments, "empty", bool))

    async def _backfill(self, job: str, arguments: Mapping[str, Any], _: str) -> Done:
        planned = await self._commands.plan_backfill(job, wanted_of(arguments))
        self._runner.backfills_wanted(self._commands.job(job)).set()
        return Done(f"backfill {planned[0].backfill} is begun, {len(planned)} runs", [row.id for row in planned])

    async def _drop(self, job: str, arguments: Mapping[str, Any], _: str) -> Done:
        return await self._commands.drop_backfill(job, argument(arguments, "backfill", str))


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
    """What `arguments_of` says.

    Raises:
        UsageError: It says something else.
    """
    split = arguments.get("split")
    return Backfill(
        datetime.fromisoformat(argument(arguments, "since", str)),
        datetime.fromisoformat(argument(arguments, "until", str)),
        timedelta(seconds=split) if isinstance(split, int | float) else cast(Any, split),
        cast(Any, argument(arguments, "tables", str)),
        argument(arguments, "max_active", int),
    )
