"""The errors of state and commit.

    framework.log.errors.Error
    |-- StateBehind        the log holds outputs that the state has never sent            exit 6
    |-- StateAhead         the state has read offsets that the log does not hold          exit 6
    |-- StateDamaged       RocksDB reports damage, or a row cannot be read                exit 6
    |-- StateFailed        a commit failed; its tasks are stopped                         exit 1
    |-- ShardBusy          another process owns the shard                                 exit 5
    `-- OutboxTooLarge     one record, or one run, sends more than a commit may hold      exit 2

`framework.errors` holds the rest of the tree.
"""

from framework.log.errors import Conflict, Damaged, Error, UsageError


class StateBehind(Damaged):
    """The state is older than the log: its next outputs would be taken for duplicates and dropped."""


class StateAhead(Damaged):
    """The state is newer than the log: it has read what is not there."""


class StateDamaged(Damaged):
    """RocksDB reports damage."""


class StateFailed(Error):
    """A commit could not be written; what it held is not committed, and its tasks are stopped."""


class ShardBusy(Conflict):
    """Another process owns the shard."""


class OutboxTooLarge(UsageError):
    """More was sent between two commits than a commit may hold."""
