"""Topics as an app declares them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal

from typing_extensions import TypedDict, TypeVar

from framework.effects import current
from framework.errors import DeclarationError, EncodeError
from framework.log import At, NewRecord, TopicInfo, TopicSettings, partition_of
from framework.log.ack import Ack
from framework.log.clock import to_ms
from framework.log.codec import NO_HEADERS, Headers
from framework.log.errors import InvalidSetting
from framework.log.settings import Setting, check_partitions, check_topic_name
from framework.serdes import key_serde_of, serde_of, upgrading

if TYPE_CHECKING:
    from framework.app import App
    from framework.batch import Batch
    from framework.follow import Follow

V = TypeVar("V")
K = TypeVar("K", default=str)
Durability = Literal["group", "always", "os"]
Compression = Literal["uncompressed", "gzip", "snappy", "lz4", "zstd"]
KEY_CACHE_ROWS = 100_000


@dataclass(frozen=True, slots=True)
class Unset:
    """Stands for an argument that was not given, where None means something."""


UNSET = Unset()


class TopicOptions(TypedDict, total=False):
    """What can be said of a topic beside its types: see `App.topic`."""

    partitions: int | None
    """How many, if not as many as the app says."""
    retention: timedelta | None | Unset
    """How long records are kept, None for ever; a week unless said."""
    durability: Durability
    """When a send is acknowledged: `group` when it is synced with what came meanwhile, `always` by itself, `os` not."""
    compression: Compression
    """How records are compressed."""
    compact: bool
    """Whether of each key only the last record is kept, for ever unless *retention* says how long."""
    config: Mapping[str, Setting]
    """Any other setting by Kafka's name: `{"segment.bytes": 1 << 20}`; see `TopicSettings`."""
    upgrade: Callable[[Any], Any]
    """Makes the JSON of a value that was stored as an older type into one of the present type."""


