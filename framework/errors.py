"""The errors of the framework.

    framework.log.errors.Error
    |-- DeclarationError     an app, agent, table or job is declared in a way that cannot work     exit 2
    |-- BadSchedule          a schedule or time zone cannot be understood (in `schedule`)          exit 2
    |-- AppNotFound          there is no app where one was looked for                              exit 4
    |-- IdentityUnclear      what the state knows and what the app declares do not go together     exit 2
    |-- SchemaChanged        what is stored cannot be read as the type that is declared now        exit 2
    |-- DecodeError          the bytes of a record are not a value of the topic's type
    |-- EncodeError          a value cannot be stored in its topic or table
    |-- WrongPartition       a table row is touched from a partition its key does not belong to
    |-- TableOwned           another agent writes the table
    |-- StaleTask            a send or table access by code whose record is finished or discarded
    |-- AppIsOpen            an app that is in use is to be tested                                  exit 2
    |-- MissingExtra         a package that is installed only when asked for is not there           exit 2
    |-- NotIdle              an app under test does not come to rest
    |-- AgentEnded           an agent's loop ended although its stream goes on
    |-- AgentFailed          a record failed for good, and the agent's on_error says stop
    |-- JobFailed            a run of a job failed                                                  exit 3
    |-- RaisedElsewhere      what a handler raised in a process of its own
    `-- RunStopped           a run of a job is to stop: cancelled, or its worker ends
        `-- TimedOut         it has taken longer than it may (a TimeoutError, too)

What names no exit code has that of `Error`, 1.
"""

from framework.log.errors import Error, NotFound, UsageError


class DeclarationError(UsageError):
    """Something is declared in a way that cannot work."""


class AppNotFound(NotFound):
    """There is no app where one was looked for."""


class IdentityUnclear(UsageError):
    """The state knows agents, jobs or partitions by what the app does not declare any more."""


class SchemaChanged(UsageError):
    """A topic or table holds what cannot be read as the type that is declared now."""


class DecodeError(Error):
    """The bytes of a record are not a value of the topic's type."""


class EncodeError(Error):
    """A value cannot be stored in its topic or table."""


class WrongPartition(Error):
    """A table row is touched from a partition that its key does not belong to."""


class TableOwned(Error):
    """Another agent writes the table."""


class StaleTask(Error):
    """Code whose record is finished, or whose effects were discarded, sends or touches a table."""


class AppIsOpen(UsageError):
    """An app that is in use is to be tested."""


class MissingExtra(UsageError):
    """A package that is installed only when asked for is not there."""


class NotIdle(Error, TimeoutError):
    """An app under test does not come to rest."""


class AgentEnded(Error):
    """An agent's loop ended although its stream goes on."""


class AgentFailed(Error):
    """A record failed for good, and its agent's `on_error` says stop."""


class JobFailed(Error):
    """A run of a job failed; it can be run again."""

    exit_code = 3


class RunStopped(Error):
    """A run of a job is to stop; raised in its handler at the next record or chunk."""


class TimedOut(RunStopped, TimeoutError):
    """An attempt at a run has taken longer than its job's `timeout`."""


class RaisedElsewhere(Error):
    """What the handler of a job raised in a process of its own: the text of it, for errors do not travel."""

    def __init__(self, text: str, trace: str, *, again: bool) -> None:
        """*again* says whether the job's `retries` are for such an error."""
        super().__init__(text)
        self.trace, self.again = trace, again
