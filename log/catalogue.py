"""The catalogue: which topics there are, under which id, with which settings and slots.

One document, `catalogue`, replaced under the catalogue lock; the shared file counts its changes, so that every
process rereads it when it must and only then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from framework.log.codec import HEADER_OVERHEAD_BYTES, RECORD_OVERHEAD_BYTES, Headers
from framework.log.document import read_document, write_document
from framework.log.errors import Damaged, InvalidSetting, KeyRequired, RecordTooLarge, TopicExists, UnknownTopic
from framework.log.files import Files
from framework.log.locks import CATALOGUE_LOCK
from framework.log.settings import TopicSettings, check_partitions, check_topic_name
from framework.log.shared import IN_USE, Shared

VERSION = 1
Change = Callable[[TopicSettings], TopicSettings]


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """One topic: `slots` holds the shared file's slot of each partition."""

    name: str
    id: str
    settings: TopicSettings
    slots: tuple[int, ...]

    def __hash__(self) -> int:
        # Not of all it has: what is sent is gathered by topic, a record at a time.
        return hash(self.id)

    @property
    def partitions(self) -> int:
        """How many partitions the topic has."""
        return len(self.slots)

    def check_record(self, key: bytes | None, value: bytes | None, headers: Headers) -> int:
        """The most bytes that a record takes in a batch of its own.

        Raises:
            RecordTooLarge: The topic does not take so many.
            KeyRequired: The topic is compacted, and there is no key.
        """
        if key is None and self.settings.compacts:
            raise KeyRequired(f"{self.name!r} is compacted, it keeps the last record of each key: this one has none")
        size = len(key or b"") + len(value or b"") + RECORD_OVERHEAD_BYTES
        for name, data in headers:
            size += len(name.encode()) + len(data or b"") + HEADER_OVERHEAD_BYTES
        if size > self.settings.max_message_bytes:
            raise RecordTooLarge(
                f"a record of {size} bytes to {self.name!r} is over its max.message.bytes, "
                f"{self.settings.max_message_bytes}"
            )
        return size


class Catalogue:
    """The topics of one data directory, as of the newest change."""

    def __init__(self, directory: Path, shared: Shared, files: Files) -> None:
        """Read the catalogue; an absent one has no topics."""
        self._path, self._shared, self._files = directory / "catalogue", shared, files
        self._seen = -1
        self._topics: dict[str, TopicInfo] = {}
        self._by_id: dict[str, TopicInfo] = {}

    def topics(self) -> dict[str, TopicInfo]:
        """Every topic by name."""
        version = self._shared.catalogue_version
        if version != self._seen:
            self._topics, _ = read_catalogue(self._path)
            self._by_id, self._seen = {info.id: info for info in self._topics.values()}, version
        return self._topics

    def by_id(self, topic_id: str) -> TopicInfo | None:
        """The topic with this id, None if it was deleted."""
        self.topics()
        return self._by_id.get(topic_id)

    def topic(self, name: str) -> TopicInfo:
        """The topic *name*.

        Raises:
            UnknownTopic: There is none.
        """
        return self._known(self.topics(), name)

    def create(self, name: str, partitions: int, settings: TopicSettings, topic_id: str) -> TopicInfo:
        """Add a topic.

        Raises:
            TopicExists: There is one of this name.
            InvalidName, InvalidSetting: Kafka would not take it.
        """
        check_topic_name(name)
        check_partitions(partitions)
        with self._shared.locked(CATALOGUE_LOCK, "the catalogue"):
            topics, next_slot = read_catalogue(self._path)
            if name in topics:
                count = topics[name].partitions
                raise TopicExists(f"topic {name!r} exists, with {count} partition{'s' * (count > 1)}")
            slots = self._take_slots(next_slot, partitions)
            topics[name] = TopicInfo(name, topic_id, settings, slots)
            self._write(topics, next_slot + partitions)
        return topics[name]

    def alter(self, name: str, change: Change, partitions: int | None) -> TopicInfo:
        """Give a topic the settings that *change* makes of those it has, and as many partitions or more.

        Raises:
            UnknownTopic: There is none of this name.
            InvalidSetting: It has more partitions than *partitions*, or *change* says so.
        """
        if partitions is not None:
            check_partitions(partitions)
        with self._shared.locked(CATALOGUE_LOCK, "the catalogue"):
            topics, next_slot = read_catalogue(self._path)
            info = self._known(topics, name)
            settings = change(info.settings)
            more = 0 if partitions is None else partitions - info.partitions
            if more < 0:
                raise InvalidSetting(
                    f"topic {name!r} has {info.partitions} partitions and cannot have {partitions}: the records of the "
                    "others would be lost. Send them to a new topic instead"
                )
            slots = info.slots + self._take_slots(next_slot, more)
            topics[name] = replace(info, settings=settings, slots=slots)
            self._write(topics, next_slot + more)
        return topics[name]

    def remove(self, name: str, close: Callable[[TopicInfo], None]) -> TopicInfo:
        """Forget a topic, after *close* has been called with it.

        Raises:
            UnknownTopic: There is none of this name.
        """
        with self._shared.locked(CATALOGUE_LOCK, "the catalogue"):
            topics, next_slot = read_catalogue(self._path)
            info = self._known(topics, name)
            close(info)
            del topics[name]
            self._write(topics, next_slot)
        return info

    def _known(self, topics: dict[str, TopicInfo], name: str) -> TopicInfo:
        if name not in topics:
            raise UnknownTopic(f"there is no topic {name!r} in {self._path.parent}")
        return topics[name]

    def _take_slots(self, first: int, count: int) -> tuple[int, ...]:
        """Slots are never used again: a process that still has a deleted topic open knows its slots."""
        self._shared.grow(first + count)
        slots = tuple(range(first, first + count))
        for slot in slots:
            self._shared.set_flags(slot, IN_USE)
        return slots

    def _write(self, topics: dict[str, TopicInfo], next_slot: int) -> None:
        rows = [
            {"name": t.name, "id": t.id, "slots": t.slots, "config": t.settings.as_config()} for t in topics.values()
        ]
        write_document(self._files, self._path, "catalogue", VERSION, {"next_slot": next_slot, "topics": rows})
        self._shared.bump_catalogue()


def read_catalogue(path: Path) -> tuple[dict[str, TopicInfo], int]:
    """The topics in the catalogue at *path*, and the first slot that none of them ever had.

    Raises:
        Damaged: It is not what was written, or missing although there are topics.
    """
    try:
        body = read_document(path, "catalogue", VERSION)
    except FileNotFoundError:
        # It is durable before the first topic has a directory, and is never removed.
        place = path.parent / "topics"
        if place.is_dir() and any(place.iterdir()):
            raise Damaged(f"{path} is missing, but there are topics in {place}") from None
        return {}, 0
    topics = {
        row["name"]: TopicInfo(row["name"], row["id"], TopicSettings.from_config(row["config"]), tuple(row["slots"]))
        for row in body["topics"]
    }
    return topics, body["next_slot"]
