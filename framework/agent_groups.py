"""Agents and jobs as consumer groups, so that what shows the lag of groups shows theirs.

The group of an agent or job is `<app>.<name>`, that of a stage of an agent `<app>.<agent>.<stage>`. Its committed
offsets are those in the state; its one member is the worker, as long as one runs and has tasks of the agent.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

from framework.identity import Known
from framework.log import Log
from framework.log.broker.offsets import ForeignGroup, ForeignMember, Place
from framework.state.view import StateView
from framework.status import read_status


class AgentGroups:
    """The agents and jobs of one data directory as `ForeignGroups`; thread-safe."""

    def __init__(self, log: Log, view: StateView | None = None) -> None:
        """*view* stays open for longer, if it is given; else `close` closes the one that is made."""
        self._log = log
        self._view, self._owns = view or StateView(log), view is None
        self._names: frozenset[str] = frozenset()

    def names(self) -> Container[str]:
        """As `ForeignGroups.names`."""
        return self._names

    def refresh(self) -> None:
        """As `ForeignGroups.refresh`."""
        self._names = frozenset(self._offsets())

    def groups(self) -> Mapping[str, ForeignGroup]:
        """As `ForeignGroups.groups`."""
        members = self._members()
        return {
            group: ForeignGroup(group, offsets, members.get(name, ()))
            for group, (name, offsets) in self._offsets().items()
        }

    def close(self) -> None:
        """Close what was opened."""
        if self._owns:
            self._view.close()

    def _offsets(self) -> dict[str, tuple[str, dict[Place, int]]]:
        """By group: the name of the agent, job or stage, and what it has committed."""
        apps = {known.name: known.app for known in (Known.load(*row) for row in self._view.name_rows())}
        found: dict[str, tuple[str, dict[Place, int]]] = {f"{app}.{name}": (name, {}) for name, app in apps.items()}
        for name, topic_id, partition, offset in [*self._view.offsets(), *self._view.job_offsets()]:
            app = _app_of(name, apps)
            if app is not None:
                found.setdefault(f"{app}.{name}", (name, {}))[1][topic_id, partition] = offset
        return found

    def _members(self) -> dict[str, list[ForeignMember]]:
        """Who runs each agent just now."""
        status = read_status(self._log)
        if status is None:
            return {}
        pid, tasks = status
        shares: dict[str, dict[str, list[int]]] = {}
        for task in tasks:
            shares.setdefault(task.agent, {}).setdefault(task.topic, []).append(task.partition)
        return {
            agent: [ForeignMember(f"worker-{pid}", "framework", "127.0.0.1", topics)]
            for agent, topics in shares.items()
        }


def _app_of(name: str, apps: Mapping[str, str]) -> str | None:
    """The app of an agent or job, or of the agent that *name* is a stage of."""
    while name not in apps:
        name, point, _ = name.rpartition(".")
        if not point:
            return None
    return apps[name]
