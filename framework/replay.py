"""What becomes of the outputs of records that an agent handles a second time, after a rewind.

    replay row = until:u64 policy          policy = "s" | "d" | "t" topic name

Records below `until` have been handled before, and what they sent is in the log. Until the task has committed that
offset, its sends are sent again as new records ("s"), dropped ("d"), or go to another topic ("t"); then the row is
deleted, in the commit that reaches the offset. Dead letters always go where they belong: a record that fails now,
and did not then, would be lost otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from framework.log import Log, Partition, TopicInfo
from framework.state import rows
from framework.state.store import Commit, Store

if TYPE_CHECKING:
    from framework.effects import Effects

DEAD_LETTERS = ".dead-letter"
"""What the names of dead-letter topics end with."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """What becomes of outputs below an offset: the content of a replay row."""

    until: int
    policy: str
    """`send`, `drop`, or the name of the topic they go to."""

    def pack(self) -> bytes:
        """The value of the row."""
        policy = {"send": "s", "drop": "d"}.get(self.policy, "t" + self.policy)
        return rows.pack_u64(self.until) + policy.encode()

    @classmethod
    def unpack(cls, value: bytes) -> Outputs:
        """What `pack` has made."""
        policy = value[8:].decode()
        return cls(rows.unpack_u64(value[:8]), {"s": "send", "d": "drop"}.get(policy, policy[1:]))


class Replay:
    """One task's way through records that it has handled before."""

    def __init__(self, key: bytes, outputs: Outputs, topic: TopicInfo | None) -> None:
        """*key* is that of the row, *topic* where outputs go if they go elsewhere."""
        self.until = outputs.until
        self._key, self._sends, self._topic = key, outputs.policy == "send", topic

    def target(self, topic: TopicInfo, partition: int) -> tuple[TopicInfo, int] | None:
        """Where a record goes that is sent to a *partition* of *topic*; None if it is dropped."""
        if self._sends or topic.name.endswith(DEAD_LETTERS):
            return topic, partition
        return None if self._topic is None else (self._topic, partition % self._topic.partitions)

    def begin(self, effects: Effects, offset: int, stop: int | None) -> int | None:
        """The records from *offset* on are about to be handled, up to *stop*; returns where to stop instead.

        They have all been handled before, or none of them.
        """
        if offset >= self.until:
            effects.redirect = None
            return stop
        effects.redirect = self
        return self.until if stop is None else min(stop, self.until)

    def end(self, commit: Commit, offset: int) -> bool:
        """Whether it is over with the *commit* of *offset*, which then deletes the row."""
        if offset < self.until:
            return False
        commit.changes.append((self._key, None))
        return True


def replay_of(agent: str, partition: Partition, store: Store, log: Log) -> Replay | None:
    """What a rewind has left for the task of *agent* on *partition* to do; None as a rule.

    Raises:
        UnknownTopic: The topic that the outputs were to go to is gone.
    """
    key = rows.replay_key(agent, partition.topic.id, partition.number)
    value = store.database.get(key)
    if value is None:
        return None
    outputs = Outputs.unpack(value)
    return Replay(key, outputs, None if outputs.policy in ("send", "drop") else log.topic(outputs.policy))
