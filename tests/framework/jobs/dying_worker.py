"""A worker that is killed when it has noted a command, and has not begun to do it: `dying_worker.py DATA`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from framework.state import rows
from framework.state.database import Database
from framework.state.rows import Change
from framework.worker import Worker
from tests.framework.jobs.yard import Yard, summing


class Dying(Database):
    """Ends the process once the note is durable."""

    noted = False

    def write(self, changes: Sequence[Change]) -> None:
        """Write, and see what."""
        super().write(changes)
        self.noted = any(key == rows.meta_key("control") for key, _ in changes)

    def sync(self) -> None:
        """Sync, and die behind the note."""
        super().sync()
        if self.noted:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    yard = Yard(Path(sys.argv[1]))
    summing(yard)
    asyncio.run(Worker(yard.app, open_database=Dying).run(started=lambda: print("started", flush=True)))
