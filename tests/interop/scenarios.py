"""What every client is asked to do; each scenario is written once, in calls that all drivers have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from tests.interop import admin_scenarios, group_scenarios, record_scenarios
from tests.interop.stage import Stage

Scenario = Callable[[Stage], Awaitable[None]]

SCENARIOS: dict[str, Scenario] = {
    **{
        f"produce, {codec}": partial(record_scenarios.compressed, codec=codec)
        for codec in ("none", "gzip", "snappy", "lz4", "zstd")
    },
    "idempotent": record_scenarios.idempotent,
    "acks all, 1, 0": record_scenarios.acknowledged,
    "times of records": record_scenarios.timed,
    "seek by time": record_scenarios.since,
    "10 MB refused": record_scenarios.too_large,
    "members join and leave": group_scenarios.come_and_go,
    "cooperative members": group_scenarios.cooperate,
    "a member is killed": group_scenarios.die,
    "static members": group_scenarios.come_back,
    "committed offsets": group_scenarios.go_on,
    "offset out of range": group_scenarios.out_of_range,
    "create, delete topics": admin_scenarios.topics,
    "list, describe topics": admin_scenarios.described,
    "topics on demand": admin_scenarios.made_on_demand,
    "topic settings": admin_scenarios.settings,
    "more partitions": admin_scenarios.more_partitions,
    "first and last offset": admin_scenarios.ends,
    "list, describe groups": admin_scenarios.groups,
    "delete groups": admin_scenarios.delete_group,
    "offsets of groups": admin_scenarios.group_offsets,
    "reset groups": admin_scenarios.reset,
}
"""By the name that the matrix has."""
