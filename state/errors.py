"""The errors of state and commit.

    framework.log.errors.Error
    |-- StateBehind        the log holds outputs that the state has never sent            exit 6
    |-- StateAhead         the state has read offsets that the log does not hold          exit 6
    |-- StateDamaged       RocksDB reports damage, or a row cannot be read                exit 6
    |-- StateFailed        a commit failed; its tasks are stopped                         exit 1
    |   |-- DiskFull       there is no space for it; it is tried again until there is
    |   `-- DiskFailed     the disk refused it; it is tried again a few times
    |-- ShardBusy          another process owns the shard                                 exit 5
    |-- GroupsBusy         a broker has the committed offsets of its groups               exit 5
    `-- OutboxTooLarge     one record, or one run, sends more than a commit may hold      exit 2

`framework.errors` holds the rest of the tree.
"""

from __future__ import annotations

import errno
from pathlib import Path

from framework.log.errors import Conflict, Damaged, Error, UsageError

_FULL = (errno.ENOSPC, errno.EDQUOT)
# RocksDB says what the system said, in the words of the C library.
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "Disc quota exceeded")


class StateBehind(Damaged):
    """The state is older than the log: its next outputs would be taken for duplicates and dropped."""


class StateAhead(Damaged):
    """The state is newer than the log: it has read what is not there."""


class StateDamaged(Damaged):
    """RocksDB reports damage."""


class StateFailed(Error):
    """A commit could not be written; what it held is not committed, and its tasks are stopped."""


class DiskFull(StateFailed):
    """There is no space for a commit; nothing of it is lost, and nothing is half done."""

    def __init__(self, text: str, path: Path, needed_bytes: int = 0) -> None:
        """*path* is on the disk that is full; a commit needs about *needed_bytes*, 0 if that is not known."""
        super().__init__(text)
        self.path, self.needed_bytes = path, needed_bytes


class DiskFailed(StateFailed):
    """The disk refused a write or a sync: what is on it is known only when it has been opened anew."""


class ShardBusy(Conflict):
    """Another process owns the shard."""


class GroupsBusy(Conflict):
    """Another process has the committed offsets of the groups: a broker, or a command that changes them."""


class OutboxTooLarge(UsageError):
    """More was sent between two commits than a commit may hold."""


def refused(what: str, error: Exception, path: Path, needed_bytes: int = 0) -> StateFailed:
    """What a commit raises when *error* kept it from being made; *what* it was comes first, *path* is on the disk."""
    number, text = getattr(error, "errno", None), f"{what}: {error}"
    if number in _FULL or any(full in str(error) for full in _FULL_TEXTS):
        return DiskFull(text, path, needed_bytes)
    if isinstance(error, OSError) or "IO error" in str(error):
        return DiskFailed(text)
    return StateFailed(text)
