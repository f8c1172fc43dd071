"""Handlers in a process of their own, for jobs that compute: `executor="process"`, seen from the worker.

The process is started anew (`framework.jobs.child`), never forked. It imports the app, reads the log by itself, and
calls the handler; rows of tables it asks the worker for, and what a chunk does it hands over, to be committed here. So
there is one owner of the state, and a process that is killed at any moment leaves nothing half done. It dies with its
worker.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from dataclasses import asdict
from itertools import islice

import orjson

from framework.errors import RaisedElsewhere, RunStopped
from framework.jobs.attempt import Attempt
from framework.jobs.runs import RunRow, run_key
from framework.jobs.wire import Field, Sent, Wire, text, unpack_sent
from framework.state.store import Commit

SCAN_ROWS = 1000
"""How many rows of a table are handed over at once."""


class ProcessAttempt(Attempt):
    """An attempt whose handler runs in another process."""

    _process: subprocess.Popen[bytes] | None = None

    def call(self) -> None:
        """Start the process and do what it asks, until it has ended; in a thread.

        Raises:
            RaisedElsewhere: The handler raised, or the process has died.
        """
        ours, theirs = socket.socketpair()
        alive, watched = os.pipe()
        with ExitStack() as exits:
            wire = Wire(ours)
            exits.callback(wire.close)
            exits.callback(os.close, watched)  # What the process watches is our end: it dies when that is closed.
            try:
                self._process = self._start(theirs, alive)
            finally:
                theirs.close()
                os.close(alive)
            exits.callback(self._process.wait)
            exits.callback(self._process.kill)
            with suppress(EOFError, OSError):
                wire.send(self._beginning())
                while self._answer(wire, wire.receive()):
                    pass
                return
            if self._stopping is not None:
                raise self._stopping
            code = self._process.wait()
            raise RaisedElsewhere(f"the process of run {self._row.id} has died with exit code {code}", "", again=True)

    def stop(self, error: RunStopped) -> None:
        """End the process; what it has not committed is done again."""
        super().stop(error)
        if self._process is not None:
            self._process.kill()

    def _start(self, connection: socket.socket, alive: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "framework.jobs.child", str(connection.fileno()), str(alive)]
        # In a session of its own: Ctrl-C is for the worker, which ends what it has begun.
        return subprocess.Popen(command, pass_fds=(connection.fileno(), alive), start_new_session=True)  # noqa: S603  # our own module

    def _beginning(self) -> bytes:
        function = self._job.function
        module = sys.modules[function.__module__]
        return orjson.dumps(
            {
                "module": function.__module__,
                "file": getattr(module, "__file__", None),
                "name": function.__qualname__,
                "job": self._job.name,
                "data": str(self._app.data),
                "path": sys.path,
                "row": asdict(self._row),
                "owners": self._store.owners,
                "senders": sorted(self._store.senders),
            }
        )

    def _answer(self, wire: Wire, asked: list[Field]) -> bool:
        """Do what the process asks; whether it goes on."""
        what, fields = asked[0], iter(asked[1:])
        if what == b"get":
            (key,) = fields
            assert key is not None
            wire.send(self._store.database.get(key))
        elif what == b"scan":
            prefix, start = fields
            assert prefix is not None
            found = islice(self._store.database.scan(prefix, start or b""), SCAN_ROWS)
            wire.send(*(field for row in found for field in row))
        elif what == b"commit":
            count = int(text(next(fields)))
            changes = {}
            for key, value in zip(*[islice(fields, 2 * count)] * 2, strict=True):
                assert key is not None
                changes[key] = value
            self._commit_theirs(changes, unpack_sent(fields))
            wire.send()
        elif what == b"failed":
            error, trace, again = map(text, fields)
            raise RaisedElsewhere(error, trace, again=again == "again")
        return what != b"done"

    def _commit_theirs(self, changes: dict[bytes, bytes | None], sent: Sent) -> None:
        """Make true what the process has done in a chunk, unless the run is somebody else's by now."""
        topics = {name: self._app.log.topic(name) for name, _ in sent}
        with self.committing():
            commit = Commit(list(changes.items()))
            self._store.send(commit, {(topics[name], number): records for (name, number), records in sent.items()})
            self._store.commit(commit)
            for key, value in changes.items():
                if key.startswith(b"w") and value is not None:
                    self._store.owners[key[1:].decode()] = value.decode()
                elif key.startswith(b"q"):
                    self._store.senders.add(key[1:].decode())
            stored = changes[run_key(self._row.job, self._row.id)]
            assert stored is not None
            self._row.become(RunRow.load(stored))
