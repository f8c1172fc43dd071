"""The clock and the randomness of the log, passed in so that tests own both."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """Where the time comes from."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, by the wall clock."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""


class SystemClock:
    """The clocks of the operating system."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, by the wall clock."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()


class Random(Protocol):
    """Where identifiers come from."""

    def token(self, size: int) -> bytes:
        """*size* random bytes."""


class SystemRandom:
    """The operating system's randomness."""

    def token(self, size: int) -> bytes:
        """*size* random bytes."""
        return secrets.token_bytes(size)


def to_ms(timestamp: datetime) -> int:
    """Milliseconds since the epoch; a naive *timestamp* is taken as UTC."""
    if timestamp.tzinfo is None:
        timestamp = timestamp.replace(tzinfo=UTC)
    return (timestamp - EPOCH) // timedelta(milliseconds=1)
