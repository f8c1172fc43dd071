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
import uuid
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

from framework.log.catalogue import Catalogue, TopicInfo
from framework.log.clock import Clock, Random, SystemClock, SystemRandom
from framework.log.committer import Append, Committer
from framework.log.cursor import At, Cursor, Range, check_kept, resolve
from framework.log.doorbell import Doorbell
from framework.log.errors import Conflict, Damaged, Error, LogClosed, NoDataDirectory, UnknownPartition
from framework.log.files import Files
from framework.log.follow import Follower
from framework.log.manifest import Manifest
from framework.log.partition import Partition, Place
from framework.log.reader import Reader
from framework.log.recovery import rebuild_partition, recover_partition, remove_garbage
from framework.log.settings import TopicSettings
from framework.log.shared import DAMAGED, DELETED, FAILED, LOCK_TIMEOUT_S, RETENTION_LOCK, close_shared, open_shared

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
    ) -> None:
        """Open the directory, and recover it if the machine went down since it was last open.

        A partition that has lost what was durable takes no appends, is read as far as it goes, and is named in the
        process's log (`framework.log`); the others are as they were.

        Raises:
            NoDataDirectory: There is none at *path*, and *create* is false.
            Damaged: The catalogue or the shared file is not what was written.
        """
        self.path = Path(path).absolute()
        self.files, self.clock = files or Files(), clock or SystemClock()
        self._random = random or SystemRandom()
        self._make_directory(create)
        self._partitions: dict[tuple[str, int], Partition] = {}
        boot_id = _boot_id()
        self.shared, first = open_shared(self.path / "shared", self.files, boot_id)
        self._catalogue = Catalogue(self.path, self.shared, self.files)
        self._place = Place(self.path, self.shared, self.files, self.clock, self._catalogue)
        self._committer = Committer(f"framework-log-{self.path.name}", self.clock)
        self._closed = False
        try:
            if first:
                self._recover(boot_id)
            elif not self.shared.recovered.wait(LOCK_TIMEOUT_S):
                raise Conflict(f"{self.path} is still being recovered by another thread")
        except BaseException:
            close_shared(self.shared)
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
        topic_id = uuid.UUID(bytes=self._random.token(16), version=4).hex
        return self._catalogue.create(name, partitions, settings or TopicSettings(), topic_id)

    def alter_topic(self, name: str, settings: TopicSettings | None = None, partitions: int | None = None) -> TopicInfo:
        """Give a topic other settings, more partitions, or both; in force in all processes with their next append.

        Keys move when partitions are added: what reads the topic by key has to expect that.

        Raises:
            UnknownTopic: There is none of this name.
            InvalidSetting: It has more partitions than *partitions*.
        """
        info = self.topic(name)
        return self._catalogue.alter(name, settings or info.settings, partitions or info.partitions)

    def delete_topic(self, name: str) -> None:
        """Delete a topic and its records; appends and reads by any process fail from now on.

        Raises:
            UnknownTopic: There is none of this name.
        """
        self._check_open()

        def close(info: TopicInfo) -> None:
            for number in range(info.partitions):
                self.partition(info, number).mark_deleted()

        info = self._catalogue.remove(name, close)
        self._remove_directory(self.path / "topics" / info.id)

    def retain(self) -> None:
        """Remove what retention does not keep, in every topic; one process at a time, others return at once."""
        if self.shared.try_own(RETENTION_LOCK) is not None:
            return
        try:
            for topic in self.topics().values():
                for number in range(topic.partitions):
                    self.partition(topic, number).retain()
        finally:
            self.shared.disown(RETENTION_LOCK)

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

    def sync(self, partition: Partition) -> Future[int]:
        """Bring to disk what any process has written to *partition*."""
        self.shared.check_fork()
        return self._committer.submit(Append(partition, [], durable=True))

    def reader(self, partition: Partition, offset: int) -> Reader:
        """A reader that begins at *offset*."""
        self._check_open()
        return Reader(partition, self.files, offset)

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
        for partition in self._chosen(topic, partitions):
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
        starts = {}
        for partition in self._chosen(topic, partitions):
            check_kept(partition, start)
            starts[partition.number] = self.offset_of(partition, start)
        return Follower(self, self.topic(topic), starts, timeout_s=timeout_s)

    def offset_of(self, partition: Partition, at: At) -> int:
        """The offset that *at* means in *partition*; one that it does not have is moved to its nearer end."""
        return resolve(self.reader, partition, at, self.clock)

    def _chosen(self, name: str, partitions: Iterable[int] | None) -> list[Partition]:
        topic = self.topic(name)
        return [self.partition(topic, number) for number in (partitions or range(topic.partitions))]

    def doorbell(self) -> Doorbell:
        """A new watch, which rings when any high watermark or the catalogue moves."""
        self._check_open()
        return Doorbell(self.shared.path)

    def close(self) -> None:
        """Finish the appends that were submitted and close every file; more calls do nothing."""
        if self._closed:
            return
        self._closed = True
        if self.shared.forked:
            return
        self._committer.close()
        for partition in self._partitions.values():
            partition.close()
        close_shared(self.shared)

    def _check_open(self) -> None:
        if self._closed:
            raise LogClosed(f"the log in {self.path} is closed")
        self.shared.check_fork()

    def _make_directory(self, create: bool) -> None:
        try:
            if not (self.path / "shared").exists() and not (self.path / "catalogue").exists():
                if not create:
                    raise NoDataDirectory(f"there is no data directory at {self.path}")
                made = [self.path, *(path for path in self.path.parents if not path.exists())]
                self.path.mkdir(parents=True, exist_ok=True)
                for path in made:
                    self.files.sync_directory(path.parent)
        except OSError as error:
            raise Error(f"cannot open the data directory {self.path}: {error.strerror}") from error

    def _recover(self, boot_id: bytes) -> None:
        if not self.shared.trusted:
            if not self.shared.alone:
                raise Conflict(f"{self.path} is open under another boot id: two machines, or two kernels, share it")
            topics = self._catalogue.topics().values()
            self.shared.grow(1 + max((slot for topic in topics for slot in topic.slots), default=0))
            for topic in topics:
                for number in range(topic.partitions):
                    self._recover_partition(topic, number)
            self.shared.adopt(boot_id)
            self._remove_deleted()
        elif self.shared.alone:
            self._repair_partitions()
            self._remove_garbage()
            self._remove_deleted()
        self.shared.opened()
        for topic in self._catalogue.topics().values():
            for number, slot in enumerate(topic.slots):
                # Its writer may have been killed between write and sync.
                bad = self.shared.flags(slot) & (FAILED | DAMAGED | DELETED)
                if self.shared.written_offset(slot) > self.shared.durable_offset(slot) and not bad:
                    self.sync(self.partition(topic, number))

    def _remove_deleted(self) -> None:
        """Finish deletions that were interrupted."""
        known = {info.id for info in self._catalogue.topics().values()}
        for path in (self.path / "topics").glob("*"):
            if path.name not in known:
                self._remove_directory(path)

    def _remove_garbage(self) -> None:
        """Remove the files of rolls, retentions and compactions that were killed."""
        for topic in self._catalogue.topics().values():
            for number in range(topic.partitions):
                partition = self.partition(topic, number)
                with suppress(FileNotFoundError, Damaged):  # Nothing was appended yet; or others have to say so.
                    remove_garbage(partition.directory, Manifest.read(partition.directory), self.files)

    def _remove_directory(self, path: Path) -> None:
        if not path.is_dir():
            return
        for child in sorted(path.rglob("*"), reverse=True):
            if child.is_dir():
                child.rmdir()
            else:
                self.files.unlink(child)
        path.rmdir()
        self.files.sync_directory(path.parent)

    def _recover_partition(self, topic: TopicInfo, number: int) -> None:
        """One that has lost what was durable says so when it is used, and the others are served."""
        try:
            recover_partition(self.partition(topic, number).directory, topic, number, self.shared, self.files)
        except Damaged as error:
            logger.error("%s-%d is damaged and takes no appends: %s", topic.name, number, error)
            slot = topic.slots[number]
            self.shared.set_flags(slot, self.shared.flags(slot) | DAMAGED)

    def _repair_partitions(self) -> None:
        """Take partitions into use again whose sync failed, or whose files were put back."""
        for topic in self._catalogue.topics().values():
            for number, slot in enumerate(topic.slots):
                if self.shared.flags(slot) & DAMAGED:
                    self._recover_partition(topic, number)
                elif self.shared.flags(slot) & FAILED:
                    partition = self.partition(topic, number)
                    # Where the disk still refuses, the partition stays failed, which every append will say.
                    with suppress(OSError):
                        rebuild_partition(partition.directory, topic, number, self.shared, self.files)


def _boot_id() -> bytes:
    """16 bytes that change with every start of the machine."""
    try:
        return uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).bytes
    except OSError:
        import subprocess

        boot = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, check=True
        )
        return uuid.UUID(boot.stdout.strip()).bytes
