"""Letting go of a table, so that another agent may write it."""

from __future__ import annotations

from framework.log import Log
from framework.state import rows
from framework.state.database import Database
from framework.state.rows import Change
from framework.state.shards import Shards
from framework.state.view import DATABASES


def release_table(log: Log, table: str, owner: str, partitions: int) -> None:
    """Forget that *owner* writes *table*; its rows stay, spread over *partitions*, for whoever writes it next.

    Raises:
        ShardBusy: A worker runs, which would not hear of it.
    """
    shards = Shards(log)
    try:
        shards.own_all()
        # The owner stands in one of the databases only; killed in between, the command can be given again.
        changes: list[Change] = [
            (rows.spread_key(table), rows.pack_spread(partitions, owner)),
            (rows.owner_key(table), None),
        ]
        for name in DATABASES:
            path = log.path / "state" / name
            if (path / "CURRENT").exists():
                database = Database(path)
                try:
                    database.write(changes)
                    database.sync()
                finally:
                    database.close()
    finally:
        shards.close()
