"""Handlers in a process of their own, for jobs that compute: `executor="process"`, seen from the worker.

The process is started anew (`framework.jobs.child`), never forked. It imports the app, reads the log by itself, and
calls the handler; rows of tables it asks the worker for, and what a chunk does it hands over, to be committed here. So
there is one owner of the state, and a process that is killed at any moment leaves nothing half done. It dies with its
worker. Each attempt starts one: about half a second of a core, most of it for importing the framework, and as long as
the app's modules take.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from dataclasses import asdict
from itertools import islice

import orjson

from framework.clock import ManualClock
from framework.errors import RaisedElsewhere, RunStopped, TableOwned
from framework.jobs.attempt import Attempt
from framework.jobs.runs import RunRow, run_key
from framework.jobs.wire import Field, Sent, Wire, text, unpack_sent
from framework.state.store import Commit

END_GRACE_S = 5.0
"""How long a process may take to end that has done its work; then it is killed."""
SCAN_ROWS = 1000
"""How many rows of a table are handed over at once."""


class ProcessAttempt(Attempt):
    """An attempt whose handler runs in another process."""

    _process: subprocess.Popen[bytes] | None = None
    _over = False

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
            if self._over:
                self._process.kill()
            if self._serve(wire):
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(END_GRACE_S)
                return
            if self._stopping is not None:
                raise self._stopping
            try:
                how = ended_how(self._process.wait(END_GRACE_S))
            except subprocess.TimeoutExpired:
                how = "has closed its connection"
            raise RaisedElsewhere(f"the process of run {self._row.id} {how}", "", again=True)

    def stop(self, error: RunStopped) -> None:
        """End the process; what it has not committed is done again."""
        super().stop(error)
        self._end()

    def revoke(self) -> None:
        """Refuse what the process may want to do, and end it; waits for a commit under way."""
        super().revoke()
        self._end()

    def _end(self) -> None:
        self._over = True
        if self._process is not None:
            self._process.kill()

    def _serve(self, wire: Wire) -> bool:
        """Do what the process asks, until it has done its work; whether it has."""
        try:
            wire.send(self._beginning())
        except OSError:
            return False
        while True:
            # Not around what is done here: an error of the disk is none of the process, which would wait for ever.
            try:
                asked = wire.receive()
            except (EOFError, OSError):
                return False
            if asked[0] == b"done":
                return True
            answer = self._answer(asked)
            try:
                wire.send(*answer)
            except OSError:
                return False

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
                "clock_ms": clock.now_ms() if isinstance(clock := self._app.clock, ManualClock) else None,
                "owners": self._store.owners,
                "senders": sorted(self._store.senders),
            }
        )

    def _answer(self, asked: list[Field]) -> list[Field]:
        """Do what the process asks; the answer."""
        what, fields = asked[0], iter(asked[1:])
        if what == b"get":
            (key,) = fields
            assert key is not None
            return [self._store.database.get(key)]
        if what == b"scan":
            prefix, start = fields
            assert prefix is not None
            found = islice(self._store.database.scan(prefix, start or b""), SCAN_ROWS)
            return [field for row in found for field in row]
        if what == b"commit":
            count = int(text(next(fields)))
            changes = {}
            for key, value in zip(*[islice(fields, 2 * count)] * 2, strict=True):
                assert key is not None
                changes[key] = value
            self._commit_theirs(changes, unpack_sent(fields))
            return []
        assert what == b"failed", f"the process of run {self._row.id} asks for {what!r}"
        error, trace, again = map(text, fields)
        raise RaisedElsewhere(error, trace, again=again == "again")

    def _commit_theirs(self, changes: dict[bytes, bytes | None], sent: Sent) -> None:
        """Make true what the process has done in a chunk, unless the run is somebody else's by now."""
        topics = {name: self._app.log.topic(name) for name, _ in sent}
        with self.committing():
            owners = {key[1:].decode(): value.decode() for key, value in changes.items() if key[:1] == b"w" and value}
            for table, owner in owners.items():
                if self._store.owners.get(table, owner) != owner:  # Since the process was told.
                    raise TableOwned(f"table {table!r} is written by {self._store.owners[table]!r}, not by {owner!r}")
            commit = Commit(list(changes.items()))
            self._store.send(commit, {(topics[name], number): records for (name, number), records in sent.items()})
            self._store.commit(commit)
            self._store.owners |= owners
            self._store.senders |= {key[1:].decode() for key in changes if key[:1] == b"q"}
            stored = changes[run_key(self._row.job, self._row.id)]
            assert stored is not None
            self._row.become(RunRow.load(stored))


def ended_how(code: int) -> str:
    """What became of a process, in words, by its exit code."""
    if code >= 0:
        return f"ended with exit code {code} before its work was done"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "of the system"
    out_of_memory = ": was there too little memory?" if code == -signal.SIGKILL else ""
    return f"was killed by signal {-code} ({name}){out_of_memory}"
