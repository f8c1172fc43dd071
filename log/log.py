"""The log of one data directory, as one process has it open.

    data/
      shared                        marks, locks and doorbell          see `shared`
      catalogue                     the topics                         see `catalogue`
      topics/<id>/<partition>/      manifest and segments              see `manifest`, `segment`
      state/                        tables and committed offsets       see `framework.state`

Any number of processes may have it open at once.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

from framework.log.catalogue import Catalogue, Change, TopicInfo
from framework.log.cleaner import Cleaner
from framework.log.clock import Clock, Random, SystemClock, SystemRandom
from framework.log.cold import MOST_COLD_READERS
from framework.log.committer import Append, Committer
from framework.log.compaction import Compacted, Stopped
from framework.log.cursor import At, Cursor, Range, check_kept, resolve
from framework.log.doorbell import Doorbell
from framework.log.errors import Conflict, Error, InvalidSetting, LogClosed, UnknownPartition, UnknownTopic
from framework.log.files import Files
from framework.log.follow import Follower
from framework.log.locks import LOCK_TIMEOUT_S, RETENTION_LOCK
from framework.log.machine import boot_id
from framework.log.opening import Opening, check_file_system, make_directory, remove_directory
from framework.log.partition import Partition, Place
from framework.log.reader import Reader
from framework.log.sending import Producer
from framework.log.settings import TopicSettings
from framework.log.shared import close_shared, is_deleted, open_shared
from framework.log.writer import MAX_OPEN_WRITERS, OpenWriters

logger = logging.getLogger(__name__)


class Log:
    """An open data directory; thread-safe. Any number of processes may have it open at once."""

    def __init__(
        self,
        path: str | Path,
        *,
        create: bool = False,
        files: Files | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
        defaults: TopicSettings | None = None,
        unsafe_filesystem: bool | None = None,
    ) -> None:
        """Open the directory, and recover it if the machine went down since it was last open.

        A partition that has lost what was durable takes no appends, is read as far as it goes, and is named in the
        process's log (`framework.log`); the others are as they were.

        *defaults* are the settings of topics that are made without any. *unsafe_filesystem* allows one that other
        kernels may write to; None asks the environment, FRAMEWORK_UNSAFE_FILESYSTEM=1.

        Raises:
            NoDataDirectory: There is none at *path*, and *create* is false.
            UnsafeFileSystem: It is on a network or FUSE file system.
            Damaged: The catalogue or the shared file is not what was written.
        """
        self.path = Path(path).absolute()
        self.files, self.clock = files or Files(), clock or SystemClock()
        self.random = random or SystemRandom()
        self.defaults = defaults or TopicSettings()
        check_file_system(self.path, unsafe=unsafe_filesystem)
        make_directory(self.path, self.files, create=create)
        self._partitions: dict[tuple[str, int], Partition] = {}
        boot = boot_id()
        self.shared, first = open_shared(self.path / "shared", self.files, boot)
        self._catalogue = Catalogue(self.path, self.shared, self.files)
        self._place = Place(
            self.path, self.shared, self.files, self.clock, self._catalogue, OpenWriters(MAX_OPEN_WRITERS)
        )
        self._committer = Committer(f"framework-log-{self.path.name}", self.clock, self._rolled)
        self._cold_turns = threading.Semaphore(MOST_COLD_READERS)
        self._cleaner = Cleaner(f"framework-cleaner-{self.path.name}", self.shared)
        self._closed = False
        try:
            self._recover(boot, first=first)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # Topics.

    def topics(self) -> dict[str, TopicInfo]:
        """Every topic by name."""
        self._check_open()
        return dict(self._catalogue.topics())

    def topic(self, name: str) -> TopicInfo:
        """The topic *name*.

        Raises:
            UnknownTopic: There is none.
        """
        self._check_open()
        return self._catalogue.topic(name)

    def create_topic(self, name: str, partitions: int, settings: TopicSettings | None = None) -> TopicInfo:
        """Make a topic, durably.

        Raises:
            TopicExists: There is one of this name.
            InvalidName, InvalidSetting: Kafka would not take it.
        """
        self._check_open()
        topic_id = uuid.UUID(bytes=self.random.token(16), version=4).hex
        return self._catalogue.create(name, partitions, settings or self.defaults, topic_id)

    def alter_topic(
        self, name: str, settings: TopicSettings | Change | None = None, partitions: int | None = None
    ) -> TopicInfo:
        """Give a topic other settings, more partitions, or both; in force in all processes with their next append.

        *settings* may be a function, which makes them of those that the topic has when nobody else can alter it. Keys
        move when partitions are added: what reads the topic by key has to expect that.

        Raises:
            UnknownTopic: There is none of this name.
            InvalidSetting: It has more partitions than *partitions*.
        """
        self._check_open()
        change = settings if callable(settings) else lambda now: settings or now
        return self._catalogue.alter(name, change, partitions)

    def delete_topic(self, name: str, *, topic_id: str | None = None) -> None:
        """Delete a topic and its records; appends and reads by any process fail from now on.

        With *topic_id* that one only: somebody may have made another one of the same name.

        Raises:
            UnknownTopic: There is none of this name, or of this name and id.
        """
        self._check_open()
        self._delete(name, topic_id)

    def _recover(self, boot: bytes, *, first: bool) -> None:
        """Put right what a crash left, or wait until the thread that opened the directory *first* has."""
        if not first:
            if not self.shared.recovered.wait(LOCK_TIMEOUT_S):
                raise Conflict(f"{self.path} is still being recovered by another thread")
            return
        opening = Opening(self.path, self.shared, self._catalogue, self.files)
        opening.recover(boot)
        self._finish_deletions()
        for topic, number in opening.unsynced():
            self.sync(self.partition(topic, number))

    def _finish_deletions(self) -> None:
        """Who marks slots as deleted holds the catalogue's lock until the catalogue says so too, or was killed."""
        for topic in list(self._catalogue.topics().values()):
            if any(is_deleted(self.shared.flags(slot)) for slot in topic.slots):
                with suppress(UnknownTopic):  # Somebody else has just finished it.
                    self._delete(topic.name, topic.id)

    def _delete(self, name: str, topic_id: str | None = None) -> None:
        """Delete the topic *name*, if it has the id *topic_id*."""

        def close(info: TopicInfo) -> None:
            if topic_id not in (None, info.id):
                raise UnknownTopic(f"topic {name!r} is another one now")
            for number in range(info.partitions):
                self.partition(info, number).mark_deleted()

        info = self._catalogue.remove(name, close)
        remove_directory(self.path / "topics" / info.id, self.files)

    def retain(self) -> None:
        """Remove what retention does not keep, and have compacted what is dirty, in every topic.

        One process at a time does so, others return at once.
        """
        if self.shared.try_own(RETENTION_LOCK) is not None:
            return
        try:
            for topic in self.topics().values():
                for number in range(topic.partitions):
                    self._rolled(self.partition(topic, number))
        finally:
            self.shared.disown(RETENTION_LOCK)

    def compact(self, topic: str) -> Compacted:
        """Keep only the last record of each key in all closed segments of *topic*, however few are dirty.

        Raises:
            InvalidSetting: Its `cleanup.policy` does not say compact.
            Conflict: Another process is compacting in this directory.
            Damaged: A batch is not what was appended.
            LogClosed: It was closed meanwhile.
        """
        info = self.topic(topic)
        self.check_compacts(info)
        partitions = [self.partition(info, number) for number in range(info.partitions)]
        try:
            done = self._cleaner.compact(partitions, force=True)
        except Stopped:
            raise LogClosed(f"the log in {self.path} was closed before {topic!r} was compacted") from None
        if not isinstance(done, Compacted):
            raise Conflict(f"process {done} is compacting in {self.path} just now; try again when it has finished")
        return done

    def check_compacts(self, topic: TopicInfo) -> None:
        """Refuse a topic whose records may not be compacted.

        Raises:
            InvalidSetting: Its `cleanup.policy` does not say compact.
        """
        if not topic.settings.compacts:
            raise InvalidSetting(
                f"topic {topic.name!r} has cleanup.policy={topic.settings.cleanup_policy}: say compact, or "
                "compact,delete, before its records may be compacted"
            )

    @property
    def catalogue_version(self) -> int:
        """Changes whenever a topic is made, altered or deleted."""
        return self.shared.catalogue_version

    def partition(self, topic: TopicInfo, number: int) -> Partition:
        """One partition of *topic*.

        Raises:
            UnknownPartition: The topic has fewer.
        """
        self._check_open()
        if not 0 <= number < topic.partitions:
            raise UnknownPartition(f"topic {topic.name!r} has partitions 0 to {topic.partitions - 1}, not {number}")
        key = (topic.id, number)
        known = self._partitions.get(key)
        return known or self._partitions.setdefault(key, Partition(self._place, topic, number))

    # Records.

    def append(self, partition: Partition, batches: list[bytearray], *, durable: bool = False) -> Future[int]:
        """Append *batches*, which `codec.encode` built; their first offset, at the level of the topic.

        With *durable* when they are synced, even if the topic's level is `os`.
        The batches belong to the log from here on. -1 stands for batches that an idempotent producer sent before.
        """
        self.shared.check_fork()
        return self._committer.submit(Append(partition, batches, durable))

    def producer(
        self,
        *,
        linger_ms: int | None = None,
        batch_bytes: int = 256 << 10,
        buffer_bytes: int = 64 << 20,
        compression: str | None = None,
    ) -> Producer:
        """A producer, which gathers the records of this program into batches; close it before the log.

        *linger_ms* is how long a record waits for company, None for no longer than it must; a batch goes when it has
        *batch_bytes*; more than *buffer_bytes* that are not yet acknowledged make `send` wait. *compression* is for
        topics whose `compression.type` leaves it to the producer.
        """
        self._check_open()
        return Producer(
            self, linger_ms=linger_ms, batch_bytes=batch_bytes, buffer_bytes=buffer_bytes, compression=compression
        )

    def sync(self, partition: Partition) -> Future[int]:
        """Bring to disk what any process has written to *partition*."""
        self.shared.check_fork()
        return self._committer.submit(Append(partition, [], durable=True))

    def reader(self, partition: Partition, offset: int) -> Reader:
        """A reader that begins at *offset*."""
        self._check_open()
        return Reader(partition, self.files, offset, self._cold_turns)

    def read(
        self, topic: str, start: At = "beginning", end: At = "end", *, partitions: Iterable[int] | None = None
    ) -> Cursor:
        """The records of *topic* from *start* up to *end*, each with its partition: iterate, or `take` some.

        Partition by partition, read while iterating; "end" is the end at the moment of the call.

        Raises:
            UnknownTopic, UnknownPartition: There is none.
            OffsetOutOfRange: *start* is an offset that one of the *partitions* does not keep any more.
        """
        ranges = []
        for partition in self._chosen(self.topic(topic), partitions):
            check_kept(partition, start)
            first, last = self.offset_of(partition, start), self.offset_of(partition, end)
            ranges.append(Range(partition, first, max(first, last)))
        return Cursor(self.reader, ranges)

    def follow(
        self,
        topic: str,
        start: At = "end",
        *,
        partitions: Iterable[int] | None = None,
        timeout_s: float | None = None,
    ) -> Follower:
        """The records of *topic* from *start* on, as they come; ends when there was none for *timeout_s*.

        Raises:
            UnknownTopic, UnknownPartition: There is none.
            OffsetOutOfRange: *start* is an offset that one of the *partitions* does not keep any more.
        """
        info, starts = self.topic(topic), dict[int, int]()
        for partition in self._chosen(info, partitions):
            check_kept(partition, start)
            starts[partition.number] = self.offset_of(partition, start)
        return Follower(self, info, starts, timeout_s=timeout_s)

    def offset_of(self, partition: Partition, at: At) -> int:
        """The offset that *at* means in *partition*; one that it does not have is moved to its nearer end."""
        return resolve(self.reader, partition, at, self.clock)

    def _chosen(self, topic: TopicInfo, partitions: Iterable[int] | None) -> list[Partition]:
        numbers = range(topic.partitions) if partitions is None else partitions
        return [self.partition(topic, number) for number in numbers]

    def doorbell(self) -> Doorbell:
        """A new watch, which rings when any high watermark or the catalogue moves."""
        self._check_open()
        return Doorbell(self.shared.path, self.shared.fd)

    def close(self) -> None:
        """Finish the appends that were submitted and close every file; more calls do nothing."""
        if self._closed:
            return
        self._closed = True
        if self.shared.forked:
            return
        self._cleaner.close()
        self._committer.close()
        for partition in self._partitions.values():
            partition.close()
        close_shared(self.shared)

    def _rolled(self, partition: Partition) -> None:
        """Do what a closed segment gives cause to; one that is damaged does not keep others from it.

        In the committer's thread too, so only what is quick.
        """
        try:
            partition.retain()
        except (Error, OSError) as error:
            logger.warning("retention of %s: %s", partition.name, error)
        if partition.topic.settings.compacts:
            self._cleaner.submit(partition)

    def _check_open(self) -> None:
        if self._closed:
            raise LogClosed(f"the log in {self.path} is closed")
        self.shared.check_fork()
