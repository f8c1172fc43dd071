"""The shards of a data directory: which databases there are, and who owns them.

    state/0 ... state/7     one database each; the tasks of partition p live in shard p mod 8
    state/jobs              the one database of all jobs

A process owns a shard as long as it holds its lock in the shared file: there are no leases, so a stopped
process keeps its shards, and a killed one loses them at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from framework.log import Log, Random, SystemRandom
from framework.log.locks import JOBS_LOCK, SHARD_LOCK
from framework.state.database import Database
from framework.state.errors import ShardBusy
from framework.state.store import Store

SHARDS = 8
_POLL_S = 0.05


class Shards:
    """The shards this process owns, with their stores open."""

    def __init__(
        self,
        log: Log,
        *,
        random: Random | None = None,
        open_database: Callable[[Path], Database] = Database,
    ) -> None:
        """Owns nothing yet."""
        self._log, self._open_database = log, open_database
        self._random = random or SystemRandom()
        self._owned: list[int] = []
        self._stores: dict[str, Store] = {}
        self._owners: dict[str, str] = {}

    def own_all(self, wait_s: float = 0.0) -> None:
        """Own every shard and the jobs.

        Raises:
            ShardBusy: Another process owned one of them for *wait_s* seconds.
        """
        deadline = self._log.clock.monotonic() + wait_s
        for number in range(SHARDS):
            self._own(SHARD_LOCK + number, f"shard {number}", deadline)
        self._own(JOBS_LOCK, "the jobs", deadline)

    def own_jobs(self, wait_s: float = 0.0) -> None:
        """Own the jobs only.

        Raises:
            ShardBusy: Another process owned them for *wait_s* seconds.
        """
        self._own(JOBS_LOCK, "the jobs", self._log.clock.monotonic() + wait_s)

    def of_partition(self, partition: int) -> Store:
        """The store of the tasks of *partition*."""
        return self._store(str(partition % SHARDS))

    def of_jobs(self) -> Store:
        """The store of the jobs."""
        return self._store("jobs")

    def database_of(self, name: str) -> Database | None:
        """The database of that name, if its store is open."""
        store = self._stores.get(name)
        return None if store is None else store.database

    def owner_of(self, table: str) -> str | None:
        """The agent that writes *table*, as far as the open stores know."""
        return self._owners.get(table)

    def open_stores(self) -> list[Store]:
        """Every store that is open."""
        return list(self._stores.values())

    def close(self) -> None:
        """Close the stores, all of them even if one fails, then give the shards back."""
        with ExitStack() as exits:
            while self._owned:
                exits.callback(self._log.shared.disown, self._owned.pop())
            while self._stores:
                exits.callback(self._stores.popitem()[1].close)

    def _store(self, name: str) -> Store:
        store = self._stores.get(name)
        if store is None:
            path = self._log.path / "state" / name
            store = Store(path, self._log, self._random.token, owners=self._owners, open_database=self._open_database)
            self._stores[name] = store
        return store

    def _own(self, byte: int, what: str, deadline: float) -> None:
        while (pid := self._log.shared.try_own(byte)) is not None:
            if self._log.clock.monotonic() >= deadline:
                who = "this process" if pid == os.getpid() else f"process {pid}"
                raise ShardBusy(
                    f"{who} owns {what} of {self._log.path}: a worker is running there. "
                    "Stop it, or wait for it with --wait SECONDS"
                )
            time.sleep(_POLL_S)
        self._owned.append(byte)
