"""Opening a data directory: making it, refusing what it must not lie on, and putting right what a crash left."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from framework.log.catalogue import Catalogue, TopicInfo
from framework.log.errors import Conflict, Damaged, Error, NoDataDirectory, UnsafeFileSystem
from framework.log.files import Files
from framework.log.machine import FOREIGN, mount_of
from framework.log.manifest import Manifest
from framework.log.recovery import rebuild_partition, recover_partition, remove_garbage
from framework.log.shared import DAMAGED, FAILED, Shared, is_deleted, is_usable

UNSAFE_VARIABLE = "FRAMEWORK_UNSAFE_FILESYSTEM"
logger = logging.getLogger(__name__)


def make_directory(path: Path, files: Files, *, create: bool) -> None:
    """Make the directory, durably, unless it is there.

    Raises:
        NoDataDirectory: There is none, and *create* is false.
        Error: It cannot be made.
    """
    try:
        if (path / "shared").exists() or (path / "catalogue").exists():
            return
        if not create:
            raise NoDataDirectory(f"there is no data directory at {path}")
        made = [path, *(parent for parent in path.parents if not parent.exists())]
        path.mkdir(parents=True, exist_ok=True)
        for directory in made:
            files.sync_directory(directory.parent)
    except OSError as error:
        raise Error(f"cannot open the data directory {path}: {error.strerror}") from error


def check_file_system(path: Path, *, unsafe: bool | None) -> None:
    """Refuse a file system that other kernels may write to as well, unless *unsafe*, or the environment, allows it.

    Raises:
        UnsafeFileSystem: It is one.
    """
    if os.environ.get(UNSAFE_VARIABLE) == "1" if unsafe is None else unsafe:
        return
    place = path.resolve()
    kind, mount = mount_of(next(parent for parent in (place, *place.parents) if parent.exists()))
    if kind.startswith(FOREIGN):
        raise UnsafeFileSystem(
            f"{path} is on {kind}, mounted at {mount}: the maps and locks by which processes share a log do not hold "
            "there. Use a local disk; or, if only one process will ever use it, --unsafe-filesystem or "
            f"{UNSAFE_VARIABLE}=1"
        )


class Opening:
    """What the first opener of a process does before anybody else may come in."""

    def __init__(self, path: Path, shared: Shared, catalogue: Catalogue, files: Files) -> None:
        """Does nothing yet."""
        self._path, self._shared, self._catalogue, self._files = path, shared, catalogue, files

    def recover(self, boot_id: bytes) -> None:
        """Make the slots true, if they are not, and remove what killed processes left; then let others in.

        Raises:
            Conflict: The directory is open under another boot id.
            Damaged: The catalogue is not what was written.
        """
        if not self._shared.trusted:
            if not self._shared.alone:
                raise Conflict(f"{self._path} is open under another boot id: two machines, or two kernels, share it")
            topics = self._catalogue.topics().values()
            self._shared.grow(1 + max((slot for topic in topics for slot in topic.slots), default=0))
            for topic, number, slot in self._partitions():
                self._recover(topic, number, slot)
            self._shared.adopt(boot_id)
            self._remove_deleted()
        elif self._shared.alone:
            for topic, number, slot in self._partitions():
                self._tidy(topic, number, slot)
            self._remove_deleted()
        self._shared.opened()

    def unsynced(self) -> Iterator[tuple[TopicInfo, int]]:
        """The partitions whose writer may have been killed between write and sync."""
        for topic, number, slot in self._partitions():
            written, durable = self._shared.written_offset(slot), self._shared.durable_offset(slot)
            if written > durable and is_usable(self._shared.flags(slot)):
                yield topic, number

    def _partitions(self) -> Iterator[tuple[TopicInfo, int, int]]:
        for topic in self._catalogue.topics().values():
            for number, slot in enumerate(topic.slots):
                yield topic, number, slot

    def _directory(self, topic: TopicInfo, number: int) -> Path:
        return self._path / "topics" / topic.id / str(number)

    def _recover(self, topic: TopicInfo, number: int, slot: int) -> None:
        """One that has lost what was durable says so when it is used, and the others are served."""
        try:
            recover_partition(self._directory(topic, number), topic, number, self._shared, self._files)
        except Damaged as error:
            logger.error("%s-%d is damaged and takes no appends: %s", topic.name, number, error)
            self._shared.set_flags(slot, self._shared.flags(slot) | DAMAGED)

    def _tidy(self, topic: TopicInfo, number: int, slot: int) -> None:
        """Take a partition into use again whose sync failed, or whose files were put back; remove unnamed files."""
        directory = self._directory(topic, number)
        if self._shared.flags(slot) & DAMAGED:
            self._recover(topic, number, slot)
        elif self._shared.flags(slot) & FAILED:
            try:
                rebuild_partition(directory, topic, number, self._shared, self._files)
            except (OSError, Damaged) as error:
                logger.error("%s-%d takes no appends: %s", topic.name, number, error)
        elif not is_deleted(self._shared.flags(slot)):
            with suppress(FileNotFoundError, Damaged):  # Nothing was appended yet; or readers have to say so.
                remove_garbage(directory, Manifest.read(directory), self._files)

    def _remove_deleted(self) -> None:
        """Remove the files of deleted topics that interrupted deletions have left."""
        known = {info.id for info in self._catalogue.topics().values()}
        strays = [path for path in (self._path / "topics").glob("*") if path.name not in known]
        if strays:
            # Who deleted them may have been killed before the catalogue without them was durable.
            self._files.sync_directory(self._path)
        for path in strays:
            remove_directory(path, self._files)


def remove_directory(path: Path, files: Files) -> None:
    """Remove the directory of a topic, and all in it, if it is there."""
    if not path.is_dir():
        return
    for child in sorted(path.rglob("*"), reverse=True):
        if child.is_dir():
            child.rmdir()
        else:
            files.unlink(child)
    path.rmdir()
    files.sync_directory(path.parent)
