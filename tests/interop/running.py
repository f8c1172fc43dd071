"""Runs the scenarios with one client, several at once, and says of each how it went."""

from __future__ import annotations

import asyncio
import re
import traceback
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from confluent_kafka.admin import AdminClient

from framework.log import Log
from tests.interop.clients import Client
from tests.interop.driver import Driver, HasNone, started
from tests.interop.scenarios import SCENARIOS
from tests.interop.stage import Served, Stage

AT_ONCE = 4
"""Scenarios wait for sessions and heartbeats most of their time."""


@dataclass(frozen=True)
class Outcome:
    """How one scenario went: `ok`, `none` or `failed`, and why."""

    word: str
    why: str = ""


async def outcomes(client: Client, served: Served, names: Iterable[str] = SCENARIOS) -> dict[str, Outcome]:
    """Run the scenarios *names* with drivers of *client*; all of them, whatever becomes of one."""
    found: dict[str, Outcome] = {}
    idle: list[Driver] = []
    seats = asyncio.Semaphore(AT_ONCE)
    async with AsyncExitStack() as exits:
        log = exits.enter_context(Log(served.data))
        judge = AdminClient({"bootstrap.servers": served.address})

        async def run(name: str) -> None:
            held: list[Driver] = []

            async def borrow() -> Driver:
                if not idle:
                    idle.append(await exits.enter_async_context(started(client.command, served.address)))
                held.append(idle.pop())
                return held[-1]

            async with seats:
                stage = Stage(f"{client.name}-{re.sub('[^a-z0-9]+', '-', name.lower())}", log, judge, borrow)
                found[name] = await outcome(name, stage)
                for driver in held:
                    # One that was killed, or may be anywhere in a failed scenario, is of no use to others.
                    if found[name].word == "failed" or not await driver.left():
                        await driver.kill()
                    else:
                        idle.append(driver)

        async with asyncio.TaskGroup() as tasks:
            for name in names:
                tasks.create_task(run(name))
    return {name: found[name] for name in names}


async def outcome(name: str, stage: Stage) -> Outcome:
    """Run one."""
    try:
        await SCENARIOS[name](stage)
    except HasNone as none:
        return Outcome("none", str(none))
    except Exception as error:  # noqa: BLE001 - whatever went wrong is what the matrix tells
        return Outcome("failed", "".join(traceback.format_exception(error)))
    return Outcome("ok")
