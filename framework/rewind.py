"""Taking an agent back: to what it knew at a checkpoint, or to another offset.

Of a shard this changes the rows of one agent only: its offsets, and the rows of the tables it writes; in one atomic
write, so a kill leaves each shard as it was or as it should be, and the same command again does the rest. Sequences,
outbox and producer id stay: what is sent again has new sequence numbers, and is never taken for a duplicate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, Protocol

from framework.log import At, Log, Partition
from framework.log.clock import EPOCH
from framework.log.cursor import check_kept
from framework.log.errors import Conflict, NotFound, OffsetOutOfRange
from framework.replay import Outputs
from framework.state import rows
from framework.state.checkpoints import Checkpoint, checkpoints
from framework.state.database import Snapshot
from framework.state.errors import StateAhead
from framework.state.rows import Change
from framework.state.shards import SHARDS, Shards
from framework.state.store import Commit

OnGap = Literal["fail", "earliest"]


class Rows(Protocol):
    """A database that is read: a live one, or a checkpoint."""

    def get(self, key: bytes) -> bytes | None:
        """The value of row *key*."""

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """The rows whose keys begin with *prefix*."""


@dataclass(frozen=True, slots=True)
class ToCheckpoint:
    """Back to the newest checkpoint of each shard that is not younger than a time."""

    time_ms: int
    on_gap: OnGap = "fail"


@dataclass(frozen=True, slots=True)
class ToPlace:
    """To a place in the log; the table rows stay, or with *empty* are deleted."""

    at: At
    empty: bool
    partition: int | None = None
    """Which one; None for all."""


Target = ToCheckpoint | ToPlace


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of an agent on one partition."""

    partition: Partition
    committed: int
    to: int
    end: int
    handled: int
    """Records below it have been handled before; it is above `committed` while an earlier rewind is under way."""
    restored: int
    deleted: int
    checkpoint: Checkpoint | None

    @property
    def replays(self) -> bool:
        """Whether records are handled again."""
        return self.to < self.handled


