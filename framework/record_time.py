"""The time by which the rows of a table grow old: that of the records, not of the clock on the wall."""

from __future__ import annotations

from collections.abc import Callable

from framework.state import rows
from framework.state.rows import Change
from framework.state.store import Store


class RecordTime:
    """The time of a task: the greatest timestamp of the records that it has taken, up to the one in hand.

    It is committed with the offset and goes back with it, so a replay comes to the same times, however the records
    are split into commits, and a record that comes late does not turn it back. In a job, which is no
    function of its records alone, it is the time on the clock.
    """

    def __init__(self, owner: str, store: Store, partition: int) -> None:
        """Reads nothing yet."""
        self.kept = False
        """Whether it is committed: only where an app declares a table with a ttl, because it costs."""
        self.latest_ms: Callable[[], int] = lambda: 0
        self._key, self._store = rows.time_key(owner, partition), store
        self._ms: int | None = None
        self._taken_ms = 0

    def now_ms(self) -> int:
        """What time it is as of the record in hand."""
        if self._ms is None:
            stored = self._store.database.get(self._key)
            self._ms = self._taken_ms = 0 if stored is None else rows.unpack_u64(stored)
        latest = self.latest_ms()
        if latest > self._ms:
            self._ms = latest
        return self._ms

    def changes(self) -> list[Change]:
        """What a commit now would change."""
        if not self.kept or self.now_ms() == self._taken_ms:
            return []
        return [(self._key, rows.pack_u64(self.now_ms()))]

    def taken(self) -> None:
        """What `changes` gave is in a commit that is being written."""
        if self.kept:
            self._taken_ms = self.now_ms()

    def discard(self) -> None:
        """Go back to what was taken last."""
        if self._ms is not None:
            self._ms = self._taken_ms
