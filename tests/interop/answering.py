"""What a driver is: a process that has one client, is told what to do with it line by line, and answers each line.

    command    {"call": "read", "topic": "flights", "partition": 0, "offset": 17, "count": 3}
    answer     {"ok": what the call gives}
             | {"refused": Kafka's error code, "text": "..."}     the broker, or the client in its place, refused
             | {"none": "why"}                                    the client has nothing that does this
             | {"failed": "..."}                                  anything else: a bug of somebody

The calls, alike in every driver:

    produce(topic, records, codec, acks, idempotent)     records are [partition, value, time in ms or null]
    read(topic, partition, offset, count)                gives [offset, value, time]
    read_since(topic, partition, time_ms, count)         the same, from the first record of that time or later
    join(group, topic, instance, session_ms, cooperative)             be a member, from the beginning of the topic on
    state()                                              assigned partitions, records read so far, how often assigned
    commit(), leave()                                    what was read so far; in good order, if it is a member
    create_topic(topic, partitions, config), delete_topic(topic), topics(), partitions(topic),
    add_partitions(topic, total)
    config(topic), alter_config(topic, config), ends(topic, partition)
    groups(), group(group), committed(group, topic), set_committed(group, topic, offsets), delete_group(group)
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

LIMIT_S = 20.0
"""How long a client may take for one call."""
TURN_S = 0.02
"""How long a member that has to be polled waits for records before it looks for the next command."""

Code = Callable[[Exception], int | None]
"""Kafka's error code of what a client raises, if it is one."""


class HasNone(Exception):
    """The client has nothing that does this."""


class Refused(Exception):
    """Kafka's error code, where a client tells it otherwise than by raising."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def member_options(address: str, group: str, instance: str | None, session_ms: int) -> dict[str, Any]:
    """How a member of a group is set up, as two of the clients call it."""
    return {
        "bootstrap_servers": address,
        "group_id": group,
        "group_instance_id": instance,
        "session_timeout_ms": session_ms,
        "heartbeat_interval_ms": 200,
        "auto_offset_reset": "earliest",
        "enable_auto_commit": False,
    }


class Member:
    """What a member of a group has seen."""

    def __init__(self) -> None:
        self.assigned: list[int] = []
        self.assignments = 0
        self.records: list[tuple[int, int, str]] = []

    def assign(self, partitions: list[int]) -> None:
        """These are all that it has now."""
        self.assigned, self.assignments = sorted(partitions), self.assignments + 1

    def state(self) -> dict[str, Any]:
        """As it is answered."""
        return {"assigned": self.assigned, "assignments": self.assignments, "records": self.records}

    def positions(self) -> dict[int, int]:
        """The offset behind the last record read of each partition."""
        return {partition: offset + 1 for partition, offset, _ in self.records}


def serve(driver: Any, code: Code) -> None:
    """Answer commands until there are no more; a member is polled in between, with `turn`."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def take() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put("")

    threading.Thread(target=take, daemon=True).start()
    while True:
        try:
            line = lines.get(block=driver.member is None)
        except queue.Empty:
            driver.turn()
            continue
        if not line:
            return
        command = json.loads(line)
        try:
            answer: dict[str, Any] = {"ok": getattr(driver, command.pop("call"))(**command)}
        except Exception as error:  # noqa: BLE001 - what a client raises is what is looked for
            answer = told(error, code)
        print(json.dumps(answer), flush=True)


async def serve_async(driver: Any, code: Code) -> None:
    """The same for a client that lives in an event loop."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        try:
            answer: dict[str, Any] = {"ok": await getattr(driver, command.pop("call"))(**command)}
        except Exception as error:  # noqa: BLE001 - what a client raises is what is looked for
            answer = told(error, code)
        print(json.dumps(answer), flush=True)


def told(error: Exception, code: Code) -> dict[str, Any]:
    """An error as an answer."""
    if isinstance(error, HasNone):
        return {"none": str(error)}
    number = error.code if isinstance(error, Refused) else code(error)
    if number is not None:
        return {"refused": number, "text": str(error)}
    return {"failed": "".join(traceback.format_exception(error))}
