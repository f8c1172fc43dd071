"""Where committed offsets are kept: the seam between the broker and its store, and a store in memory.

A committed offset belongs to a topic id and not to a name: what was committed for a topic that was deleted is not taken
for one of a new topic of the same name.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from framework.log.errors import TooManyGroups

T = TypeVar("T")
Place = tuple[str, int]
"""A topic id and the number of a partition."""


class Committed(NamedTuple):
    """How far a group has read: *offset* is the next to read."""

    offset: int
    leader_epoch: int = -1
    metadata: str = ""
    time_ms: int = 0


class OffsetStore(Protocol):
    """Committed offsets by group. Changes happen in the order of the calls, and are durable when their future is done.

    Futures fail with an `Error` where the disk refuses; then the change was made or not, and may be asked for again.
    """

    def commit(self, group: str, offsets: Mapping[Place, Committed]) -> Future[None]:
        """Remember *offsets*.

        Raises:
            TooManyGroups: It is a group more than there may be.
        """

    def fetch(self, group: str, places: Iterable[Place] | None = None) -> dict[Place, Committed]:
        """What *group* has committed, at *places* or everywhere."""

    def groups(self) -> list[str]:
        """The groups that have committed something."""

    def delete_group(self, group: str) -> Future[None]:
        """Forget everything of *group*."""

    def delete(self, group: str, places: Collection[Place]) -> Future[None]:
        """Forget what *group* has committed at *places*."""

    def expire(self, before_ms: int, now_ms: int, live: Collection[str], topics: Container[str]) -> Future[int]:
        """Forget the groups that committed last before *before_ms*, and what is of a topic that is not in *topics*.

        The groups that are *live* are noted as seen at *now_ms*, which counts like a commit; *topics* are ids. Returns
        how many offsets are forgotten.
        """

    def close(self) -> None:
        """Keep what was committed, and let go of everything else."""


@dataclass(frozen=True, slots=True)
class ForeignMember:
    """A process that reads for a group which is not the broker's: topics by name."""

    member_id: str
    client_id: str
    client_host: str
    partitions: Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class ForeignGroup:
    """A group that is not the broker's: what it has read, and who reads."""

    name: str
    offsets: Mapping[Place, int]
    members: Sequence[ForeignMember] = ()


class ForeignGroups(Protocol):
    """Groups that others keep, such as agents and jobs. They are shown, and cannot be joined, committed or deleted."""

    def names(self) -> Container[str]:
        """Their names as of the last `refresh`; does not block."""

    def refresh(self) -> None:
        """Look for their names; blocks while it reads."""

    def groups(self) -> Mapping[str, ForeignGroup]:
        """All of them by name; blocks while it reads."""


class NoForeignGroups:
    """What there is without agents and jobs."""

    def names(self) -> Container[str]:
        """As `ForeignGroups.names`."""
        return ()

    def refresh(self) -> None:
        """As `ForeignGroups.refresh`."""

    def groups(self) -> Mapping[str, ForeignGroup]:
        """As `ForeignGroups.groups`."""
        return {}


class MemoryOffsets:
    """An `OffsetStore` that lives as long as its process, for tests."""

    def __init__(self, max_groups: int = 10_000) -> None:
        """Nothing is committed."""
        self._max_groups = max_groups
        self._offsets: dict[str, dict[Place, Committed]] = {}
        self._seen_ms: dict[str, int] = {}

    def close(self) -> None:
        """As `OffsetStore.close`: nothing is kept."""

    def commit(self, group: str, offsets: Mapping[Place, Committed]) -> Future[None]:
        """As `OffsetStore.commit`."""
        if group not in self._offsets and len(self._offsets) >= self._max_groups:
            raise too_many(group, self._max_groups)
        if offsets:
            self._offsets.setdefault(group, {}).update(offsets)
            self._seen_ms[group] = max(each.time_ms for each in offsets.values())
        return _done(None)

    def fetch(self, group: str, places: Iterable[Place] | None = None) -> dict[Place, Committed]:
        """As `OffsetStore.fetch`."""
        there = self._offsets.get(group, {})
        return dict(there) if places is None else {place: there[place] for place in places if place in there}

    def groups(self) -> list[str]:
        """As `OffsetStore.groups`."""
        return list(self._offsets)

    def delete_group(self, group: str) -> Future[None]:
        """As `OffsetStore.delete_group`."""
        self._offsets.pop(group, None)
        self._seen_ms.pop(group, None)
        return _done(None)

    def delete(self, group: str, places: Collection[Place]) -> Future[None]:
        """As `OffsetStore.delete`."""
        there = self._offsets.get(group, {})
        for place in places:
            there.pop(place, None)
        if not there:
            self._offsets.pop(group, None)
        return _done(None)

    def expire(self, before_ms: int, now_ms: int, live: Collection[str], topics: Container[str]) -> Future[int]:
        """As `OffsetStore.expire`."""
        gone = 0
        for group, offsets in list(self._offsets.items()):
            if group in live:
                self._seen_ms[group] = now_ms
            places = expired(offsets, self._seen_ms[group], before_ms, topics)
            self.delete(group, places)
            gone += len(places)
        return _done(gone)


def expired(offsets: Iterable[Place], seen_ms: int, before_ms: int, topics: Container[str]) -> list[Place]:
    """Which of the *offsets* of a group that committed, or was seen, last at *seen_ms* have to go."""
    return [place for place in offsets if seen_ms < before_ms or place[0] not in topics]


def too_many(group: str, most: int) -> TooManyGroups:
    """Says what to do about it."""
    return TooManyGroups(
        f"group {group!r} would be one more than {most} with committed offsets, which is what max_groups allows: "
        "delete those that are not needed, `framework groups ls` lists them"
    )


def _done(result: T) -> Future[T]:
    future: Future[T] = Future()
    future.set_result(result)
    return future
