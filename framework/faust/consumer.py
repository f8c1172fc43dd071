"""Faust's consumer on our log: reads its partitions where they lie, and is a member of the app's group.

A rebalance, in the order that Faust needs:

    on_rebalance_start -> on_partitions_revoked, which commits -> join, the leader's assignor -> generation -> assigned

Then Faust recovers its tables from the changelogs, seeks the other partitions to their committed offsets, and reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.errors import IllegalStateError
from faust.exceptions import ConsumerNotStarted
from faust.transport.consumer import Consumer as FaustConsumer
from faust.types import TP, ConsumerMessage
from faust.types.tuples import ack_lock

from framework.faust.beside import GroupThread
from framework.faust.feeds import Feed
from framework.faust.membership import GroupOptions, Standing
from framework.faust.records import end_of_records
from framework.faust.share import Share
from framework.faust.topics import Cluster, ensure_topic
from framework.log import Log, Partition, StoredRecord
from framework.log.errors import LogClosed, OffsetOutOfRange, UnknownTopic

MAX_SESSION_S = 10.0
"""How long a worker that is not heard of counts as there, if the app does not say less: a process of this machine that
is silent for so long is gone."""
MAX_HEARTBEAT_S = 1.0
LATEST = "latest"


class Consumer(FaustConsumer):
    """Reads what the app's agents and tables want."""

    consumer_stopped_errors = (LogClosed,)
    _log: Log
    _share: Share | None = None
    _group: GroupThread | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Opens nothing before it is started."""
        super().__init__(*args, **kwargs)
        self._topics: frozenset[str] = frozenset()
        self._feeds: dict[TP, Feed] = {}
        """Those of the share, for what is asked of each record."""
        self._standing: Standing | None = None
        self._generation = 0
        self._is_revoked = False
        self._catalogue_version = -1
        self._counts: dict[str, int] = {}

    async def on_start(self) -> None:
        """Open the directory."""
        await super().on_start()
        self._log = await self.transport.open_log()
        self._share = Share(self._log, self._reset, lambda: self.flow_active)
        if not self.app.client_only:
            self._group = GroupThread(
                self._log, self, self._options(), listen=self.transport.place.listen, failed=self.crash
            )
            await self._group.start()

    async def on_stop(self) -> None:
        """Commit what is finished, leave the group, let go of the directory."""
        await super().on_stop()
        self._standing, self._topics = None, frozenset()
        group, self._group = self._group, None
        if group is not None:
            await group.stop()
        share, self._share = self._share, None
        if share is not None:
            share.close()
            await self.transport.close_log()

    def _options(self) -> GroupOptions:
        conf = self.app.conf
        session_s = min(conf.broker_session_timeout, MAX_SESSION_S)
        return GroupOptions(
            group_id=conf.id,
            client_id=conf.broker_client_id,
            protocol=self.app.assignor.name,
            instance_id=conf.consumer_group_instance_id or None,
            session_timeout_ms=int(session_s * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_s=min(conf.broker_heartbeat_interval, MAX_HEARTBEAT_S, session_s / 3),
        )

    # The group.

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Read *topics*, which are made if they are not there; returns before the partitions are assigned."""
        self._topics = frozenset(topics)
        await asyncio.to_thread(self._ensure_topics)
        if self._group is None:
            self._read_all()
        else:
            self._group.join()

    def _ensure_topics(self) -> None:
        for name in self._topics:
            ensure_topic(self._log, name, self.app.conf.topic_partitions)
        self._counts = self._partition_counts()
        self._catalogue_version = self._log.catalogue_version

    def _partition_counts(self) -> dict[str, int]:
        there = self._log.topics()
        return {name: there[name].partitions for name in self._topics if name in there}

    async def subscription(self) -> bytes:
        """What the leader has to know of this member."""
        return bytes(self.app.assignor.metadata(set(self._topics)).encode())

    async def share_out(self, members: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Let Faust's assignor decide who reads what."""
        said = {member: ConsumerProtocolMemberMetadata.decode(data) for member, data in members.items()}
        shares = self.app.assignor.assign(Cluster(self._log), said)
        return {member: bytes(share.encode()) for member, share in shares.items()}

    async def revoke(self) -> None:
        """Let Faust finish what it has in hand, and commit it."""
        if self._is_revoked:
            return
        self._is_revoked = True
        self.app.on_rebalance_start()
        await self.on_partitions_revoked(self.assignment())
        self._standing = None

    async def take(self, share: bytes, standing: Standing) -> None:
        """Let Faust begin with what was assigned."""
        assignment = ConsumerProtocolMemberAssignment.decode(share)
        self.app.assignor.on_assignment(assignment)
        self._opened().assign(TP(topic, number) for topic, numbers in assignment.assignment for number in numbers)
        self._feeds_changed()
        self._standing, self._is_revoked = standing, False
        # Generations of two brokers may have the same number, and Faust tells old records from new ones by it.
        self._generation += 1
        self.app.consumer_generation_id = self._generation
        await self.on_partitions_assigned(self.assignment(), self._generation)

    def assignment(self) -> set[TP]:
        """What it reads."""
        return set(self._feeds)

    def _read_all(self) -> None:
        """Without a group: every partition, from where the app says."""
        share = self._opened()
        for topic in self._topics:
            for number in range(self._log.topic(topic).partitions):
                if TP(topic, number) not in share.feeds:
                    feed = share.add(TP(topic, number))
                    feed.seek(self._reset_offset(feed.partition))
        self._feeds_changed()

    def _feeds_changed(self) -> None:
        self._feeds = {TP(*place): feed for place, feed in self._opened().feeds.items()}
        for tp, feed in self._feeds.items():
            feed.count(acknowledged=not self.app.client_only and self.app.topics.acks_enabled_for(tp.topic))

    def _opened(self) -> Share:
        if self._share is None:
            raise ConsumerNotStarted("the consumer has not been started")
        return self._share

    # Reading.

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> dict[TP, list[StoredRecord]]:
        """What there is of the *active_partitions*; waits for it."""
        self._look_for_partitions()
        if not self.app.client_only:
            # The recovery of one rebalance may let it read before the next one has told Faust whose records these are.
            wanted = self._feeds if active_partitions is None else active_partitions
            active_partitions = {tp for tp in wanted if tp in self.app.topics._tp_to_callback}
        return await self._opened().take(active_partitions, timeout, self.app.conf.broker_max_poll_records)

    async def _wait_next_records(self, timeout: float) -> Any:
        """As Faust, which sleeps for a second when its buffers are full, though they may have room in a moment."""
        if self.flow_active and not self.app.client_only and not self._get_active_partitions():
            return await self._opened().take((), timeout, None), set()
        return await super()._wait_next_records(timeout)

    def _to_message(self, tp: TP, record: StoredRecord) -> ConsumerMessage:
        offset, key, value = record.offset, record.key, record.value
        self._feeds[tp].handed.append(offset)
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            offset,
            record.timestamp / 1000.0,
            0,
            record.headers,
            key,
            value,
            None,
            0 if key is None else len(key),
            0 if value is None else len(value),
            tp,
            generation_id=self.app.consumer_generation_id,
        )

    def _look_for_partitions(self) -> None:
        """Join anew when a topic has other partitions than it had."""
        version = self._log.catalogue_version
        if version != self._catalogue_version:
            self._catalogue_version = version
            counts = self._partition_counts()
            if counts != self._counts and self._group is not None:
                self._counts = counts
                self._group.join()

    def stop_flow(self) -> None:
        """Hand out nothing more."""
        super().stop_flow()
        self._end_wait()

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Go on with these, too."""
        super().resume_partitions(tps)
        self._end_wait()

    def on_buffer_drop(self, tp: TP) -> None:
        """Faust has room again for records of *tp*."""
        super().on_buffer_drop(tp)
        self._end_wait()

    def _end_wait(self) -> None:
        if self._share is not None:
            self._share.end_wait()

    # Positions.

    async def seek_to_committed(self) -> dict[TP, int | None]:
        """Go on where the group has come to; where it has not begun, as the app says."""
        if self._group is None:
            return {}
        generation, standing = self._generation, self._standing
        committed = await self._group.committed(self._feeds)
        if generation != self._generation:
            return {}
        found: dict[TP, int | None] = {}
        begun: dict[TP, int] = {}
        for tp, feed in self._feeds.items():
            offset = found[tp] = committed.get(tp)
            if offset is None and self._is_changelog_tp(tp):
                continue  # Where to read it from is the affair of its table.
            if offset is None:
                offset = self._reset_offset(feed.partition)
                if self.app.conf.consumer_auto_offset_reset == LATEST and feed.acknowledged:
                    begun[tp] = offset
            feed.seek(offset)
        if begun and standing is not None:
            # Or the next worker would begin at a later end, and what came meanwhile would never be read.
            await self._group.commit(begun, standing)
        return found

    async def _seek(self, partition: TP, offset: int) -> None:
        self._assigned(partition).seek(offset)

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """Go on at these offsets."""
        for tp, offset in partitions.items():
            self._assigned(tp).seek(offset)
            self._read_offset[tp] = offset if offset > 0 else None

    async def position(self, tp: TP) -> int:
        """Where the next record comes from."""
        return self._assigned(tp).position

    def highwater(self, tp: TP) -> int:
        """The end, as it was when Faust was given records last: it asks for each of them."""
        share = self._opened()
        end = share.ends.get(tp)
        return share.partition(tp).high_watermark if end is None else end

    async def highwaters(self, *partitions: TP) -> dict[TP, int]:
        """The offsets behind the last records: recovery waits for those, and what compaction leaves may end before."""
        return {
            tp: await asyncio.to_thread(end_of_records, self._log, self._opened().partition(tp)) for tp in partitions
        }

    async def earliest_offsets(self, *partitions: TP) -> dict[TP, int]:
        """The beginnings."""
        return {tp: self._opened().partition(tp).log_start for tp in partitions}

    def topic_partitions(self, topic: str) -> int | None:
        """How many it has; None if it is not there."""
        try:
            return self._log.topic(topic).partitions
        except UnknownTopic:
            return None

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:
        """Where records of *key* go."""
        if partition is not None or key is None or self.topic_partitions(topic) is None:
            return partition
        return int(self.app.producer.key_partition(topic, key).partition)

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    def _assigned(self, tp: TP) -> Feed:
        try:
            return self._feeds[tp]
        except KeyError:  # Recovery takes this one for a rebalance, which it is.
            raise IllegalStateError(f"{tp.topic}-{tp.partition} is not assigned to this worker") from None

    def _reset_offset(self, partition: Partition) -> int:
        """Where to begin if nothing was committed."""
        wanted = self.app.conf.consumer_auto_offset_reset
        if wanted == LATEST:
            return partition.high_watermark
        if wanted == "earliest":
            return partition.log_start
        raise OffsetOutOfRange(
            f"group {self.app.conf.id!r} has no offset in {partition.name}; consumer_auto_offset_reset={wanted!r}: "
            "commit one, or say 'earliest' or 'latest'"
        )

    def _reset(self, tp: TP, start: int, end: int) -> int:
        """Where to go on, as the position is not between *start* and *end*; may be called in a thread."""
        position = self._feeds[tp].position
        if self.app.conf.consumer_auto_offset_reset not in (LATEST, "earliest"):
            raise OffsetOutOfRange(f"{tp.topic}-{tp.partition} has no offset {position}: it has {start} to {end - 1}")
        # What is still there is read, whatever the app says about groups that begin: nothing more is lost than is gone.
        offset = start if position < start else end
        self.log.warning("%s-%d has no offset %d; going on at %d", tp.topic, tp.partition, position, offset)
        self._read_offset[tp] = self._committed_offset[tp] = None
        return offset

    # Committing.

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> list[TP]:
        """The partitions of which more may be finished than is committed."""
        return [
            tp
            for tp, feed in self._feeds.items()
            if feed.acknowledged and (topics is None or tp in topics or tp.topic in topics)
        ]

    def _new_offset(self, tp: TP) -> int | None:
        """How far *tp* is finished, None if nothing of it is."""
        with ack_lock:
            feed = self._feeds.get(tp)
            self._acked[tp].clear()
            frontier = 0 if feed is None else feed.advance(self._acked_index[tp])
            return frontier if feed is not None and frontier > feed.begin else None

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Let Faust finish what it has in hand, and commit it."""
        # It forgets what is finished before it commits. The feeds do not.
        for tp in revoked:
            self._new_offset(tp)
        await super().on_partitions_revoked(revoked)

    async def wait_empty(self) -> None:
        """Wait for what is in hand, and commit it; not for replies, which Faust counts once too often."""
        in_hand = self._unacked_messages
        in_hand.difference_update([each for each in in_hand if each.topic == self.app.conf.reply_to])
        if not self.app.client_only:  # That commits nothing.
            await super().wait_empty()

    async def commit_and_end_transactions(self) -> None:
        """Commit all that is finished now, also if a commit is under way that does not know of all of it."""
        while self._commit_fut is not None:
            await self.maybe_wait_for_commit_to_finish()
        await super().commit_and_end_transactions()

    async def _add_gap(self, *gap: Any) -> None:
        """Nothing: the frontier needs no gaps, and Faust's take in the record behind them."""

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:
        before = {tp: self._committed_offset[tp] for tp in offsets}
        done = bool(await super()._commit_offsets(offsets, start_new_transaction))
        if not done:
            # Faust takes what it has tried for done, and would not try again before there is more.
            self._committed_offset.update(
                {tp: each for tp, each in before.items() if self._committed_offset.get(tp) == offsets[tp]}
            )
        return done

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Commit *offsets*, unless something that was sent before them is lost: then they have to be read again."""
        failure, group, standing = self.app.producer.failure, self._group, self._standing
        if failure is not None:
            await self.crash(failure)
            return False
        return group is not None and standing is not None and await group.commit(offsets, standing)

    async def create_topic(self, *args: Any, **kwargs: Any) -> None:
        """As `Producer.create_topic`."""
        await self.app.producer.create_topic(*args, **kwargs)

    def close(self) -> None:
        """It is closed when it is stopped."""