class Topic(Generic[V, K]):
    """A topic, typed: what can be sent to it and what its records are decoded to."""

    def __init__(
        self,
        app: App,
        name: str,
        value_type: Any,
        *,
        key_type: Any = str,
        key: Callable[[V], K] | None = None,
        partitions: int | None = None,
        overrides: Mapping[str, Setting] | None = None,
        upgrade: Callable[[Any], Any] | None = None,
    ) -> None:
        """Use `App.topic`. *overrides* are settings that are not the default's, as `TopicSettings` has them."""
        self.name = check_topic_name(name)
        self.value_serde = upgrading(serde_of(value_type), upgrade, f"topic {name!r}")
        self.key_serde = key_serde_of(key_type)
        self.value_type, self.key_type = value_type, key_type
        self.partitions = None if partitions is None else check_partitions(partitions)
        self.overrides = dict(overrides or {})
        self.key_of, self.upgrade = key, upgrade
        self.like: Topic[Any, Any] | None = None
        """The topic whose number of partitions it has, if it was not declared with one."""
        self._app = app
        self._partition_of: dict[bytes, int] = {}
        self._next_partition = 0

    @property
    def keeps_time(self) -> bool:
        """Whether what reads it must know the time: its app has a table whose rows grow old."""
        return any(table.ttl_ms for table in self._app.tables.values())

    # Sending.

    def send(
        self,
        value: V,
        *,
        key: K | None | Unset = UNSET,
        timestamp: datetime | None = None,
        headers: Mapping[str, bytes] | None = None,
    ) -> Ack:
        """Take a record at once; the `Ack` says when it is durable.

        Inside an agent or job it joins the commit, and its timestamp is that of the record being handled;
        outside it is appended by itself, stamped now. Without a key the topic's `key=` derives one.

        Raises:
            EncodeError: *value* is no value of the topic's type, or a header is no `str: bytes`.
            RecordTooLarge: It is larger than the topic allows.
        """
        if isinstance(key, Unset):
            key = self.key_of(value) if self.key_of is not None else None
        raw_key = None if key is None else self.key_serde.encode(key)
        stamp = None if timestamp is None else to_ms(timestamp)
        listed = _headers(headers) if headers else NO_HEADERS
        return self.send_raw(raw_key, self.value_serde.encode(value), stamp, listed)

    def send_tombstone(self, key: K, *, timestamp: datetime | None = None) -> Ack:
        """Say that what *key* stands for is gone: a record without a value, as compacted topics and tables know it."""
        return self.send_raw(
            self.key_serde.encode(key), None, None if timestamp is None else to_ms(timestamp), NO_HEADERS
        )

    def send_many(self, values: Iterable[V]) -> Ack:
        """Send *values* in order; the `Ack` of the last one waits for those of its partition.

        Raises:
            ValueError: There are none.
        """
        acks: dict[int, Ack] = {}
        for value in values:
            ack = self.send(value)
            acks[ack.partition] = ack
        if not acks:
            raise ValueError(f"send_many to {self.name!r} was given no values")
        return Ack.of_all(list(acks.values()))

    def send_raw(
        self,
        key: bytes | None,
        value: bytes | None,
        timestamp: int | None,
        headers: Headers,
        *,
        partition: int | None = None,
    ) -> Ack:
        """Send bytes that are encoded already; *timestamp* in milliseconds since the epoch."""
        info = self._app.topic_info(self)
        if partition is None:
            partition = self._choose_partition(key, info)
        effects = current.get()
        if effects is not None:
            effects.send(info, partition, key, value, effects.now_ms() if timestamp is None else timestamp, headers)
            return Ack(self.name, partition)
        if timestamp is None:
            timestamp = self._app.clock.now_ms()
        return self._app.producer().send_to(info, partition, NewRecord(key, value, timestamp, headers))

    def forget(self) -> None:
        """Begin anew, for another data directory: the topic may have other partitions there."""
        self._partition_of.clear()
        self._next_partition = 0

    def _choose_partition(self, key: bytes | None, info: TopicInfo) -> int:
        count = info.partitions
        if count == 1:
            return 0
        if key is None:
            effects = current.get()
            if effects is not None:
                return effects.partition % count
            self._next_partition = (self._next_partition + 1) % count
            return self._next_partition
        partition = self._partition_of.get(key)
        if partition is None or partition >= count:
            if len(self._partition_of) >= KEY_CACHE_ROWS:
                self._partition_of.clear()
            partition = self._partition_of[key] = partition_of(key, count)
        return partition

    # Reading.

    def read(self, start: At = "beginning", end: At = "end") -> Batch[V, K]:
        """The records from *start* up to *end*, lazily; moves nobody's offsets.

        A datetime is the first record stamped then or later, a timedelta that long ago, a whole number an offset
        (of each partition), a negative one so many records before the end. "end" is the end at the moment of the call.

        Raises:
            OffsetOutOfRange: *start* is an offset that one of the partitions does not keep any more.
        """
        from framework.batch import read_batch

        return read_batch(self._app, self, start, end)

    def follow(self, start: At = "end", *, timeout: timedelta | None = None) -> Follow[V, K]:
        """The values from *start* on as they come, without tombstones: `for` blocks, `async for` waits.

        For programs that look at a topic beside the agents: it moves nobody's offsets. Ends when there was no record
        for *timeout*, otherwise never. `.records()` gives keys, offsets and tombstones too.

        Raises:
            UnknownTopic: Nobody has made the topic yet.
            OffsetOutOfRange: *start* is an offset that one of the partitions does not keep any more.
        """
        from framework.follow import Follow, FollowedRecords

        log = self._app.open(create=False)
        return Follow(FollowedRecords(lambda: log.follow(self.name, start), self, timeout))

    def settings(self) -> TopicSettings:
        """The settings this declaration makes a topic with."""
        return TopicSettings(**self.overrides)  # type: ignore[arg-type]  # checked there

    def same_as(self, other: Topic[Any, Any]) -> bool:
        """Whether the two declarations say the same."""
        mine = (self.value_type, self.key_type, self.partitions, self.overrides, self.key_of, self.upgrade)
        others = (other.value_type, other.key_type, other.partitions, other.overrides, other.key_of, other.upgrade)
        return mine == others

    def __repr__(self) -> str:
        return f"<Topic {self.name!r} of {self.value_serde.name}>"


def overrides_of(name: str, options: TopicOptions) -> dict[str, Setting]:
    """The settings that the declaration of topic *name* changes.

    Raises:
        DeclarationError: One cannot be.
    """
    try:
        overrides = TopicSettings.fields_of(options.get("config") or {})
    except InvalidSetting as error:
        raise DeclarationError(f"topic {name!r}: {error}") from error
    retention = options.get("retention", UNSET)
    if retention is None:
        overrides["retention_ms"] = -1
    elif isinstance(retention, timedelta):
        if retention <= timedelta(0):
            raise DeclarationError(f"topic {name!r}: retention is {retention}, it must be positive, or None for ever")
        overrides["retention_ms"] = retention // timedelta(milliseconds=1)
    if "durability" in options:
        overrides["durability"] = options["durability"]
    if "compression" in options:
        overrides["compression_type"] = options["compression"]
    if options.get("compact"):
        overrides["cleanup_policy"] = "compact,delete" if isinstance(retention, timedelta) else "compact"
    try:
        TopicSettings(**overrides)  # type: ignore[arg-type]  # checked there
    except InvalidSetting as error:
        raise DeclarationError(f"topic {name!r}: {error}") from error
    return overrides


def _headers(headers: Mapping[str, bytes]) -> Headers:
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, bytes):
            raise EncodeError(f"header {name!r}: {value!r} cannot be stored: names are str, values are bytes")
    return list(headers.items())
