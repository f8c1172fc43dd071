"""The process in which the handler of a job runs: `python -m framework.jobs.child CONNECTION ALIVE`.

It imports the app, opens the log for reading, and calls the handler with effects that are gathered here as in any run.
Where they need the store, they have one that asks the worker: for rows, and to make a chunk's commit true.
"""

from __future__ import annotations

import asyncio
import importlib
import io
import logging
import os
import socket
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import orjson

from framework.clock import ManualClock
from framework.dead_letter import TRACEBACK_BYTES, describe
from framework.discover import import_file
from framework.errors import DeclarationError
from framework.jobs.attempt import Attempt
from framework.jobs.job import Job
from framework.jobs.runner import FINAL
from framework.jobs.runs import RunRow
from framework.jobs.wire import Field, Wire, number, pack_sent
from framework.log import NewRecord, TopicInfo
from framework.log.clock import EPOCH
from framework.state.store import Commit, Store

if TYPE_CHECKING:
    from framework.app import App


class AskedDatabase:
    """The rows of the jobs' database, as the worker that owns it gives them."""

    def __init__(self, wire: Wire) -> None:
        """Asks over *wire*."""
        self._wire = wire

    def get(self, key: bytes) -> bytes | None:
        """The value of row *key*."""
        (value,) = self._wire.ask(b"get", key)
        return value

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """The rows whose keys begin with *prefix*, from *prefix + start* on."""
        while found := cast("list[bytes]", self._wire.ask(b"scan", prefix, start)):
            yield from zip(found[::2], found[1::2], strict=True)
            start = found[-2][len(prefix) :] + b"\0"


class AskedStore:
    """What effects need of a `Store`, by way of the worker that owns it."""

    failure = None

    def __init__(self, wire: Wire, owners: dict[str, str], senders: set[str]) -> None:
        """*owners* and *senders* as the worker knows them."""
        self.database, self.lock = AskedDatabase(wire), threading.RLock()
        self.owners, self.senders = owners, senders
        self._wire = wire
        self._sent: list[Field] = []

    def send(self, _: Commit, sent: Mapping[tuple[TopicInfo, int], Sequence[NewRecord]]) -> None:
        """Have *sent* go with the next commit: the worker makes batches of it."""
        self._sent = list(pack_sent(sent))

    def commit(self, commit: Commit) -> None:
        """Have the worker make *commit* true; returns when it is durable."""
        rows = [field for change in commit.changes for field in change]
        self._wire.ask(b"commit", number(len(commit.changes)), *rows, *self._sent)
        self._sent = []


def main() -> None:
    """Do what the worker says, once."""
    connection, alive = int(sys.argv[1]), int(sys.argv[2])
    threading.Thread(target=_die_with_worker, args=(alive,), daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # What the handler prints is seen, however this process ends.
    wire = Wire(socket.socket(fileno=connection))
    (beginning,) = wire.receive()
    assert beginning is not None
    told = orjson.loads(beginning)
    job: Job | None = None
    try:
        job = _job(told)
        asyncio.run(_call(job, wire, told))
    except Exception as error:  # whatever it is, the worker supervises it
        again = job is not None and isinstance(error, job.policies.retries.on) and not isinstance(error, FINAL)
        trace = "".join(traceback.format_exception(error))[-TRACEBACK_BYTES:]
        wire.send(b"failed", describe(error).encode(), trace.encode(), b"again" if again else b"final")
    else:
        wire.send(b"done")


def _die_with_worker(alive: int) -> None:
    """The worker has the other end, and never writes to it: when there is something to read, it is gone."""
    os.read(alive, 1)
    os._exit(1)


def _job(told: Mapping[str, Any]) -> Job:
    """The job, from the module that declares it."""
    sys.path[:] = told["path"]
    name, file = told["module"], told["file"]
    if name == "__main__" or name.startswith("framework_app_"):
        module = import_file(Path(file))
    else:
        module = importlib.import_module(name)
    found = [each for each in vars(module).values() if isinstance(each, Job) and each.name == told["job"]]
    if not found:
        raise DeclarationError(
            f"module {name} does not hold the job {told['job']!r} when it is imported anew, in a process of its own: "
            f"declare it there, where its function {told['name']} is defined"
        )
    return found[0]


async def _call(job: Job, wire: Wire, told: Mapping[str, Any]) -> None:
    app: App = job.app
    if told["clock_ms"] is not None:  # The app is tested, at a time that stands still.
        app.clock = ManualClock(EPOCH + timedelta(milliseconds=told["clock_ms"]))
    app.place = Path(told["data"])
    app.open(create=False)
    store = AskedStore(wire, told["owners"], set(told["senders"]))
    try:
        async with app.living():
            await asyncio.to_thread(Attempt(app, cast(Store, store), job, RunRow(**told["row"])).call)
    finally:
        app.close()


if __name__ == "__main__":
    main()
