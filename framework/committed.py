"""Tables as everybody but their agent sees them: committed rows, read only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from framework.state.view import StateView

if TYPE_CHECKING:
    from framework.table import Table


class CommittedTable:
    """The committed rows of one table, without those whose ttl is over."""

    def __init__(self, view: StateView, table: Table[Any, Any], partitions: int | None) -> None:
        """*partitions* is None where only the state knows who writes the table. Reads nothing yet."""
        self._view, self._table, self._partitions = view, table, partitions

    @property
    def partitions(self) -> int:
        """How many partitions the rows are spread over; 0 if a job writes them, or nobody yet."""
        return self._view.partitions_of(self._table.name) if self._partitions is None else self._partitions

    def get(self, key: Any) -> Any:
        """The committed row of *key*, the default if there is none."""
        data = self.row(key)
        return self._table.default() if data is None else self._table.serde.decode(data)

    def has(self, key: Any) -> bool:
        """Whether a row of *key* is committed."""
        return self.row(key) is not None

    def keys(self) -> Iterator[Any]:
        """The keys of all committed rows, partition by partition."""
        table = self._table
        for raw, _ in self._view.table_rows(table.name, ttl_ms=table.ttl_ms, partitions=self._partitions):
            yield table.key_serde.decode(raw)

    def keys_between(self, start: bytes, end: bytes | None) -> Iterator[Any]:
        """The keys of all committed rows from *start* on up to *end*, in the order of their bytes."""
        return (key for key, _ in self.items_between(start, end))

    def items_between(self, start: bytes, end: bytes | None) -> Iterator[tuple[Any, Any]]:
        """All committed rows from key *start* on up to *end*, in the order of their keys' bytes."""
        table = self._table
        for raw, data in self._view.table_range(
            table.name, start, end, ttl_ms=table.ttl_ms, partitions=self._partitions
        ):
            yield table.key_serde.decode(raw), table.serde.decode(data)

    def row(self, key: Any) -> bytes | None:
        """The bytes of the committed row of *key*."""
        table = self._table
        raw = table.key_serde.encode(key)
        return self._view.table_row(table.name, raw, ttl_ms=table.ttl_ms, partitions=self._partitions)
