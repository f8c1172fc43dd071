"""The settings of a topic: one table with Kafka's names, defaults, ranges and meanings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from framework.log.errors import InvalidName, InvalidSetting

MAX_PARTITIONS = 10_000
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

    def __post_init__(self) -> None:
        """Refuse a value out of its range, naming both."""
        if self.durability not in DURABILITIES:
            raise InvalidSetting(f"durability is {self.durability!r}, it must be one of {', '.join(DURABILITIES)}")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise InvalidSetting(f"{kafka_name(name)} is {value!r}, it must lie between {low} and {high}")

    def as_config(self) -> dict[str, int | str]:
        """The settings under Kafka's names."""
        return {kafka_name(field.name): getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_config(cls, config: Mapping[str, int | str]) -> TopicSettings:
        """The settings from Kafka's names; what is not named has its default.

        Raises:
            InvalidSetting: A name is unknown or a value out of range.
        """
        known = {kafka_name(field.name): field.name for field in fields(cls)}
        unknown = sorted(set(config) - set(known))
        if unknown:
            raise InvalidSetting(f"unknown topic setting {unknown[0]!r}; known are {', '.join(known)}")
        return cls(**{known[name]: value for name, value in config.items()})  # type: ignore[arg-type]  # checked there


DURABILITIES = ("group", "always", "os")
RANGES: Mapping[str, tuple[int, int]] = {
    "retention_ms": (-1, 1 << 62),
    "retention_bytes": (-1, 1 << 62),
    "segment_bytes": (4096, 1 << 30),
    "max_message_bytes": (1024, 1 << 29),
    "index_interval_bytes": (512, 1 << 20),
    "segment_ms": (1000, 1 << 62),
    "hold_bytes": (-1, 1 << 62),
}


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


def check_partitions(count: int) -> int:
    """*count*, if a topic may have so many partitions.

    Raises:
        InvalidSetting: It may not.
    """
    if not isinstance(count, int) or not 1 <= count <= MAX_PARTITIONS:
        raise InvalidSetting(f"partitions is {count!r}, it must lie between 1 and {MAX_PARTITIONS}")
    return count
