"""Tables as everybody but their agent sees them: committed rows, read only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from framework.log import Log
from framework.state.view import StateView

if TYPE_CHECKING:
    from framework.table import Table


class CommittedTable:
    """The committed rows of one table."""

    def __init__(self, view: StateView, log: Log, table: Table[Any, Any]) -> None:
        """Reads nothing yet."""
        self._view, self._log, self._table = view, log, table

    @property
    def partitions(self) -> int:
        """How many partitions the rows are spread over; 0 if a job writes them, or nobody yet."""
        return self._view.partitions_of(self._table.name)

    def get(self, key: Any) -> Any:
        """The committed row of *key*, the default if there is none."""
        data = self.row(key)
        return self._table.default() if data is None else self._table.serde.decode(data)

    def has(self, key: Any) -> bool:
        """Whether a row of *key* is committed."""
        return self.row(key) is not None

    def keys(self) -> Iterator[Any]:
        """The keys of all committed rows."""
        for raw, _ in self._view.table_rows(self._table.name):
            yield self._table.key_serde.decode(raw)

    def row(self, key: Any) -> bytes | None:
        """The bytes of the committed row of *key*."""
        return self._view.table_row(self._table.name, self._table.key_serde.encode(key))
