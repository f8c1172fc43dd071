"""Tables whose rows grow old: a row that was not written for the table's ttl is gone.

Whether a row is gone depends on the records alone: on the time of the task that writes it (`framework.record_time`) and
on when it was written, which is stored with it. A row is written when it is set, and when a value changed in
place was handed out; being read does not count. Its bytes stay until a commit removes them: each commit looks
at a few rows more, as an ordinary change each, and nobody sees the difference.

Rows from before the table had a ttl have no time yet. They get that of the commit that meets them first.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import TypeVar

from framework.effects import Effects, current
from framework.errors import DeclarationError
from framework.serdes import SERDE_ERRORS
from framework.state import rows
from framework.state.rows import Change
from framework.table import Table
from framework.view import CACHE_ROWS, DELETED, View

if TYPE_CHECKING:
    from framework.app import App

V = TypeVar("V")
K = TypeVar("K", default=str)
SWEEP_ROWS = 500
"""How many rows a commit looks at, to remove those that are gone."""


class ExpiringTable(Table[V, K]):
    """A table with a ttl. Apart from `Table`, so that reads of one without need not ask what time it is."""

    def __init__(
        self,
        app: App,
        name: str,
        default: Callable[[], V],
        key_type: type[Any],
        ttl: timedelta,
        upgrade: Callable[[Any], Any] | None = None,
    ) -> None:
        """Use `App.table`.

        Raises:
            DeclarationError: The ttl is shorter than a millisecond.
        """
        super().__init__(app, name, default, key_type, upgrade)
        self.ttl_ms = ttl // timedelta(milliseconds=1)
        if self.ttl_ms <= 0:
            raise DeclarationError(f"table {name!r} has a ttl of {ttl}: it must be a millisecond or more")

    def view(self, effects: Effects) -> ExpiringView:
        """The rows as the task of *effects* sees them."""
        return ExpiringView(self, effects)

    def __getitem__(self, key: K, /) -> V:
        effects = current.get()
        if effects is None:
            return cast(V, self.committed.get(key))
        return cast(V, cast(ExpiringView, effects.views[self]).row(key))

    def __setitem__(self, key: K, value: V, /) -> None:
        effects = current.get()
        if effects is None:
            super().__setitem__(key, value)
        else:
            cast(ExpiringView, effects.views[self]).put(key, value)


class ExpiringView(View):
    """A table with a ttl in one partition.

    `_written` says when each known row was written, `_handed` when a value that can be changed in place was
    handed out last, and as what: found changed later, it was written then. So it does not matter where a commit comes
    in between.
    """

    def __init__(self, table: ExpiringTable[Any, Any], effects: Effects) -> None:
        """Reads nothing yet."""
        name = effects.stored_as(table)
        super().__init__(table, effects.store, effects.owner, effects.partition, effects.partitions, name=name)
        self._ttl_ms, self._time = table.ttl_ms, effects.time
        self._written: dict[Any, int] = {}
        self._written_in_flight: dict[Any, int] = {}
        self._handed: dict[Any, tuple[int, bytes]] = {}
        self._loaded: dict[Any, bytes | None] = {}
        self._swept = self._sweep_from = b""
        self._sweep_found = False

    # Rows.

    def row(self, key: Any) -> Any:
        """The row of *key*, the default if it is not stored or gone.

        Raises:
            WrongPartition: The row belongs to another partition.
        """
        self._expire(key)
        value = self.touched.get(key, DELETED)
        if value is DELETED:
            value = self.read(key)
        if self.tracked and self._may_write():
            self._hand_out(key, value)
        return value

    def put(self, key: Any, value: Any) -> None:
        """Set the row of *key*.

        Raises:
            WrongPartition: The row belongs to another partition.
            TableOwned: Another agent writes the table.
        """
        self.check_write(key)
        self.touched[key] = value
        self._written[key] = self._time.now_ms()
        self._handed.pop(key, None)

    def delete(self, key: Any) -> None:
        """Remove the row of *key*, as `View.delete`."""
        self._expire(key)
        super().delete(key)

    def has(self, key: Any) -> bool:
        """Whether a row of *key* is stored and not gone, or would be by a commit now."""
        return not (self._may_write() and self._is_gone(key)) and super().has(key)

    def _expire(self, key: Any) -> None:
        """A row that is gone is removed when it is touched; then it is like any that was never there."""
        if self._may_write() and self._is_gone(key):
            self._row(key)
            self._remove(key)

    def _remove(self, key: Any) -> None:
        super()._remove(key)
        self._written.pop(key, None)
        self._handed.pop(key, None)

    def _is_gone(self, key: Any) -> bool:
        now_ms = self._time.now_ms()
        if key in self._handed and self._handed[key][0] != now_ms:
            self._notice(key)
        if key not in self._written and key not in self.touched and key not in self.cache:
            self._loaded[key] = self._read(key)
        written_ms = self._written.get(key)
        return written_ms is not None and written_ms + self._ttl_ms <= now_ms

    def _hand_out(self, key: Any, value: Any) -> None:
        now_ms, handed = self._time.now_ms(), self._handed.get(key)
        if handed is None:
            self._handed[key] = now_ms, self._dump(value)
        elif handed[0] != now_ms:  # It was looked at just before, by `_expire`.
            self._handed[key] = now_ms, handed[1]

    def _notice(self, key: Any) -> None:
        """See whether the value of *key* was changed in place since it was handed out."""
        handed_ms, before = self._handed[key]
        data = self._dump(self.touched[key])
        if data != before:
            self._written[key] = handed_ms
            self._handed[key] = handed_ms, data

    def _dump(self, value: Any) -> bytes:
        try:
            return self.table.serde.dump(value)
        except SERDE_ERRORS:
            return b""  # The commit says what is wrong with it.

    def _read(self, key: Any) -> bytes | None:
        if key in self._loaded:
            return self._loaded.pop(key)
        if key in self._in_flight:
            if key in self._written_in_flight:
                self._written[key] = self._written_in_flight[key]
            return self._in_flight[key]
        if self._is_elsewhere():
            return self.table.committed.row(key)
        data = self._store.database.get(self._row(key))
        stamped = None if data is None else rows.split_stamped(data)
        if stamped is None:
            return data
        written_ms, _, value = stamped
        if self._may_write():
            self._written[key] = written_ms
            return value
        return None if written_ms + self._ttl_ms <= self._owner_ms() else value

    def _owner_ms(self) -> int:
        """The committed time of the agent that writes the table."""
        owner = self._store.owners[self._name]
        stored = self._store.database.get(rows.time_key(owner, self._partition))
        return 0 if stored is None else rows.unpack_u64(stored)

    # Commit and discard.

    def changes(self) -> list[Change]:
        """What a commit now would change, as `View.changes`; and a few rows that are gone."""
        for key in self._handed:
            self._notice(key)
        changes = super().changes()
        now_ms = self._time.now_ms()
        # One change for each encoded row comes first, in their order.
        for at, (key, data) in enumerate(self._encoded.items()):
            row, value = changes[at]
            # A default may not be stored as what it is again; that is the same row, written now.
            self._written.setdefault(key, now_ms)
            changes[at] = (row, None if value is None else rows.stamped(value, self._written[key], self._ttl_ms))
            if data is None:
                del self._written[key]
        return changes + self._sweep({row for row, _ in changes}, now_ms)

    def _sweep(self, changed: set[bytes], now_ms: int) -> list[Change]:
        """Look at the next rows, and remove those that are gone; not those that are *changed* anyway."""
        changes: list[Change] = []
        self._sweep_from = b""
        if self._store.owners.get(self._name) == self._owner:
            for seen, (row, data) in enumerate(self._store.database.scan(self._prefix, self._swept)):
                if seen == SWEEP_ROWS:
                    self._sweep_from = row[len(self._prefix) :]
                    break
                stamped = rows.split_stamped(data)
                if stamped is None and row not in changed:
                    changes.append((row, rows.stamped(data, now_ms, self._ttl_ms)))
                elif stamped is not None and row not in changed and stamped[0] + self._ttl_ms <= now_ms:
                    changes.append((row, None))
        self._sweep_found = bool(changes)
        return changes

    def taken(self) -> None:
        """What `changes` gave is in a commit that is being written."""
        self._written_in_flight = {key: self._written[key] for key in self._encoded if key in self._written}
        super().taken()
        self._handed, self._loaded = {}, {}
        # As long as it finds something it goes on, also when no more records come.
        self._swept, self.sweeping = self._sweep_from, self._sweep_found

    def settled(self) -> None:
        """What was taken last is in the store."""
        super().settled()
        self._written_in_flight, self._loaded = {}, {}
        if len(self._written) > CACHE_ROWS:
            self.cache = {}
            self._stored = {key: self._stored[key] for key in self.touched if key in self._stored}
            self._written = {key: self._written[key] for key in self.touched if key in self._written}

    def evict(self) -> None:
        """Forget what was done since the last commit was taken."""
        for key in self.touched:
            self._written.pop(key, None)
        self._handed, self._loaded = {}, {}
        super().evict()
