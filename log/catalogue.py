"""The catalogue: which topics there are, under which id, with which settings and slots.

One document, `catalogue`, replaced under the catalogue lock; the shared file counts its changes, so that every
process rereads it when it must and only then.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from framework.log.codec import HEADER_OVERHEAD_BYTES, RECORD_OVERHEAD_BYTES, Headers
from framework.log.document import read_document, write_document
from framework.log.errors import RecordTooLarge, TopicExists, UnknownTopic
from framework.log.files import Files
from framework.log.settings import TopicSettings, check_partitions, check_topic_name
from framework.log.shared import CATALOGUE_LOCK, IN_USE, Shared

VERSION = 1


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """One topic: `slots` holds the shared file's slot of each partition."""

    name: str
    id: str
    settings: TopicSettings
    slots: tuple[int, ...]

    @property
    def partitions(self) -> int:
        """How many partitions the topic has."""
        return len(self.slots)

    def check_record(self, key: bytes | None, value: bytes | None, headers: Headers) -> int:
        """The most bytes that a record takes in a batch of its own.

        Raises:
            RecordTooLarge: The topic does not take so many.
        """
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

    def topics(self) -> dict[str, TopicInfo]:
        """Every topic by name."""
        version = self._shared.catalogue_version
        if version != self._seen:
            self._topics, self._seen = self._read(), version
        return self._topics

    def topic(self, name: str) -> TopicInfo:
        """The topic *name*.

        Raises:
            UnknownTopic: There is none.
        """
        info = self.topics().get(name)
        if info is None:
            raise UnknownTopic(f"there is no topic {name!r} in {self._path.parent}")
        return info

    def create(self, name: str, partitions: int, settings: TopicSettings, topic_id: str) -> TopicInfo:
        """Add a topic.

        Raises:
            TopicExists: There is one of this name.
            InvalidName, InvalidSetting: Kafka would not take it.
        """
        check_topic_name(name)
        check_partitions(partitions)
        with self._shared.locked(CATALOGUE_LOCK, "the catalogue"):
            topics = dict(self._read())
            if name in topics:
                count = topics[name].partitions
                raise TopicExists(f"topic {name!r} exists, with {count} partition{'s' * (count > 1)}")
            first = 1 + max((slot for info in topics.values() for slot in info.slots), default=-1)
            info = TopicInfo(name, topic_id, settings, tuple(range(first, first + partitions)))
            self._shared.grow(first + partitions)
            for slot in info.slots:
                self._shared.set_flags(slot, IN_USE)
            topics[name] = info
            rows = [
                {"name": t.name, "id": t.id, "slots": t.slots, "config": t.settings.as_config()}
                for t in topics.values()
            ]
            write_document(self._files, self._path, "catalogue", VERSION, {"topics": rows})
            self._shared.bump_catalogue()
        return info

    def _read(self) -> dict[str, TopicInfo]:
        try:
            body = read_document(self._path, "catalogue", VERSION)
        except FileNotFoundError:
            return {}
        return {
            row["name"]: TopicInfo(
                row["name"], row["id"], TopicSettings.from_config(row["config"]), tuple(row["slots"])
            )
            for row in body["topics"]
        }
