"""What an agent does about a record that fails."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, get_args

from framework.errors import DeclarationError

Then = Literal["dead-letter", "skip", "stop"]
Exceptions = type[BaseException] | tuple[type[BaseException], ...]


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a failing record is tried again, how long to wait, and what becomes of it then.

    It is tried alone: what comes before it is committed first, and not repeated. When *outage_after* different records
    in a row have failed for good, no record is likely to be the reason: the task stalls at the first of them, tries it
    until it succeeds, and none of them is given up. (Where records come more slowly than they fail, those that
    nothing was waiting behind have been.)
    """

    times: int = 3
    """How often again; 0 for never."""
    wait: timedelta = timedelta(milliseconds=100)
    """Before the first of them; each time twice as long."""
    max_wait: timedelta = timedelta(seconds=30)
    on: Exceptions = Exception
    """What is tried again; anything else is not, and goes on with *then* at once."""
    then: Then = "dead-letter"
    """`skip` leaves the record out and logs it, `stop` ends the worker, which begins with it at its next start."""
    outage_after: int = 10
    """0 for never."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            DeclarationError: One cannot be.
        """
        if self.times < 0 or self.outage_after < 0:
            raise DeclarationError(
                f"Retry: times is {self.times}, outage_after {self.outage_after}; neither can be below 0"
            )
        if self.wait < timedelta(0) or self.max_wait < self.wait:
            raise DeclarationError(
                f"Retry: wait is {self.wait}, max_wait {self.max_wait}; it must be 0 <= wait <= max_wait"
            )
        if self.then not in get_args(Then):
            raise DeclarationError(f"Retry: then is {self.then!r}, it must be one of {', '.join(get_args(Then))}")

    def wait_s(self, attempt: int) -> float:
        """Seconds between attempt number *attempt*, from 1, and the next."""
        doubled: float = self.wait.total_seconds() * 2 ** min(attempt - 1, 32)
        return min(doubled, self.max_wait.total_seconds())

    def again(self, error: BaseException, attempt: int) -> bool:
        """Whether a record that failed with *error* for the *attempt*-th time is tried again."""
        return attempt <= self.times and isinstance(error, self.on)