class Rewind:
    """One agent that is taken to a target: `plan` says what would happen, `execute` does it."""

    def __init__(self, log: Log, agent: str, target: Target, outputs: str = "send") -> None:
        """*outputs* of records that are handled again: `send`, `drop`, or the topic they go to."""
        self._log, self._agent, self._target, self._outputs = log, agent, target, outputs
        self._tables: list[str] = []
        self.has_sent = False
        """Whether the agent has ever sent anything; known once there is a plan."""

    def plan(self) -> list[Step]:
        """What `execute` would do now; changes nothing, and works beside a worker.

        Raises:
            NotFound: The agent has committed nothing here, or there is no checkpoint old enough.
            OffsetOutOfRange: The records from there on are not kept any more.
        """
        with ExitStack() as exits:
            return self._plan({name: opened(path, exits) for name, path in self._shards()})

    def execute(self, shards: Shards) -> list[Step]:
        """Do it; *shards* owns all of them. Durable when it returns; may be repeated after a kill.

        Raises:
            NotFound, OffsetOutOfRange: As `plan`; nothing was changed.
            StateFailed: The disk refused.
        """
        stores = {name: shards.of_partition(int(name)) for name, _ in self._shards()}
        planned = self._plan({name: store.database for name, store in stores.items()})
        self._lower_holds(planned)
        for name, store in stores.items():
            with ExitStack() as exits:
                _, changes = self._of_shard(name, store.database, exits)
            if changes:
                store.commit(Commit(changes=changes))
        return planned

    # What is to change.

    def _shards(self) -> list[tuple[str, Path]]:
        paths = [(str(number), self._log.path / "state" / str(number)) for number in range(SHARDS)]
        return [(name, path) for name, path in paths if (path / "CURRENT").exists()]

    def _check_no_stages(self) -> None:
        """Offsets of an agent and of its stages belong together, and what lies between them is removed."""
        for topic in self._log.topics():
            if f".{self._agent}." in topic and topic.endswith(".repartition"):
                raise Conflict(
                    f"agent {self._agent!r} has stages before a group_by, and what topic {topic!r} held between them "
                    "is removed when it was handled: it cannot be moved by itself. To begin anew, `framework agents "
                    f"forget {self._agent} --tables`"
                )

    def _plan(self, live: dict[str, Rows]) -> list[Step]:
        self._check_no_stages()
        owners = {key[1:].decode(): value.decode() for shard in live.values() for key, value in shard.scan(b"w")}
        self._tables = sorted(table for table, owner in owners.items() if owner == self._agent)
        self.has_sent = any(shard.get(rows.sender_key(self._agent)) is not None for shard in live.values())
        steps: list[Step] = []
        for name, shard in live.items():
            with ExitStack() as exits:
                steps += self._of_shard(name, shard, exits)[0]
        if not steps:
            raise NotFound(f"agent {self._agent!r} has committed nothing in {self._log.path}: there is nothing to move")
        return sorted(steps, key=lambda step: (step.partition.topic.name, step.partition.number))

    def _of_shard(self, name: str, live: Rows, exits: ExitStack) -> tuple[list[Step], list[Change]]:
        """What happens in one shard, and the rows it takes."""
        places = list(self._places(live))
        if not places:
            return [], []
        checkpoint, old = self._old_state(name, exits)
        steps, changes = [], list[Change]()
        for partition, committed in places:
            topic, number = partition.topic, partition.number
            row, to = self._offset_row(partition, checkpoint, old)
            moved = list(self._table_changes(live, old, number))
            changed = Counter(value is None for _, value in moved)
            key = rows.replay_key(self._agent, topic.id, number)
            known = live.get(key)
            handled = committed if known is None else max(committed, Outputs.unpack(known).until)
            again = Outputs(handled, self._outputs).pack() if to < handled else None
            changes += [*moved, (rows.offset_key(self._agent, topic.id, number), row)]
            if again is not None or known is not None:
                changes.append((key, again))
            end = partition.high_watermark
            steps.append(Step(partition, committed, to, end, handled, changed[False], changed[True], checkpoint))
        return steps, changes

    def _places(self, live: Rows) -> Iterator[tuple[Partition, int]]:
        """Each partition that the agent has committed, with its offset."""
        topics = {info.id: info for info in self._log.topics().values()}
        wanted = self._target.partition if isinstance(self._target, ToPlace) else None
        for key, value in live.scan(rows.offset_prefix(self._agent)):
            _, topic_id, number = rows.split_offset_key(key)
            info = topics.get(topic_id)
            if info is not None and wanted in (None, number):
                yield self._log.partition(info, number), rows.unpack_offset(value)

    def _old_state(self, name: str, exits: ExitStack) -> tuple[Checkpoint | None, Rows | None]:
        """The checkpoint of shard *name* that is the target, opened; two times None if none is."""
        if not isinstance(self._target, ToCheckpoint):
            return None, None
        there = checkpoints(self._log.path, name)
        fitting = [each for each in there if each.time_ms <= self._target.time_ms]
        if not fitting:
            oldest = f"the oldest is from {iso(there[0].time_ms)}" if there else "there is none at all"
            raise NotFound(
                f"there is no checkpoint of shard {name} from {iso(self._target.time_ms)} or before, {oldest}. To "
                "begin anew, with empty tables and at the log start, say --state reset"
            )
        return fitting[-1], opened(fitting[-1].path, exits)

    def _offset_row(self, partition: Partition, checkpoint: Checkpoint | None, old: Rows | None) -> tuple[bytes, int]:
        """The new row of the committed offset, and the offset in it."""
        if isinstance(self._target, ToPlace):
            check_kept(partition, self._target.at)
            to = self._log.offset_of(partition, self._target.at)
            return rows.pack_u64(to), to
        assert checkpoint is not None
        assert old is not None
        when, start = iso(checkpoint.time_ms), partition.log_start
        row = old.get(rows.offset_key(self._agent, partition.topic.id, partition.number))
        if row is None:
            raise NotFound(
                f"agent {self._agent!r} had not begun with {partition.name} at the checkpoint of {when}. To begin "
                "anew, with empty tables and at the log start, say --state reset"
            )
        to = rows.unpack_offset(row)
        if to > partition.log_end:
            raise StateAhead(
                f"the checkpoint of {when} is newer than the log: the agent had read {partition.name} up to {to}, the "
                f"log ends at {partition.log_end}"
            )
        if to >= start:
            return row, to
        if self._target.on_gap == "earliest":
            return rows.pack_u64(start), start
        raise OffsetOutOfRange(
            f"at the checkpoint of {when} agent {self._agent!r} was at {partition.name} offset {to}, but the log "
            f"starts at {start}: records {to} to {start - 1} cannot be handled again. To go on without them, say "
            "--on-gap earliest"
        )

    def _table_changes(self, live: Rows, old: Rows | None, partition: int) -> Iterator[Change]:
        """What makes the rows of the agent's tables those of *old*; with nothing old, none, if they are to go."""
        if isinstance(self._target, ToPlace) and not self._target.empty:
            return
        # The time by which rows with a ttl grow old: a replay would stamp every row with the end else.
        time = rows.time_key(self._agent, partition)
        before = old.get(time) if old else None
        if live.get(time) != before:
            yield time, before
        for table in self._tables:
            prefix = rows.table_prefix(table, partition)
            yield from differences(live.scan(prefix), old.scan(prefix) if old else iter(()))

    def _lower_holds(self, steps: Sequence[Step]) -> None:
        """Retention, in any process, may remove what was handled; now it is to be handled again."""
        for step in steps:
            hold = self._log.shared.hold(step.partition.slot)
            if hold is not None and hold > step.to:
                step.partition.set_hold(step.to)


def differences(now: Iterator[tuple[bytes, bytes]], then: Iterator[tuple[bytes, bytes]]) -> Iterator[Change]:
    """The changes that make of the rows *now* the rows *then*, both in the order of their keys.

    >>> list(differences(iter([(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]), iter([(b"b", b"2"), (b"c", b"4")])))
    [(b'a', None), (b'c', b'4')]
    """
    here, there = next(now, None), next(then, None)
    while here is not None or there is not None:
        if there is None or (here is not None and here[0] < there[0]):
            assert here is not None
            yield here[0], None
            here = next(now, None)
        elif here is None or there[0] < here[0]:
            yield there
            there = next(then, None)
        else:
            if here[1] != there[1]:
                yield there
            here, there = next(now, None), next(then, None)


def opened(path: Path, exits: ExitStack) -> Snapshot:
    """The rows of the database at *path*, to be read only.

    Raises:
        NewerFormat: This version cannot read them.
        StateDamaged: RocksDB cannot.
    """
    snapshot = Snapshot(path)
    exits.callback(snapshot.close)
    rows.check_version(snapshot.get(rows.meta_key("store")), path)
    return snapshot


def iso(time_ms: int) -> str:
    """Milliseconds since the epoch as UTC in ISO 8601."""
    spec = "milliseconds" if time_ms % 1000 else "seconds"
    return (EPOCH + timedelta(milliseconds=time_ms)).isoformat(timespec=spec).replace("+00:00", "Z")
