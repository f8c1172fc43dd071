"""What handlers of requests work with: the node that they run on, and the client who asks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from framework.log.broker.memory import Memory
from framework.log.broker.readers import Readers
from framework.log.broker.sent_before import SentBefore
from framework.log.broker.settings import BrokerSettings
from framework.log.broker.waiting import Bell, Relay
from framework.log.log import Log
from framework.log.settings import INTERNAL

T = TypeVar("T")
logger = logging.getLogger("framework.broker")


@dataclass(slots=True)
class Node:
    """A running broker, as its handlers see it."""

    log: Log
    settings: BrokerSettings
    cluster_id: str
    address: tuple[str, int]
    """Where clients reach it."""
    relay: Relay
    bell: Bell
    memory: Memory
    readers: Readers
    sent_before: SentBefore
    reading: Executor
    """Threads that wait for the disk, for those who read."""
    working: Executor
    """Threads for everything else that would hold up the loop."""
    checking: Executor
    """Threads that look through what producers sent, who must not wait for any of that."""
    handlers: Mapping[str, Callable[[Context, int, Any], Any]]
    """Who answers which API, by its name."""
    said: set[str] = field(default_factory=set)

    async def in_thread(self, call: Callable[..., T], *arguments: object) -> T:
        """The result of *call*, which may take its time."""
        return await asyncio.get_running_loop().run_in_executor(self.working, call, *arguments)

    def warn_once(self, text: str) -> None:
        """Say that something is wrong with the data, however often clients ask for it."""
        if text not in self.said and len(self.said) < _MAX_SAID:
            self.said.add(text)
            logger.warning("%s", text)


@dataclass(slots=True)
class Client:
    """Who is at the other end of a connection."""

    number: int
    host: str
    peer: str
    """Address and port, for people."""
    client_id: str | None = None
    software: str = ""
    """Name and version, if it has said them."""
    turns: int = 0

    def next_turn(self) -> int:
        """A number that is one more each time."""
        self.turns += 1
        return self.turns

    def __str__(self) -> str:
        named = [f"client {_printable(self.client_id)!r}"] if self.client_id else []
        return ", ".join([self.peer, *named, *([_printable(self.software)] if self.software else [])])


class Context(NamedTuple):
    """Who asks whom."""

    node: Node
    client: Client


class HangUp(Exception):
    """There is no other way to tell a client that something went wrong than to end its connection."""


def is_internal(topic: str) -> bool:
    """Whether *topic* is one that clients may only read."""
    return topic.startswith(INTERNAL)


def _printable(text: str) -> str:
    """What a client calls itself, in a line of a log: neither more lines nor endless ones."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_MAX_NAME])


_MAX_SAID = 1000
_MAX_NAME = 100
