"""Tables that follow a topic: the last value of each key, until a tombstone deletes it.

Such a table is written by an agent of its own, which has its name and is exactly-once like any. Everybody else reads:
an agent whose topic has as many partitions finds the rows of its partition beside its own, as of the last commit; of a
table that is there `everywhere`, it finds all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn, cast

from typing_extensions import TypeVar

from framework.effects import Effects, current
from framework.errors import EncodeError, WrongPartition
from framework.log import StoredRecord, partition_of
from framework.log.errors import UnknownTopic
from framework.source import Source
from framework.state.rows import Change
from framework.stream import Stream, decoding
from framework.table import Table
from framework.topic import Topic
from framework.view import CACHE_ROWS, View

if TYPE_CHECKING:
    from framework.app import App

V = TypeVar("V")
K = TypeVar("K", default=str)


class SourceTable(Table[V, K]):
    """A table that follows a topic; read only. A key that has no row is a `KeyError`, values are copies."""

    def __init__(self, app: App, name: str, source: Topic[V, K], *, everywhere: bool) -> None:
        """Use `App.table`."""
        self.name, self._app, self.source, self.everywhere = name, app, source, everywhere
        self.serde, self.key_serde = source.value_serde, source.key_serde
        self.default, self.default_bytes, self.tracked, self.ttl_ms = _no_default, b"", False, 0
        self.commits: dict[int, int] = {}
        """How often each partition was committed in this process, which tells its readers when to look again."""

    @property
    def partitions(self) -> int:
        """Over how many partitions the rows are spread: those of the topic; 0 as long as there is none."""
        try:
            return self._app.topic_info(self.source, create=False).partitions
        except UnknownTopic:
            return 0

    def view(self, effects: Effects) -> SourceView:
        """The rows as the task of *effects* sees them."""
        return SourceView(self, effects)

    def __getitem__(self, key: K, /) -> V:
        data = self._row(key)
        if data is None:
            raise KeyError(key)
        return self.serde.decode(data)

    def __contains__(self, key: object) -> bool:
        return self._row(cast(K, key)) is not None

    def get(self, key: K, default: Any = None, /) -> Any:
        """The row of *key* if there is one, else *default*."""
        data = self._row(key)
        return default if data is None else self.serde.decode(data)

    def __setitem__(self, key: K, value: V, /) -> None:
        self._refuse()

    def __delitem__(self, key: K, /) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise TypeError(
            f"table {self.name!r} follows topic {self.source.name!r} and takes no writes: send the row to the topic, "
            "or a tombstone to delete it"
        )

    def _row(self, key: K) -> bytes | None:
        effects = current.get()
        return self.committed.row(key) if effects is None else cast(SourceView, effects.views[self]).row(key)

    async def follow(self, task: Source) -> None:
        """The agent: store each record, by its bytes once they have proved to be a row."""
        stream: Stream[Any, Any] = Stream(None, as_records=True)
        async for records in stream.bound(task).slices():
            with decoding(task):
                for record in records:
                    effects = current.get()
                    assert effects is not None, "an agent always has effects"
                    cast(SourceView, effects.views[self]).store(record._stored)


class SourceView(View):
    """A table that follows a topic, in one partition: of its own agent, which writes, or of a reader."""

    def __init__(self, table: SourceTable[Any, Any], effects: Effects) -> None:
        """Reads nothing yet."""
        super().__init__(table, effects.store, effects.owner, effects.partition, effects.partitions)
        self._source_table = table
        self._seen = -1

    # Its agent.

    def store(self, record: StoredRecord) -> None:
        """Let *record*, whose value can be decoded, be the row of its key.

        Raises:
            EncodeError: It has no key.
            DecodeError: Its key is none of the topic.
            WrongPartition: Its key belongs to another partition, where readers would look for it.
        """
        raw = record.key
        if raw is None:
            raise EncodeError(
                f"a record without a key is no row of table {self.table.name!r}: send it with one, or give topic "
                f"{self._source_table.source.name!r} a key="
            )
        if raw not in self._rows:
            self._check_partition(self.table.key_serde.decode(raw), raw)
            self._rows[raw] = self._prefix + raw
        self.touched[raw] = record.value

    def changes(self) -> list[Change]:
        """What a commit now would change."""
        changes: list[Change] = [(self._rows[raw], value) for raw, value in self.touched.items()]
        return self._with_owner(changes) if changes else changes

    def taken(self) -> None:
        """What `changes` gave is in a commit that is being written."""
        if self.touched:
            self._store.owners[self.table.name] = self._owner
            self._in_flight, self.touched = self.touched, {}

    def settled(self) -> None:
        """What was taken last is in the store, where readers find it now."""
        if self._in_flight:
            commits = self._source_table.commits
            commits[self._partition] = commits.get(self._partition, 0) + 1
            self._in_flight = {}
        if max(len(self.cache), len(self._rows)) > CACHE_ROWS:
            self.cache, self._rows = {}, {raw: self._rows[raw] for raw in self.touched}

    def evict(self) -> None:
        """Forget what was done since the last commit was taken."""
        self.touched = {}

    # Its readers.

    def row(self, key: Any) -> bytes | None:
        """The committed bytes of the row of *key*.

        Raises:
            WrongPartition: The row lies in another partition, and the table is not there everywhere.
        """
        commits = self._source_table.commits.get(self._partition, 0)
        if commits != self._seen:
            self.cache, self._seen = {}, commits
        if key in self.cache:
            data: bytes | None = self.cache[key]
            return data
        raw = self.table.key_serde.encode(key)
        if not self._is_here(raw):
            self._check_everywhere(key)
            return self.table.committed.row(key)
        data = self.cache[key] = self._store.database.get(self._prefix + raw)
        return data

    def has(self, key: Any) -> bool:
        """Whether a row of *key* is committed."""
        return self.row(key) is not None

    def keys(self) -> Iterator[Any]:
        """The keys of the committed rows: of this partition, or everywhere."""
        return self.keys_between(b"", None)

    def keys_between(self, start: bytes, end: bytes | None) -> Iterator[Any]:
        """The keys of `keys` from *start* on up to *end*, as they are stored."""
        if self._source_table.everywhere:
            return self.table.committed.keys_between(start, end)
        if self._source_table.partitions != self._partitions:
            self._check_everywhere(None)
        return iter([self.table.key_serde.decode(raw) for raw in self._stored_keys(start, end)])

    def _is_here(self, raw: bytes) -> bool:
        count = self._source_table.partitions
        return count == self._partitions and partition_of(raw, count) == self._partition

    def _check_everywhere(self, key: Any) -> None:
        if not self._source_table.everywhere:
            what = "its rows" if key is None else f"key {key!r}"
            where = f"partition {self._partition} of {self._partitions}" if self._partitions else "a job"
            raise WrongPartition(
                f"table {self.table.name!r} follows {self._source_table.source.name!r} over "
                f"{self._source_table.partitions} partitions: {what} cannot be read by {self._owner!r} in {where}. "
                "Bring the records of a key together first, with stream.group_by(...), or with key= on the topic; or "
                "declare the table with everywhere=True"
            )


def _no_default() -> NoReturn:
    raise AssertionError("a table that follows a topic has no default")
