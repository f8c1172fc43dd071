"""The rows of one table in one partition, as one task sees them: a cache in front of the committed rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from framework.errors import EncodeError, TableOwned, WrongPartition
from framework.log import partition_of
from framework.serdes import SERDE_ERRORS
from framework.state import rows
from framework.state.rows import Change
from framework.state.store import Store

if TYPE_CHECKING:
    from framework.table import Table

CACHE_ROWS = 100_000


class View:
    """One table in one partition.

    A value goes through three places: `touched` since the last commit was taken, `_in_flight` in the commit that is
    being written, then the store; `cache` holds what has left `touched`. `_stored` remembers the bytes of
    rows whose values can be changed in place, so that the commit can tell whether they were.
    """

    def __init__(
        self,
        table: Table[Any, Any],
        store: Store,
        owner: str,
        partition: int,
        partitions: int,
        *,
        name: str | None = None,
    ) -> None:
        """*owner* is the agent or job on whose behalf it is used; *partitions* is 0 for a job, which has no others.

        *name* is that under which the rows are stored, if it is not the table's. Reads nothing yet.
        """
        self.table, self.tracked, self._name = table, table.tracked, name or table.name
        self.touched: dict[Any, Any] = {}
        self.cache: dict[Any, Any] = {}
        self._deleted: set[Any] = set()
        self._rows: dict[Any, bytes] = {}
        self._in_flight: dict[Any, bytes | None] = {}
        self._encoded: dict[Any, bytes | None] = {}
        self._stored: dict[Any, bytes | None] = {}
        self._store, self._owner, self._partition, self._partitions = store, owner, partition, partitions
        self._prefix = rows.table_prefix(self._name, partition)
        self.sweeping = False
        """Whether rows that are gone wait for a commit to remove their bytes; see `framework.expiring`."""
        self._spread: tuple[str, int] | None = None

    # Rows.

    def read(self, key: Any) -> Any:
        """The row of *key*, which is not in `touched` or deleted there; the default if it is not stored.

        Raises:
            WrongPartition: The row belongs to another partition.
        """
        if key in self.cache:
            value = self.cache[key]
        else:
            data = None if key in self._deleted else self._read(key)
            value = self.table.default() if data is None else self.table.serde.decode(data)
            if not self.tracked and type(value) not in IMMUTABLE:
                self._track()
            if self.tracked:
                # A row stored as an older type encodes to other bytes, without anybody having changed it.
                is_mine = data is None or self._may_write()
                self._stored[key] = data if is_mine else self.table.serde.dump(value)
            elif self._may_write():  # What another agent writes must be read anew each time.
                self.cache[key] = value
        if self.tracked:
            self.touched[key] = value
        return value

    def check_write(self, key: Any) -> None:
        """Whether the row of *key* may be set here; it will be stored whatever it was.

        Raises:
            WrongPartition: The row belongs to another partition.
            TableOwned: Another agent writes the table.
        """
        if not self.tracked and key in self.cache:
            return  # It has been read or written before, and so checked.
        self._check_owner()
        self._row(key)
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
        self._remove(key)

    def _remove(self, key: Any) -> None:
        self.cache.pop(key, None)
        self._stored.pop(key, None)
        self._deleted.add(key)
        self.touched[key] = DELETED

    def has(self, key: Any) -> bool:
        """Whether a row of *key* is stored, or would be by a commit now."""
        if key not in self.touched:
            return self._read(key) is not None
        value = self.touched[key]
        if value is DELETED or self._stored.get(key, b"") is not None:
            return value is not DELETED
        return self.table.serde.encode(value) != self.table.default_bytes

    def keys(self) -> Iterator[Any]:
        """The keys of this partition: stored ones in the order of their bytes, then new ones.

        Of a table whose rows are spread over other partitions, all keys.
        """
        if self._is_elsewhere():
            return self.table.committed.keys()
        keys = dict.fromkeys(map(self.table.key_serde.decode, self._stored_keys(b"", None)))
        keys.update(dict.fromkeys(self._in_flight))
        keys.update(dict.fromkeys(self.touched))
        return iter([key for key in keys if self.has(key)])

    def keys_between(self, start: bytes, end: bytes | None) -> Iterator[Any]:
        """The keys from *start* on up to *end*, both as they are stored, in the order of their bytes."""
        if self._is_elsewhere():
            return self.table.committed.keys_between(start, end)
        keys = {raw: self.table.key_serde.decode(raw) for raw in self._stored_keys(start, end)}
        for key in (*self._in_flight, *self.touched):
            raw = self.table.key_serde.encode(key)
            if start <= raw and (end is None or raw < end):
                keys[raw] = key
        return iter([keys[raw] for raw in sorted(keys) if self.has(keys[raw])])

    def _stored_keys(self, start: bytes, end: bytes | None) -> Iterator[bytes]:
        for row, _ in self._store.database.scan(self._prefix, start):
            raw = row[len(self._prefix) :]
            if end is not None and raw >= end:
                return
            yield raw

    def _read(self, key: Any) -> bytes | None:
        """The bytes of the value of *key* as of the last commit that was taken."""
        if key in self._in_flight:
            return self._in_flight[key]
        if self._is_elsewhere():
            return self.table.committed.row(key)
        data = self._store.database.get(self._row(key))
        if data is None or not data.startswith(rows.STAMPED):
            return data
        stamped = rows.split_stamped(data)  # From when the table had a ttl.
        return data if stamped is None else stamped[2]

    def _row(self, key: Any) -> bytes:
        """The row of *key* in the database."""
        row = self._rows.get(key)
        if row is None:
            raw = self.table.key_serde.encode(key)
            self._check_partition(key, raw)
            row = self._rows[key] = self._prefix + raw
        return row

    # Commit and discard.

    def changes(self) -> list[Change]:
        """What a commit now would change.

        Raises:
            EncodeError: A value cannot be stored.
            TableOwned: Another agent writes the table.
        """
        self._encoded = self._encode()
        changes: list[Change] = list(
            zip(map(self._rows.__getitem__, self._encoded), self._encoded.values(), strict=True)
        )
        return self._with_owner(changes) if changes else changes

    def _encode(self) -> dict[Any, bytes | None]:
        """The bytes of the rows that a commit now would change."""
        dump, tracked = self.table.serde.dump, self.tracked
        encoded: dict[Any, bytes | None] = {}
        key = None
        try:
            if not tracked and not self._deleted:
                # Nothing to compare, so all at once; if one of them fails, the loop says which.
                with suppress(*SERDE_ERRORS):
                    return dict(zip(self.touched, self.table.serde.dump_all(self.touched.values()), strict=True))
            for key, value in self.touched.items():
                data = None if value is DELETED else dump(value)
                if tracked and not self._changed(key, data):
                    if key not in self._deleted:
                        continue
                    data = None
                encoded[key] = data
        except SERDE_ERRORS as error:
            raise EncodeError(f"table {self.table.name!r}, key {key!r}: {error}") from error
        return encoded

    def _with_owner(self, changes: list[Change]) -> list[Change]:
        self._check_owner()
        if self._name not in self._store.owners:
            changes.append((rows.owner_key(self._name), self._owner.encode()))
        return changes

    def taken(self) -> None:
        """What `changes` gave is in a commit that is being written."""
        if self._encoded:
            self._store.owners[self._name] = self._owner
        put = [key for key in self.touched if key not in self._stored] if self.tracked else list(self.touched)
        self.cache.update(self.touched)
        for key in self._deleted:
            if self.cache.get(key) is DELETED:
                del self.cache[key]
        if not self.tracked and not IMMUTABLE.issuperset(map(type, self.touched.values())):
            self._track()
        if self.tracked:
            self._stored.update(self._encoded)
            # What the agent put in may be a part of another row too; read back, each row is by itself.
            for key in put:
                self.cache.pop(key, None)
                self._stored.pop(key, None)
        self._in_flight, self._encoded, self.touched, self._deleted = self._encoded, {}, {}, set()
        if self._store.owners.get(self._name) != self._owner:
            # Another agent may write next, so nothing read may outlive the commit.
            self.cache, self._stored = {}, {}

    def settled(self) -> None:
        """What was taken last is in the store."""
        self._in_flight = {}
        if max(len(self.cache), len(self._rows)) > CACHE_ROWS:
            self.cache = {}
            self._stored = {key: self._stored[key] for key in self.touched if key in self._stored}
            self._rows = {key: self._rows[key] for key in self.touched}

    @property
    def encoded(self) -> dict[Any, bytes | None]:
        """The bytes of the rows that `changes` gave, None where one is deleted."""
        return self._encoded

    def row_of(self, key: Any) -> bytes:
        """The row in the database of *key*, which has been touched."""
        return self._rows[key]

    def _track(self) -> None:
        """Values can be changed in place, although the default does not say so: from now on compare them."""
        self.tracked = True
        self._stored = {key: self.table.serde.dump(value) for key, value in self.cache.items()}

    def evict(self) -> None:
        """Forget what was done since the last commit was taken."""
        for key in self.touched:
            self.cache.pop(key, None)
            self._stored.pop(key, None)
        self.touched, self._deleted = {}, set()

    def _changed(self, key: Any, data: bytes | None) -> bool:
        """Whether *data* is something else than what is stored, or than the default where nothing is."""
        if key not in self._stored:
            return True
        stored = self._stored[key]
        return data != (self.table.default_bytes if stored is None else stored)

    # Who may do what.

    def _may_write(self) -> bool:
        return self._store.owners.get(self._name) in (None, self._owner)

    def _is_elsewhere(self) -> bool:
        """Whether the rows lie in as many partitions as another agent's topic has, or in the database of the jobs."""
        if self._may_write():
            return False
        owner = self._store.owners[self._name]
        if self._spread is None or self._spread[0] != owner:
            self._spread = owner, self.table.partitions_under(owner)
        return self._spread[1] != self._partitions

    def _check_owner(self) -> None:
        if not self._may_write():
            raise TableOwned(
                f"table {self.table.name!r} is written by {self._store.owners[self._name]!r}; {self._owner!r} may "
                "only read it. Give each agent its own table, or send the change to a topic that one agent reads"
            )
        if self._name not in self._store.owners:
            released = self._store.database.get(rows.spread_key(self._name))
            spread = self._partitions if released is None else rows.split_spread(released)[0]
            if spread != self._partitions:
                raise TableOwned(
                    f"table {self.table.name!r} was released with its rows in {spread} partitions, "
                    f"{self._owner!r} would look for them in {self._partitions}. Let it read a topic with as many "
                    "partitions, or give it a table of another name"
                )

    def _check_partition(self, key: Any, raw: bytes) -> None:
        belongs = partition_of(raw, self._partitions) if self._partitions else 0
        if belongs != self._partition:
            raise WrongPartition(
                f"table {self.table.name!r}: key {key!r} belongs to partition {belongs}, but {self._owner!r} touched "
                f"it while handling partition {self._partition}. Bring the records of a key together first, with "
                "stream.group_by(...), or with key= on the topic"
            )


class _Deleted:
    def __repr__(self) -> str:
        return "DELETED"


DELETED: Any = _Deleted()
IMMUTABLE = frozenset([int, float, str, bytes, bool, type(None), _Deleted])
"""Types whose values cannot be changed in place, so that a row of them need not be compared."""
