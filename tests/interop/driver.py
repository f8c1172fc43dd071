"""The side of the tests: starts a driver, tells it what to do, and takes what it answers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CALL_S = 60.0
"""More than a client may take by itself."""
MOST_BYTES = 64 << 20


class HasNone(Exception):
    """The client has nothing that does this; why."""


class Refused(Exception):
    """The broker refused, with this code of Kafka's."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code


class Failed(Exception):
    """A driver failed, or said nothing; with all that it said otherwise."""


@dataclass(frozen=True)
class Driver:
    """A running driver, for one scenario at a time."""

    process: asyncio.subprocess.Process
    log: Path

    async def __call__(self, call: str, **arguments: Any) -> Any:
        """Have it done, and give what comes of it.

        Raises:
            HasNone: The client has no such thing.
            Refused: The broker refused it.
            Failed: Anything else.
        """
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            async with asyncio.timeout(CALL_S):
                stdin.write(json.dumps({"call": call, **arguments}).encode() + b"\n")
                await stdin.drain()
                line = await stdout.readline()
        except (TimeoutError, ConnectionError):
            line = b""
        if not line:
            raise Failed(f"{call} was not answered within {CALL_S:.0f} s; the driver said:\n{self.said()}")
        answer = json.loads(line)
        if "none" in answer:
            raise HasNone(answer["none"])
        if "refused" in answer:
            raise Refused(answer["refused"], answer["text"])
        if "failed" in answer:
            raise Failed(f"{call}: {answer['failed']}\n{self.said()}")
        return answer["ok"]

    def said(self) -> str:
        """The end of what it wrote to its standard error."""
        return self.log.read_text(errors="replace")[-3000:]

    async def left(self) -> bool:
        """Leave the group, if it is in one; whether it is of use to others then."""
        if self.process.returncode is not None:
            return False
        await self("leave")
        return True

    async def kill(self) -> None:
        """As the system kills: no member says farewell. The driver may have a child that is the client."""
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def started(command: Sequence[str], address: str) -> AsyncIterator[Driver]:
    """A driver that is ended with the block."""
    with tempfile.NamedTemporaryFile(prefix="driver-") as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            address,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            limit=MOST_BYTES,
            start_new_session=True,
        )
        driver = Driver(process, Path(log.name))
        try:
            yield driver
        finally:
            await driver.kill()


def python(name: str) -> list[str]:
    """The command of a driver in Python."""
    return [sys.executable, "-m", f"tests.interop.{name}"]
