"""Records as agents and jobs see them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from framework.log import StoredRecord
from framework.log.clock import EPOCH

if TYPE_CHECKING:
    from framework.topic import Topic

V = TypeVar("V")
K = TypeVar("K", default=str)


class Record(Generic[V, K]):
    """One record of a topic: the decoded value, and where it came from."""

    __slots__ = ("_stored", "_topic", "_value", "partition")

    def __init__(self, topic: Topic[Any, Any], partition: int, stored: StoredRecord, value: V) -> None:
        """*stored* is of *topic*; *value* is its decoded value, None for a tombstone."""
        self._topic, self._stored, self._value = topic, stored, value
        self.partition = partition

    @property
    def key(self) -> K | None:
        """The decoded key; None if the record has none."""
        key = self._stored.key
        if key is None:
            return None
        decoded: K = self._topic.key_serde.decode(key)
        return decoded

    @property
    def value(self) -> V:
        """The decoded value; None for a tombstone."""
        return self._value

    @property
    def is_tombstone(self) -> bool:
        """Whether it has no value, which is something else than a JSON null."""
        return self._stored.value is None

    @property
    def timestamp(self) -> datetime:
        """When it happened, as its producer said; UTC, to the millisecond."""
        return EPOCH + timedelta(milliseconds=self._stored.timestamp)

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self._topic.name

    @property
    def offset(self) -> int:
        """Its position in the partition."""
        return self._stored.offset

    @property
    def headers(self) -> Mapping[str, bytes]:
        """The headers; of several with one name, the last."""
        return {name: value or b"" for name, value in self._stored.headers}

    @property
    def id(self) -> str:
        """`topic-partition-offset`: the same through retries and replays, so an idempotency key for the outside."""
        return f"{self._topic.name}-{self.partition}-{self._stored.offset}"

    def __repr__(self) -> str:
        return f"<Record {self.id} key={self._stored.key!r} value={self._value!r}>"
