"""The broker with all it has in a data directory: offsets of groups in RocksDB, and agents and jobs shown as groups."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from framework.agent_groups import AgentGroups
from framework.log import Log
from framework.log.broker.group_settings import GroupSettings
from framework.log.broker.server import Broker
from framework.log.broker.settings import BrokerSettings
from framework.state.groups import GroupStore


@asynccontextmanager
async def serving(log: Log, settings: BrokerSettings, groups: GroupSettings | None = None) -> AsyncIterator[Broker]:
    """Serve *log* to Kafka's clients beside the body; *groups* are the limits of consumer groups.

    Raises:
        Conflict: Another broker serves the directory, or the port is taken.
    """
    agents = AgentGroups(log)
    try:
        async with Broker(log, settings, offsets=GroupStore, foreign=agents, groups=groups) as broker:
            yield broker
    finally:
        agents.close()
