"""What an agent does and has not committed yet: table rows it touched, records it sent.

The one `Effects` of a running task is found through a context variable, so tables and topics are plain objects
that know, wherever they are used, on whose behalf. It is closed when the records are done it was made for, or were
discarded: code of theirs that is still alive (a task they started, a `finally` block) is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from framework.errors import StaleTask
from framework.log import Headers, NewRecord, TopicInfo
from framework.record_time import RecordTime
from framework.replay import DEAD_LETTERS
from framework.state import rows
from framework.state.errors import OutboxTooLarge
from framework.state.rows import Change
from framework.state.store import Commit, Store

if TYPE_CHECKING:
    from framework.table import Table
    from framework.view import View

SOFT_LIMIT_BYTES = 8 << 20
RECORD_LIMIT_BYTES = 64 << 20
"""What an agent may send for one record (or one list, with `take`)."""
RUN_LIMIT_BYTES = 256 << 20
"""What a job may send for one chunk, or for a run without chunks."""


class Redirect(Protocol):
    """Where what is sent goes instead."""

    def target(self, topic: TopicInfo, partition: int) -> tuple[TopicInfo, int] | None:
        """Where a record goes that is sent to a *partition* of *topic*; None if it is dropped."""


current: ContextVar[Effects | None] = ContextVar("framework-effects", default=None)
"""The effects of the task that is running, None outside agents and jobs."""


class Effects:
    """The uncommitted effects of one task: an agent on a partition, or a job."""

    def __init__(self, owner: str, store: Store, partition: int, partitions: int) -> None:
        """*owner* names the agent or job; a job has partition 0 of 0: its tables are not spread."""
        self.owner, self.store = owner, store
        self.partition, self.partitions = partition, partitions
        self.views: Views = Views(self)
        self.time = RecordTime(owner, store, partition)
        self.now_ms: Callable[[], int] = lambda: 0
        self.on_soft_limit: Callable[[], None] = lambda: None
        self.redirect: Redirect | None = None
        """What becomes of sends, if these records have been handled before, or are handled beside the live ones."""
        self.stored_as: Callable[[Table[Any, Any]], str] = lambda table: table.name
        """Under which name the rows of a table are stored."""
        self.sent_bytes = 0
        self._limit_bytes = RECORD_LIMIT_BYTES if partitions else RUN_LIMIT_BYTES
        self._sent: dict[tuple[TopicInfo, int], list[NewRecord]] = {}

    def send(
        self,
        topic: TopicInfo,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        timestamp: int,
        headers: Headers,
    ) -> None:
        """Send a record with the next commit.

        Raises:
            RecordTooLarge: The topic does not take it.
            OutboxTooLarge: A commit cannot hold that much.
            StaleTask: The run this belongs to is over.
        """
        if self.views.closed:
            raise StaleTask(f"{self.owner} sent to {topic.name!r} after its record was finished or discarded")
        if self.redirect is not None:
            redirected = self.redirect.target(topic, partition)
            if redirected is None:
                return
            topic, partition = redirected
        size = topic.check_record(key, value, headers)
        self._count(size)
        target = (topic, partition)
        sent = self._sent.get(target)
        if sent is None:
            sent = self._sent[target] = []
        sent.append(NewRecord(key, value, timestamp, headers))

    def send_many(self, topic: TopicInfo, partition: int, records: list[NewRecord], size: int) -> None:
        """Send *records* with the next commit, which take *size* bytes at most and were checked.

        Raises:
            OutboxTooLarge, StaleTask: As `send`.
        """
        if self.views.closed:
            raise StaleTask(f"{self.owner} sent to {topic.name!r} after its record was finished or discarded")
        target: tuple[TopicInfo, int] | None = (topic, partition)
        if self.redirect is not None:
            target = self.redirect.target(topic, partition)
        if target is not None:
            self._count(size)
            self._sent.setdefault(target, []).extend(records)

    def _count(self, size: int) -> None:
        self.sent_bytes += size
        if self.sent_bytes > self._limit_bytes:
            remedy = "send less for one record" if self.partitions else "read the batch in chunks, each is a commit"
            raise OutboxTooLarge(
                f"{self.owner} sent {self.sent_bytes} bytes without a commit, {self._limit_bytes} is most: {remedy}"
            )
        if self.sent_bytes > SOFT_LIMIT_BYTES:
            self.on_soft_limit()

    @property
    def pending(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self._sent) or any(view.touched or view.sweeping for view in self.views.values())

    @property
    def over_soft_limit(self) -> bool:
        """Whether the next record boundary should be committed before the task goes on."""
        # While the disk takes no commits, tasks wait there: what they did would only pile up.
        return self.sent_bytes > SOFT_LIMIT_BYTES or self.store.failure is not None

    def take(self, commit: Commit) -> None:
        """Move everything into *commit* and begin anew.

        Raises:
            EncodeError: A table value cannot be stored; nothing was moved.
            TableOwned: Another agent writes one of the tables; nothing was moved.
        """
        changes: list[Change] = self.time.changes()
        for view in self.views.values():
            changes += view.changes()
        self.store.send(commit, self._sent)
        commit.changes += changes
        if self._sent and self.owner not in self.store.senders:
            self._note_sender(commit)
        for view in self.views.values():
            view.taken()
        self.time.taken()
        self._sent, self.sent_bytes = {}, 0

    def _note_sender(self, commit: Commit) -> None:
        """Rewinding who has sent something has to say what becomes of what it sends again."""
        if not all(topic.name.endswith(DEAD_LETTERS) for topic, _ in self._sent):
            commit.changes.append((rows.sender_key(self.owner), b""))
            self.store.senders.add(self.owner)

    def settled(self) -> None:
        """What was taken last is committed."""
        for view in self.views.values():
            view.settled()

    def renew(self) -> Effects:
        """The effects to go on with for the next records; whoever still holds these ones is refused."""
        fresh = Effects(self.owner, self.store, self.partition, self.partitions)
        fresh.redirect, fresh.stored_as = self.redirect, self.stored_as
        fresh.now_ms, fresh.on_soft_limit = self.now_ms, self.on_soft_limit
        fresh.views.update(self.views)
        fresh.time = self.time
        fresh._sent, fresh.sent_bytes = self._sent, self.sent_bytes
        self.close()
        return fresh

    def discard(self) -> Effects:
        """Forget everything uncommitted; returns the effects to go on with, as `renew`."""
        for view in self.views.values():
            view.evict()
        self.time.discard()
        self._sent, self.sent_bytes = {}, 0
        return self.renew()

    def absorb(self, other: Effects) -> None:
        """Send what *other*, which is finished, has sent."""
        for target, records in other._sent.items():
            self._sent.setdefault(target, []).extend(records)
        self.sent_bytes += other.sent_bytes
        if self.sent_bytes > SOFT_LIMIT_BYTES:
            self.on_soft_limit()

    def close(self) -> None:
        """Refuse from now on."""
        self.views.close()


class Views(dict["Table[Any, Any]", "View"]):
    """The table views of one `Effects`, made when first asked for; refuses when closed."""

    def __init__(self, effects: Effects) -> None:
        """No views yet."""
        self._effects, self.closed = effects, False

    def __missing__(self, table: Table[Any, Any]) -> View:
        if self.closed:
            raise StaleTask(f"table {table.name!r} is used after its record was finished or discarded")
        view = self[table] = self._view(table)
        if self.closed:  # By now, in another thread.
            self.clear()
        return view

    def _view(self, table: Table[Any, Any]) -> View:
        return table.view(self._effects)

    def close(self) -> None:
        """Refuse from now on; code of the task may run in another thread meanwhile."""
        self.closed = True  # First, and of a copy: it may be adding a view.
        for table in list(self):
            table.forget(self._effects)
        self.clear()
