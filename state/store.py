"""A store: one database with its producer, and the commit, which is the heart of the project.

Order, and what makes it exactly-once:

1. one atomic write of offsets, tables and the outbox: the final bytes of every batch to be sent;
2. a sync of it;
3. the outbox is appended to the log, with the producer id and sequence numbers that are in its bytes;
4. when those appends are durable, the outbox rows are deleted (without a sync: see 3).

Killed before 1 is whole, nothing has happened, and the input is read again. Killed later, the outbox is
appended again at the next start, and the log drops what it has. So what a commit sends is invisible before the
commit, and afterwards it is there once.

A commit that the disk refused, wherever in this, is made again by `reopen` and the same `commit`: whatever was
there of it already is written once more, as it was, and the log drops its batches.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from framework.log import Log, NewRecord, Partition, TopicInfo, encode
from framework.log.errors import Error, OffsetOutOfRange, UnknownTopic
from framework.log.producers import TASK_PRODUCER_BIT
from framework.state import rows
from framework.state.database import Database
from framework.state.errors import StateAhead, StateBehind, StateDamaged, StateFailed, refused
from framework.state.rows import Change

SEQUENCE_MASK = (1 << 31) - 1
_MANIFEST = rows.meta_key("manifest")
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
            StateBehind, StateAhead: It does not belong to the log.
            StateFailed: The disk refused what opening it writes, in the database or the log.
        """
        self.path, self._log, self._token = path, log, token
        self.lock = threading.RLock()
        """Held by `commit`; whoever calls `send` from several threads holds it from there to `commit`."""
        self.failure: StateFailed | None = None
        """Why it takes no commits until it is opened anew."""
        self.dropped = 0
        """How many batches were sent to topics that had been deleted."""
        self.owners = {} if owners is None else owners
        self._next_number, self._synced_sequence = 0, 0
        self.database = open_database(path)
        try:
            self.producer_id = self._load_meta()
            self.replayed = self._load()
        except BaseException:
            self.database.close()
            raise

    def reopen(self) -> None:
        """Open the database anew after a failure, and append what it finds in the outbox.

        The commit that failed is there or not, but whole; made again, it is there once.

        Raises:
            StateFailed: The disk still refuses.
            StateDamaged: What was committed before is not there any more.
        """
        with self.lock:
            try:
                self.database.reopen()
                if self.database.sequence < self._synced_sequence or self._load_meta() != self.producer_id:
                    raise StateDamaged(
                        f"the state in {self.path} has lost commits while it was in use: the disk did not keep what it "
                        "said it had. Restore state and log from a backup, or remove the state to start anew"
                    )
                self.replayed += self._load()
            except StateFailed as error:
                self.failure = error
                raise
            self.failure = None

    # At start.

    def _load_meta(self) -> int:
        """The producer id, drawn when the database is new."""
        key = rows.meta_key("store")
        value = self.database.get(key)
        if value is None:
            # Random, so that the outputs of a new database never look like duplicates of an old one's;
            # bit 62, so that the log never forgets it; positive.
            producer_id = int.from_bytes(self._token(8), "big") & (TASK_PRODUCER_BIT - 1) | TASK_PRODUCER_BIT
            value = json.dumps({"version": rows.VERSION, "producer_id": producer_id}).encode()
            self.database.write([(key, value)])
            self.database.sync()
        rows.check_version(value, self.path)
        return int(json.loads(value)["producer_id"])

    def _load(self) -> int:
        """Read what is remembered, compare it with the log, finish the last commit; how many batches that were."""
        self.database.check_manifest(self.database.get(_MANIFEST))
        self._topics = {info.id: info for info in self._log.topics().values()}
        self._sequences = {
            rows.split_sequence_key(key): rows.unpack_u64(value) for key, value in self.database.scan(b"s")
        }
        self.owners |= {key[1:].decode(): value.decode() for key, value in self.database.scan(b"w")}
        self.senders = {key[1:].decode() for key, _ in self.database.scan(b"q")}
        self._check_state_not_behind()
        replayed = self._replay()
        self._check_state_not_ahead()
        return replayed

    def _replay(self) -> int:
        """Append the outbox again and forget it; returns how many batches there were."""
        pending = list(self.database.scan(b"x"))
        if pending:
            self._next_number = max(self._next_number, rows.outbox_number(pending[-1][0]) + 1)
            self._append(rows.split_outbox(value) for _, value in pending)
            self.database.write([(key, None) for key, _ in pending])
        return len(pending)

    def _last_in_log(self) -> Iterator[tuple[TopicInfo, int, int, int | None]]:
        """(topic, partition, our next sequence, our last sequence in the log) of every target."""
        for (topic_id, partition), sequence in self._sequences.items():
            info = self._topics.get(topic_id)
            if info is not None:
                yield info, partition, sequence, self._last_sequence(info, partition)

    def _last_sequence(self, info: TopicInfo, partition: int) -> int | None:
        try:
            return self._log.partition(info, partition).last_sequence(self.producer_id)
        except OSError as error:
            raise self._refused(f"{info.name}-{partition} cannot be opened", error) from error

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

    def offset(self, agent: str, topic: TopicInfo, partition: int, *, gap_allowed: bool = False) -> int | None:
        """The committed offset of *agent*, None if it never committed here.

        Raises:
            StateAhead: It is behind the log's end.
            OffsetOutOfRange: It is below the log start, and no gap is allowed.
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
        if offset < log.log_start and not gap_allowed:
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
            last = self._last_sequence(topic, partition)
            if last is not None:
                raise self._behind(topic, partition, 0, last)

    def commit(self, commit: Commit) -> None:
        """Make *commit* true. Returns when all of it is durable.

        Raises:
            StateFailed: It is not committed, or its outbox not appended; `reopen`, and make the same commit again.
            StateBehind: The log holds what this producer sent, and the state does not know.
        """
        with self.lock:
            if self.failure is not None:
                raise self.failure
            try:
                self._commit(commit)
            except StateFailed as error:
                self.failure = error
                raise

    def _commit(self, commit: Commit) -> None:
        self._check_new_targets(commit)
        self._sync_inputs(commit.inputs)
        numbers = range(self._next_number, self._next_number + len(commit.outbox))
        self._next_number = numbers.stop
        changes = list(commit.changes)
        for (topic_id, partition), sequence in commit.sequences.items():
            changes.append((rows.sequence_key(topic_id, partition), rows.pack_u64(sequence)))
        for number, target in zip(numbers, commit.outbox, strict=True):
            changes.append((rows.outbox_key(number), rows.pack_outbox(*target)))
        changes.append((_MANIFEST, self.database.manifest_mark()))
        self.database.write(changes)
        self._sequences |= commit.sequences
        self.database.sync()
        self._synced_sequence = self.database.sequence
        self._append(commit.outbox)
        if numbers:
            self.database.write([(rows.outbox_key(number), None) for number in numbers])

    def _sync_inputs(self, inputs: Sequence[Partition]) -> None:
        synced = [(partition.name, self._log.sync(partition)) for partition in inputs if not partition.is_synced]
        for name, done in synced:
            try:
                done.result()
            except (Error, OSError) as error:
                raise self._refused(f"its input {name} cannot be synced", error) from error

    def _append(self, outbox: Iterable[tuple[str, int, bytearray]]) -> None:
        """Append the batches, and return when they are durable; what a deleted topic should get is dropped."""
        targets: dict[tuple[str, int], list[bytearray]] = {}
        for topic_id, partition, batch in outbox:
            targets.setdefault((topic_id, partition), []).append(batch)
        # All batches of a target in one: behind one that the disk refused, another would make it a duplicate.
        appended = [(*target, batches, self._submit(*target, batches)) for target, batches in targets.items()]
        for topic_id, partition, batches, done in appended:
            try:
                done.result()
            except UnknownTopic as error:
                self.dropped += len(batches)
                logger.warning(
                    "%s: %d batches that were sent are dropped, %d since the start: %s",
                    self.path,
                    len(batches),
                    self.dropped,
                    error,
                )
            except (Error, OSError) as error:
                name = f"{self._topics[topic_id].name}-{partition}"
                raise self._refused(
                    f"it is written, but what it sends to {name} could not be appended", error
                ) from error

    def _submit(self, topic_id: str, partition: int, batches: list[bytearray]) -> Future[int]:
        info = self._topics.get(topic_id)
        if info is None:
            gone: Future[int] = Future()
            gone.set_exception(UnknownTopic(f"the topic with id {topic_id} has been deleted"))
            return gone
        return self._log.append(self._log.partition(info, partition), batches, durable=True)

    def _refused(self, what: str, error: Exception) -> StateFailed:
        return refused(f"a commit to {self.path} is not finished: {what}", error, self._log.path)

    def close(self) -> None:
        """Sync and close the database, when the commit under way is finished."""
        with self.lock:
            try:
                if self.failure is None:
                    self.database.sync()
            except StateFailed as error:
                # No commit is lost with it: what it would have synced is that the outbox was appended.
                logger.warning("%s", error)
            finally:
                self.database.close()
