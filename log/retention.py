"""Retention: which closed segments of a partition are too old, or too many.

    |-- gone by retention --|-- kept for readers (hold) --|-- kept --| active |
                                                                              ^ log end
Age is that of the append, not of the record: a record stamped last year is new when it comes. Only whole closed
segments go, so up to one segment more than asked for is kept. What the agents and jobs of this directory have
not read stays, until it is more than `hold.bytes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from framework.log.settings import TopicSettings


@dataclass(frozen=True, slots=True)
class ClosedSegment:
    """What retention has to know of a closed segment; `last_second` is when the last batch was appended to it."""

    next_offset: int
    size_bytes: int
    last_second: int


def segments_to_remove(
    segments: Sequence[ClosedSegment], active_bytes: int, settings: TopicSettings, now_s: int, hold: int | None
) -> int:
    """How many of the oldest *segments* go; *hold* is up to where readers have come.

    >>> closed = [ClosedSegment(10, 100, 1), ClosedSegment(20, 100, 50), ClosedSegment(30, 100, 99)]
    >>> segments_to_remove(closed, 0, TopicSettings(retention_ms=60_000), now_s=100, hold=None)
    1
    >>> segments_to_remove(closed, 50, TopicSettings(retention_bytes=150), now_s=100, hold=None)
    2
    >>> segments_to_remove(closed, 50, TopicSettings(retention_bytes=150), now_s=100, hold=10)
    1
    >>> segments_to_remove(closed, 50, TopicSettings(retention_bytes=150, hold_bytes=0), now_s=100, hold=10)
    2
    """
    if not settings.deletes:
        return 0
    unwanted = max(_too_old(segments, settings, now_s), _too_many(segments, active_bytes, settings))
    read = sum(segment.next_offset <= hold for segment in segments[:unwanted]) if hold is not None else unwanted
    unread_bytes = sum(segment.size_bytes for segment in segments[read:unwanted])
    while read < unwanted and 0 <= settings.hold_bytes < unread_bytes:
        unread_bytes -= segments[read].size_bytes
        read += 1
    return read


def _too_old(segments: Sequence[ClosedSegment], settings: TopicSettings, now_s: int) -> int:
    if settings.retention_ms < 0:
        return 0
    count = 0
    for segment in segments:
        if (now_s - segment.last_second) * 1000 <= settings.retention_ms:
            break
        count += 1
    return count


def _too_many(segments: Sequence[ClosedSegment], active_bytes: int, settings: TopicSettings) -> int:
    if settings.retention_bytes < 0:
        return 0
    total = active_bytes + sum(segment.size_bytes for segment in segments)
    count = 0
    for segment in segments:
        if total - segment.size_bytes < settings.retention_bytes:
            break
        total -= segment.size_bytes
        count += 1
    return count
