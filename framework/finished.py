"""Effects of records that are handled side by side: each record's own, and those of the finished ones together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from framework.effects import Effects, Views
from framework.errors import WrongPartition
from framework.expiring import ExpiringTable
from framework.log import StoredRecord
from framework.source_table import SourceTable
from framework.state.rows import Change
from framework.table import Table
from framework.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from framework.state.store import Store


class FinishedEffects(Effects):
    """What finished records have done and no commit has taken yet."""

    def __init__(self, owner: str, store: Store, partition: int, partitions: int) -> None:
        """As `Effects`."""
        super().__init__(owner, store, partition, partitions)
        self.views = _FinishedViews(self)


class RecordEffects(Effects):
    """What one record does, until it is finished or has failed."""

    def __init__(self, finished: FinishedEffects, record: StoredRecord) -> None:
        """It sees the rows that *finished* has, and joins them with `finish`."""
        super().__init__(finished.owner, finished.store, finished.partition, finished.partitions)
        self.now_ms = lambda: record.timestamp
        self._finished = finished
        self.views = _RecordViews(self, finished, record.key)

    def finish(self) -> None:
        """Join what earlier records have done.

        Raises:
            EncodeError: A table value cannot be stored; nothing was joined.
            TableOwned: Another agent writes one of the tables; nothing was joined.
        """
        changed = [view for view in self.views.values() if view.changes()]
        for view in changed:
            below = self._finished.views[view.table]
            assert isinstance(below, FinishedView)
            below.adopt(view)
        self._finished.absorb(self)


class FinishedView(View):
    """The rows of one table as finished records have left them; `touched` holds their bytes."""

    def adopt(self, view: View) -> None:
        """Have the rows that *view* has changed."""
        for key, data in view.encoded.items():
            self.touched[key] = data
            self._rows[key] = view.row_of(key)

    def value(self, key: Any) -> bytes | None:
        """The bytes of the value of *key* as a commit now would leave them."""
        if key in self.touched:
            data: bytes | None = self.touched[key]
            return data
        return self._read(key)

    def changes(self) -> list[Change]:
        """What a commit now would change."""
        changes: list[Change] = [(self._rows[key], data) for key, data in self.touched.items()]
        return self._with_owner(changes) if changes else changes

    def taken(self) -> None:
        """What `changes` gave is in a commit that is being written."""
        if self.touched:
            self._store.owners[self.table.name] = self._owner
        self._in_flight, self.touched = self.touched, {}

    def settled(self) -> None:
        """What was taken last is in the store."""
        self._in_flight = {}
        self._rows = {key: self._rows[key] for key in self.touched}


class RecordView(View):
    """One table as one record sees it: its own row, and all that others write."""

    def __init__(self, effects: Effects, table: Table[Any, Any], below: View, key: bytes | None) -> None:
        """*key* is the record's; *below* has the rows of finished records."""
        super().__init__(table, effects.store, effects.owner, effects.partition, effects.partitions)
        assert isinstance(below, FinishedView)
        self._below, self._key = below, key

    def keys(self) -> Iterator[Any]:
        """The keys of a table that another agent writes; of its own a record has only one.

        Raises:
            WrongPartition: It is the agent's own.
        """
        if self._may_write():
            raise WrongPartition(
                f"table {self.table.name!r}: with concurrency= a record sees only the row of its own key, the others "
                "may be changing"
            )
        return super().keys()

    def _read(self, key: Any) -> bytes | None:
        if not self._may_write():
            return super()._read(key)
        self._row(key)  # Is it the record's?
        return self._below.value(key)

    def _row(self, key: Any) -> bytes:
        row = super()._row(key)
        if self._may_write() and self.table.key_serde.encode(key) != self._key:
            raise WrongPartition(
                f"table {self.table.name!r}: {self._owner!r} touched key {key!r} while handling a record of another "
                "key. With concurrency= a record touches only rows of its own key, or two would undo each other's"
            )
        return row


class _FinishedViews(Views):
    def _view(self, table: Table[Any, Any]) -> View:
        effects = self._effects
        if isinstance(table, ExpiringTable):
            raise TypeError(f"table {table.name!r} has a ttl: no agent with concurrency= can use it")
        return FinishedView(table, effects.store, effects.owner, effects.partition, effects.partitions)


class _RecordViews(Views):
    def __init__(self, effects: Effects, finished: FinishedEffects, key: bytes | None) -> None:
        super().__init__(effects)
        self._finished, self._key = finished, key

    def _view(self, table: Table[Any, Any]) -> View:
        if isinstance(table, SourceTable):
            return table.view(self._effects)
        return RecordView(self._effects, table, self._finished.views[table], self._key)
