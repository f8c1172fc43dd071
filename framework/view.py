"""The rows of one table in one partition, as one task sees them: a cache in front of the committed rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from framework.errors import EncodeError, TableOwned, WrongPartition
from framework.log import partition_of
from framework.state import rows
from framework.state.rows import Change
from framework.state.store import Store

if TYPE_CHECKING:
    from framework.table import Table

CACHE_ROWS = 100_000


class View:
    """One table in one partition.

    A row goes through four places: `touched` since the last commit was taken, `_in_flight` in the commit that is
    being written, then the store; `cache` holds decoded values of all three. `_stored` remembers the bytes of
    rows whose values can be changed in place, so that the commit can tell whether they were.
    """

    def __init__(self, table: Table[Any, Any], store: Store, owner: str, partition: int, partitions: int) -> None:
        """*owner* is the agent or job on whose behalf it is used; reads nothing yet."""
        self.table, self.tracked = table, table.tracked
        self.cache: dict[Any, Any] = {}
        self.touched: dict[Any, Any] = {}
        self._in_flight: dict[Any, bytes | None] = {}
        self._encoded: dict[Any, bytes | None] = {}
        self._stored: dict[Any, bytes | None] = {}
        self._store, self._owner, self._partition, self._partitions = store, owner, partition, partitions
        self._prefix = rows.table_prefix(table.name, partition)
        self.writable = self._may_write()

    # Rows.

    def load(self, key: Any) -> Any:
        """The row of *key*, into the cache; the default if it is not stored.

        Raises:
            WrongPartition: The row belongs to another partition.
        """
        data = self._read(key)
        value = self.table.default() if data is None else self.table.serde.decode(data)
        if self.writable:
            self.cache[key] = value
        if self.tracked:
            self._stored[key] = data
        return value

    def check_write(self, key: Any) -> None:
        """Whether the row of *key* may be set here; it will be stored whatever it was.

        Raises:
            WrongPartition: The row belongs to another partition.
            TableOwned: Another agent writes the table.
        """
        self._check_owner()
        if key not in self.cache:
            self._check_partition(key, self.table.key_serde.encode(key))
        self._stored.pop(key, None)

    def delete(self, key: Any) -> None:
        """Remove the row of *key*.

        Raises:
            KeyError: There is none.
            TableOwned: Another agent writes the table.
        """
        self._check_owner()
        if not self.has(key):
            raise KeyError(key)
        self.cache.pop(key, None)
        self.touched[key] = DELETED

    def has(self, key: Any) -> bool:
        """Whether a row of *key* is stored, or would be by a commit now."""
        if key not in self.touched:
            return self._read(key) is not None
        value = self.touched[key]
        return value is not DELETED and self._changed(key, self.table.serde.encode(value), or_stored=True)

    def keys(self) -> Iterator[Any]:
        """The keys of this partition: stored ones in the order of their bytes, then new ones."""
        stored = [raw[len(self._prefix) :] for raw, _ in self._store.database.scan(self._prefix)]
        keys = dict.fromkeys(map(self.table.key_serde.decode, stored))
        keys.update(dict.fromkeys(self._in_flight))
        keys.update(dict.fromkeys(self.touched))
        return iter([key for key in keys if self.has(key)])

    def _read(self, key: Any) -> bytes | None:
        if key in self._in_flight:
            return self._in_flight[key]
        raw = self.table.key_serde.encode(key)
        self._check_partition(key, raw)
        return self._store.database.get(self._prefix + raw)

    # Commit and discard.

    def changes(self) -> list[Change]:
        """What a commit now would change.

        Raises:
            EncodeError: A value cannot be stored.
            TableOwned: Another agent writes the table.
        """
        changes: list[Change] = []
        self._encoded = {}
        table, prefix, encode_key = self.table, self._prefix, self.table.key_serde.encode
        for key, value in self.touched.items():
            data: bytes | None = None
            if value is not DELETED:
                try:
                    data = table.serde.encode(value)
                except EncodeError as error:
                    raise EncodeError(f"table {table.name!r}, key {key!r}: {error}") from error
                if not self._changed(key, data):
                    continue
            changes.append((prefix + encode_key(key), data))
            self._encoded[key] = data
        if changes:
            self._check_owner()
            if table.name not in self._store.owners:
                changes.append((rows.owner_key(table.name), self._owner.encode()))
        return changes

    def taken(self) -> None:
        """What `changes` gave is in a commit that is being written."""
        if self._encoded:
            self._store.owners[self.table.name] = self._owner
        if not self.tracked and any(not isinstance(value, IMMUTABLE) for value in self.touched.values()):
            # Values that can be changed in place: from now on they are compared.
            self.tracked = True
            self._stored = {key: self.table.serde.encode(value) for key, value in self.cache.items()}
        if self.tracked:
            self._stored.update(self._encoded)
        self._in_flight, self._encoded, self.touched = self._encoded, {}, {}
        self.writable = self._may_write()
        if self._store.owners.get(self.table.name) != self._owner:
            # Another agent may write next, so nothing read may outlive the commit.
            self.cache, self._stored = {}, {}

    def settled(self) -> None:
        """What was taken last is in the store."""
        self._in_flight = {}
        if len(self.cache) > CACHE_ROWS:
            self.cache = {key: self.cache[key] for key in self.touched if key in self.cache}
            self._stored = {key: self._stored[key] for key in self.touched if key in self._stored}

    def evict(self) -> None:
        """Forget what was done since the last commit was taken."""
        for key in self.touched:
            self.cache.pop(key, None)
            self._stored.pop(key, None)
        self.touched = {}

    def _changed(self, key: Any, data: bytes, *, or_stored: bool = False) -> bool:
        """Whether *data* is something else than what is stored, or than the default where nothing is."""
        if not self.tracked or key not in self._stored:
            return True
        stored = self._stored[key]
        if stored is None:
            return data != self.table.default_bytes
        return or_stored or data != stored

    # Who may do what.

    def _may_write(self) -> bool:
        return self._store.owners.get(self.table.name) in (None, self._owner)

    def _check_owner(self) -> None:
        if not self._may_write():
            raise TableOwned(
                f"table {self.table.name!r} is written by {self._store.owners[self.table.name]!r}; {self._owner!r} may "
                "only read it. Give each agent its own table, or send the change to a topic that one agent reads"
            )

    def _check_partition(self, key: Any, raw: bytes) -> None:
        belongs = partition_of(raw, self._partitions)
        if belongs != self._partition:
            raise WrongPartition(
                f"table {self.table.name!r}: key {key!r} belongs to partition {belongs}, but {self._owner!r} touched it "
                f"while handling partition {self._partition}. Key the topic by it (key=), or group_by it first"
            )


class _Deleted:
    def __repr__(self) -> str:
        return "DELETED"


DELETED: Any = _Deleted()
IMMUTABLE = (int, float, str, bytes, bool, type(None), _Deleted)
