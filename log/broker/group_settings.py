"""The limits of consumer groups, by Kafka's names where Kafka has them."""

from __future__ import annotations

from dataclasses import dataclass, fields

from framework.log.errors import InvalidSetting

MINUTE_MS, DAY_MS = 60_000, 86_400_000
MAX_VALUE = (1 << 53) - 1
MAY_BE_ZERO = {"group_initial_rebalance_delay_ms", "offset_metadata_max_bytes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """What groups may take, and how long the broker waits for whom."""

    group_initial_rebalance_delay_ms: int = 0
    """How long a new group waits for more members; with 0 its first member has its partitions at once."""
    group_min_session_timeout_ms: int = 6_000
    group_max_session_timeout_ms: int = 30 * MINUTE_MS
    min_rebalance_timeout_ms: int = 1_000
    """A client that asks for less is given this."""
    new_member_join_timeout_ms: int = 5 * MINUTE_MS
    """How long a member that is new, and so has no session yet, is kept while others are waited for."""
    group_max_size: int = 1_000
    """The most members of a group, those that were given an id and have not joined with it yet included."""
    max_groups: int = 10_000
    """The most groups with members, and the most with committed offsets."""
    max_group_id_bytes: int = 1_024
    max_member_bytes: int = 1 << 20
    """The most that one member may say in joining, and be assigned."""
    max_group_memory_bytes: int = 128 << 20
    """The most that the members of all groups may take."""
    offset_metadata_max_bytes: int = 4_096
    offsets_retention_ms: int = 7 * DAY_MS
    """How long the offsets of a group are kept after its last commit, and after its last member was seen."""
    offsets_retention_check_interval_ms: int = 10 * MINUTE_MS
    """How often it is looked which have to go; so long after a start, too, members have the time to join again."""

    def __post_init__(self) -> None:
        """Refuse a value out of its range, naming both."""
        for field in fields(self):
            value, low = getattr(self, field.name), 0 if field.name in MAY_BE_ZERO else 1
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= MAX_VALUE:
                raise InvalidSetting(f"{field.name} is {value!r}, it must lie between {low} and {MAX_VALUE}")
        shortest, longest = self.group_min_session_timeout_ms, self.group_max_session_timeout_ms
        if shortest > longest:
            raise InvalidSetting(
                f"group_min_session_timeout_ms is {shortest}, more than group_max_session_timeout_ms, {longest}"
            )
