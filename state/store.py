"""A store: one database with its producer, and the commit, which is the heart of the project.

Order, and what makes it exactly-once:

1. one atomic write of offsets, tables and the outbox: the final bytes of every batch to be sent;
2. a sync of it;
3. the outbox is appended to the log, with the producer id and sequence numbers that are in its bytes;
4. when those appends are durable, the outbox rows are deleted (without a sync: see 3).

Killed before 1 is whole, nothing has happened, and the input is read again. Killed later, the outbox is
appended again at the next start, and the log drops what it has. So what a commit sends is invisible before the
commit, and afterwards it is there once.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from framework.log import Log, NewRecord, Partition, TopicInfo, encode
from framework.log.errors import Error, OffsetOutOfRange, UnknownTopic
from framework.log.producers import TASK_PRODUCER_BIT
from framework.state import rows
from framework.state.database import Database
from framework.state.errors import StateAhead, StateBehind, StateFailed
from framework.state.rows import Change

SEQUENCE_MASK = (1 << 31) - 1
logger = logging.getLogger("framework.state")


@dataclass(slots=True)
class Commit:
    """What becomes true in one step."""

    changes: list[Change] = field(default_factory=list)
    outbox: list[tuple[str, int, bytearray]] = field(default_factory=list)
    """(topic id, partition, batch), in the order of sending."""
    sequences: dict[tuple[str, int], int] = field(default_factory=dict)
    """The next sequence number to each target of the outbox."""
    inputs: list[Partition] = field(default_factory=list)
    """What the offsets in `changes` were read from; synced first, or a power cut could leave less than was counted."""


class Store:
    """One state database, owned by this process. `commit` runs in one thread at a time."""

    def __init__(
        self,
        path: Path,
        log: Log,
        token: Callable[[int], bytes],
        *,
        owners: dict[str, str] | None = None,
        open_database: Callable[[Path], Database] = Database,
    ) -> None:
        """Open it and append again what the last commit may not have appended.

        *owners* says which agent writes which table; all stores of a process share it and add their rows.

        Raises:
            NewerFormat, StateDamaged: It cannot be read.
        """
        self.path, self._log = path, log
        self.lock = threading.RLock()
        """Held by `commit`; whoever calls `send` from several threads holds it from there to `commit`."""
        self._topics = {info.id: info for info in log.topics().values()}
        self.database = open_database(path)
        try:
            self._load_meta(token)
            self._sequences = {
                rows.split_sequence_key(key): rows.unpack_u64(value) for key, value in self.database.scan(b"s")
            }
            self.owners = {} if owners is None else owners
            self.owners |= {key[1:].decode(): value.decode() for key, value in self.database.scan(b"w")}
            self._next_number = 0
            self._check_state_not_behind()
            self.replayed = self._replay()
            self._check_state_not_ahead()
        except BaseException:
            self.database.close()
            raise

    # At start.

    def _load_meta(self, token: Callable[[int], bytes]) -> None:
        key = rows.meta_key("store")
        value = self.database.get(key)
        if value is None:
            # Random, so that the outputs of a new database never look like duplicates of an old one's;
            # bit 62, so that the log never forgets it; positive.
            producer_id = int.from_bytes(token(8), "big") & (TASK_PRODUCER_BIT - 1) | TASK_PRODUCER_BIT
            value = json.dumps({"version": rows.VERSION, "producer_id": producer_id}).encode()
            self.database.write([(key, value)])
            self.database.sync()
        rows.check_version(value, self.path)
        self.producer_id = int(json.loads(value)["producer_id"])

    def _replay(self) -> int:
        """Append the outbox again and forget it; returns how many batches there were."""
        pending: list[tuple[bytes, Future[int]]] = []
        for key, value in self.database.scan(b"x"):
            self._next_number = rows.outbox_number(key) + 1
            pending.append((key, self._append(*rows.split_outbox(value))))
        for _, done in pending:
            self._offset_of(done)
        if pending:
            self.database.write([(key, None) for key, _ in pending])
        return len(pending)

    def _last_in_log(self) -> Iterator[tuple[TopicInfo, int, int, int | None]]:
        """(topic, partition, our next sequence, our last sequence in the log) of every target."""
        for (topic_id, partition), sequence in self._sequences.items():
            info = self._topics.get(topic_id)
            if info is not None:
                yield info, partition, sequence, self._log.partition(info, partition).last_sequence(self.producer_id)

    def _check_state_not_behind(self) -> None:
        for info, partition, sequence, last in self._last_in_log():
            # Behind by less than half the circle is as it should be: the outbox brings the log up.
            if last is not None and 0 < (last - (sequence - 1)) & SEQUENCE_MASK <= SEQUENCE_MASK >> 1:
                raise self._behind(info, partition, sequence, last)

    def _check_state_not_ahead(self) -> None:
        for info, partition, sequence, last in self._last_in_log():
            if last != (sequence - 1) & SEQUENCE_MASK:
                raise StateAhead(
                    f"the state in {self.path} is newer than the log: it has sent {info.name}-{partition} its sequence "
                    f"{(sequence - 1) & SEQUENCE_MASK}, the log holds {'none' if last is None else last}. Restore the "
                    "log that belongs to this state, or remove the state to start anew"
                )

    def _behind(self, info: TopicInfo, partition: int, sequence: int, last: int) -> StateBehind:
        return StateBehind(
            f"the state in {self.path} is older than the log: {info.name}-{partition} holds its sequence "
            f"{last}, the state would send {sequence} next. Restore the state that belongs to this log, "
            "or remove it to start with empty state and a new producer"
        )

    # What tasks ask.

    def offset(self, agent: str, topic: TopicInfo, partition: int) -> int | None:
        """The committed offset of *agent*, None if it never committed here.

        Raises:
            StateAhead: It is behind the log's end.
            OffsetOutOfRange: It is below the log start.
        """
        value = self.database.get(rows.offset_key(agent, topic.id, partition))
        if value is None:
            return None
        offset, log = rows.unpack_offset(value), self._log.partition(topic, partition)
        if offset > log.log_end:
            raise StateAhead(
                f"the state in {self.path} is newer than the log: {agent} has read {topic.name}-{partition} up to "
                f"{offset}, the log ends at {log.log_end}. Restore the log that belongs to this state, or remove "
                "the state to start anew"
            )
        if offset < log.log_start:
            raise OffsetOutOfRange(
                f"{agent} would go on at {topic.name}-{partition} offset {offset}, but the log starts at "
                f"{log.log_start}: records {offset} to {log.log_start - 1} were removed before it read them"
            )
        return offset

    def finished(self, agent: str, topic: TopicInfo, partition: int) -> list[int]:
        """The offsets above its committed one that *agent* has finished too, and does not handle again."""
        value = self.database.get(rows.offset_key(agent, topic.id, partition))
        return [] if value is None else rows.unpack_above(value)

    def send(self, commit: Commit, sent: Mapping[tuple[TopicInfo, int], Sequence[NewRecord]]) -> None:
        """Add what was *sent* to each partition to the outbox of *commit*: final batches, with our next sequences.

        Raises:
            RecordTooLarge: One record is; nothing was added.
        """
        outbox: list[tuple[str, int, bytearray]] = []
        sequences: dict[tuple[str, int], int] = {}
        for (topic, partition), records in sent.items():
            self._topics[topic.id] = topic
            target = (topic.id, partition)
            sequence = commit.sequences.get(target, self._sequences.get(target, 0))
            batches = encode(
                records,
                max_batch_bytes=topic.settings.max_message_bytes,
                compression=topic.settings.compression(),
                producer_id=self.producer_id,
                producer_epoch=0,
                base_sequence=sequence,
            )
            outbox += [(*target, batch) for batch in batches]
            sequences[target] = (sequence + len(records)) & SEQUENCE_MASK
        commit.outbox += outbox
        commit.sequences |= sequences

    def _check_new_targets(self, commit: Commit) -> None:
        """Here and not in `send`, because it is no fault of the record that is sent: the worker has to stop."""
        for topic_id, partition in commit.sequences.keys() - self._sequences.keys():
            topic = self._topics[topic_id]
            last = self._log.partition(topic, partition).last_sequence(self.producer_id)
            if last is not None:
                raise self._behind(topic, partition, 0, last)

    def commit(self, commit: Commit) -> list[int]:
        """Make *commit* true; the offsets of its batches. Returns when all of it is durable.

        Raises:
            StateFailed: It is not committed, or its outbox not appended; close the store and open it anew.
            StateBehind: The log holds what this producer sent, and the state does not know.
        """
        with self.lock:
            return self._commit(commit)

    def _commit(self, commit: Commit) -> list[int]:
        self._check_new_targets(commit)
        self._sync_inputs(commit.inputs)
        numbers = range(self._next_number, self._next_number + len(commit.outbox))
        self._next_number = numbers.stop
        changes = list(commit.changes)
        for (topic_id, partition), sequence in commit.sequences.items():
            changes.append((rows.sequence_key(topic_id, partition), rows.pack_u64(sequence)))
        for number, target in zip(numbers, commit.outbox, strict=True):
            changes.append((rows.outbox_key(number), rows.pack_outbox(*target)))
        self.database.write(changes)
        self._sequences |= commit.sequences
        self.database.sync()
        try:
            appended = [self._append(*target) for target in commit.outbox]
            offsets = [self._offset_of(done) for done in appended]
        except (Error, OSError) as error:
            raise StateFailed(
                f"a commit to {self.path} is written, but what it sends could not be appended: {error}; "
                "it will be at the next start"
            ) from error
        if numbers:
            self.database.write([(rows.outbox_key(number), None) for number in numbers])
        return offsets

    def _sync_inputs(self, inputs: Sequence[Partition]) -> None:
        synced = [self._log.sync(partition) for partition in inputs if not partition.is_synced]
        try:
            for done in synced:
                done.result()
        except (Error, OSError) as error:
            raise StateFailed(
                f"a commit to {self.path} cannot be written: its input cannot be synced: {error}"
            ) from error

    def _append(self, topic_id: str, partition: int, batch: bytearray) -> Future[int]:
        info = self._topics.get(topic_id)
        if info is None:
            gone: Future[int] = Future()
            gone.set_exception(UnknownTopic(f"the topic with id {topic_id} has been deleted"))
            return gone
        return self._log.append(self._log.partition(info, partition), [batch], durable=True)

    def _offset_of(self, done: Future[int]) -> int:
        """The offset of an appended batch; -1 if its topic is gone, for which a commit cannot wait."""
        try:
            return done.result()
        except UnknownTopic as error:
            logger.warning("%s: a batch that was sent is dropped: %s", self.path, error)
            return -1

    def close(self) -> None:
        """Sync and close the database, when the commit under way is finished."""
        with self.lock:
            self.database.sync()
            self.database.close()
