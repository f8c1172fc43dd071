"""The settings of a topic: one table with Kafka's names, defaults, ranges and meanings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from framework.log.compression import COMPRESSIONS, MAX_UNCOMPRESSED_BYTES
from framework.log.errors import InvalidName, InvalidSetting

Setting = int | float | str
"""The value of a setting."""
MAX_PARTITIONS = 10_000
INTERNAL = "__"
"""What the names of topics begin with that belong to the machinery, as Kafka's do, and to no program."""
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """How one topic is kept; -1 means without limit."""

    retention_ms: int = 7 * 24 * 3600 * 1000
    retention_bytes: int = -1
    segment_bytes: int = 128 << 20  # Kafka has 1 GiB; a smaller one bounds what a cold start must read.
    max_message_bytes: int = 1 << 20
    index_interval_bytes: int = 4096
    segment_ms: int = 7 * 24 * 3600 * 1000
    hold_bytes: int = -1
    """How much may be kept beyond retention for agents and jobs of this directory that have not read it yet."""

    durability: str = "group"
    """When an append is acknowledged and can be read: `group` when it is synced together with those that came
    meanwhile, `always` when it is synced by itself, `os` when it is written: that survives a kill, not a power cut."""

    compression_type: str = "producer"
    """How records are compressed that are sent through this library; `producer` leaves it to each producer."""

    max_uncompressed_bytes: int = MAX_UNCOMPRESSED_BYTES
    """What the records of one batch may take when they are decompressed."""

    cleanup_policy: str = "delete"
    """`delete` by retention, `compact` to the last record of each key, or `compact,delete`."""

    min_cleanable_dirty_ratio: float = 0.5
    """Which part of the closed segments must not have been compacted yet before they are."""

    delete_retention_ms: int = 24 * 3600 * 1000
    """How long a tombstone is kept once it was compacted, for readers who have the record that it deletes."""

    min_compaction_lag_ms: int = 0
    """How old a segment must be, by the time of its last append, to be compacted."""

    producer_id_expiration_ms: int = 24 * 3600 * 1000
    """How long an idempotent producer of another client is remembered after its last append."""

    def __post_init__(self) -> None:
        """Refuse a value out of its range, naming both."""
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise InvalidSetting(
                    f"{kafka_name(name)} is {getattr(self, name)!r}, it must be one of {', '.join(map(repr, choices))}"
                )
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            kinds = (int, float) if isinstance(low, float) else int
            if not isinstance(value, kinds) or isinstance(value, bool) or not low <= value <= high:
                raise InvalidSetting(f"{kafka_name(name)} is {value!r}, it must lie between {low} and {high}")

    @property
    def most_uncompressed_bytes(self) -> int:
        """What the records of one batch may take: as much as one that is not compressed at least."""
        return max(self.max_uncompressed_bytes, self.max_message_bytes)

    @property
    def compacts(self) -> bool:
        """Whether only the last record of each key is kept."""
        return "compact" in self.cleanup_policy

    @property
    def deletes(self) -> bool:
        """Whether old segments go by retention."""
        return "delete" in self.cleanup_policy

    def compression(self, producers: str | None = None) -> str:
        """How a producer compresses: as the topic says, else as it is asked to (*producers*), else not at all."""
        if self.compression_type == "producer":
            return producers or "uncompressed"
        return self.compression_type

    def as_config(self) -> dict[str, Setting]:
        """The settings under Kafka's names."""
        return {kafka_name(field.name): getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_config(cls, config: Mapping[str, Setting]) -> TopicSettings:
        """The settings from Kafka's names; what is not named has its default.

        Raises:
            InvalidSetting: A name is unknown or a value out of range.
        """
        return cls(**cls.fields_of(config))  # type: ignore[arg-type]  # checked there

    @classmethod
    def fields_of(cls, config: Mapping[str, Setting]) -> dict[str, Setting]:
        """The values in *config*, which has Kafka's names, by the names that they have here.

        Raises:
            InvalidSetting: A name is unknown.
        """
        known = {kafka_name(field.name): field.name for field in fields(cls)}
        unknown = sorted(set(config) - set(known))
        if unknown:
            raise InvalidSetting(f"unknown topic setting {unknown[0]!r}; known are {', '.join(known)}")
        return {known[name]: value for name, value in config.items()}


CHOICES: Mapping[str, tuple[str, ...]] = {
    "durability": ("group", "always", "os"),
    "compression_type": ("producer", *COMPRESSIONS),
    "cleanup_policy": ("delete", "compact", "compact,delete", "delete,compact"),
}
RANGES: Mapping[str, tuple[int, int] | tuple[float, float]] = {
    "retention_ms": (-1, 1 << 62),
    "retention_bytes": (-1, 1 << 62),
    "segment_bytes": (4096, 1 << 30),
    "max_message_bytes": (1024, 1 << 29),
    "index_interval_bytes": (512, 1 << 20),
    "segment_ms": (1000, 1 << 62),
    "hold_bytes": (-1, 1 << 62),
    "max_uncompressed_bytes": (1024, 1 << 30),
    "min_cleanable_dirty_ratio": (0.0, 1.0),
    "delete_retention_ms": (0, 1 << 62),
    "min_compaction_lag_ms": (0, 1 << 62),
    "producer_id_expiration_ms": (1000, 1 << 62),
}


def parse_setting(name: str, text: str) -> Setting:
    """The value of the setting with Kafka's *name*, from *text*.

    Raises:
        InvalidSetting: There is no such setting, or it does not hold such values.
    """
    kind = {kafka_name(field.name): field.type for field in fields(TopicSettings)}.get(name)
    try:
        if kind == "float":
            return float(text)
        return int(text) if kind == "int" else text
    except ValueError:
        what = "number" if kind == "float" else "whole number"
        raise InvalidSetting(f"{name} is {text!r}, it must be a {what}") from None


def kafka_name(field: str) -> str:
    """The name Kafka gives the setting: `retention_ms` is `retention.ms`."""
    return field.replace("_", ".")


def check_topic_name(name: str) -> str:
    """*name*, if Kafka would take it.

    Raises:
        InvalidName: It would not.
    """
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise InvalidName(
            f"topic name {name!r} is not valid: 1 to 249 characters, only letters, digits, '.', '_' and '-'"
        )
    return name


def check_not_internal(name: str) -> None:
    """Refuse a topic of a program's with the name of an internal one.

    Raises:
        InvalidName: It begins with `INTERNAL`.
    """
    if name.startswith(INTERNAL):
        raise InvalidName(f"topic {name!r} cannot be: names that begin with {INTERNAL!r} are those of internal topics")


def check_partitions(count: int) -> int:
    """*count*, if a topic may have so many partitions.

    Raises:
        InvalidSetting: It may not.
    """
    if not isinstance(count, int) or not 1 <= count <= MAX_PARTITIONS:
        raise InvalidSetting(f"partitions is {count!r}, it must lie between 1 and {MAX_PARTITIONS}")
    return count
