"""Reading closed segments that have left the page cache: around the cache, while the caller decodes.

    disk      step 0 | step 1 | step 2 |      | step 3 |     in a thread, into buffers that are used in turn
    caller           | decodes step 0  | decodes step 1 |    copies what it reads out of them

The kernel takes longer to find pages for what a fast disk gives than the disk takes to give it, and who reads a
backlog wants them once. Whatever goes wrong here is read again through the cache, and that decides what it was.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from mmap import PAGESIZE, mmap
from pathlib import Path
from time import perf_counter

from framework.log.files import Files

STEP_BYTES = 4 << 20
"""What is read at once: whole blocks of any disk, and enough of them that it is at its best."""
STEPS = 3
"""A read may begin in one and end in the next, and the disk fills the third."""
MOST_COLD_READERS = 4
"""So many readers of a log have buffers; others read through the cache."""
SLOW_BYTES_PER_S = 500_000_000
"""A disk that gives less while it is waited for is read through the cache, which costs nothing there and serves others
who read the same."""
ASKED_AHEAD_BYTES = 16 << 20
"""So far ahead is looked whether the segment is cold: the kernel reads eight megabytes ahead by itself, or twice."""


class ColdReads:
    """Reads closed segments for one reader, one after the other; not thread-safe.

    From the first that is cold until `let_go` it has a thread and buffers, and a descriptor for each it reads.
    """

    def __init__(self, files: Files, turns: threading.Semaphore) -> None:
        """Has nothing yet; the readers of a log share *turns*, which are `MOST_COLD_READERS`."""
        self._files, self._turns = files, turns
        self._buffers: _Buffers | None = None
        self._segment: _ColdSegment | None = None
        self._coming: _ColdSegment | None = None
        self._has_asked = self._given_up = False

    @property
    def is_reading(self) -> bool:
        """Whether a segment has begun, and not ended."""
        return self._segment is not None

    @property
    def holds_buffers(self) -> bool:
        """Whether this segment is cold, or the one before was."""
        return self._buffers is not None

    @property
    def is_ahead(self) -> bool:
        """Whether the disk has come to the end of the segment, and `prepare` would keep it busy."""
        return self._segment is not None and self._segment.is_ahead and not self._has_asked

    def begin(self, path: Path, position: int, size: int | None) -> bool:
        """Read the segment *path* of *size* bytes from *position* on, if that is cold; else `let_go`."""
        assert self._segment is None
        if self._coming is None or self._coming.path != path:
            self.prepare(path, position, size)
        self._segment, self._coming, self._has_asked = self._coming, None, False
        if self._segment is None:
            self.let_go()
        return self.is_reading

    def prepare(self, path: Path, position: int, size: int | None) -> None:
        """Have the disk read what is likely to begin next, if that is cold."""
        self._drop_coming()
        self._has_asked = True
        if self._given_up or size is None or size - position < STEPS * STEP_BYTES:
            return
        ask = min(position + ASKED_AHEAD_BYTES, size - 1) // PAGESIZE * PAGESIZE
        try:
            if self._is_cached(path, ask) or not self._has_turn():
                return
            fd = self._files.open_direct(path)
        except OSError:  # Not every file system has it; and retention may have been faster.
            self._given_up = True
            return
        assert self._buffers is not None
        self._coming = _ColdSegment(self._files, self._buffers, path, fd, position, size, ask)

    def read(self, size: int, position: int) -> bytes | None:
        """*size* bytes at *position*, which is never before the last one; None if they must be read elsewhere."""
        segment = self._segment
        if segment is None or size > (STEPS - 1) * STEP_BYTES:
            return None
        if position < segment.began or segment.buffers.are_inherited:
            return None
        data = segment.read(size, position)
        if data is None:
            self._given_up = True
            self.let_go()
        return data

    def end(self) -> None:
        """Close the segment; the next one finds thread and buffers."""
        if self._segment is not None:
            self._segment.close()
            self._given_up |= self._segment.was_slow
            self._segment = None

    def let_go(self) -> None:
        """Have neither thread nor buffers."""
        self.end()
        self._drop_coming()
        if self._buffers is not None:
            if not self._buffers.are_inherited:
                self._buffers.close()
                self._turns.release()
            self._buffers = None

    def close(self) -> None:
        """Let go, and begin anew with what was given up."""
        self.let_go()
        self._given_up = False

    def _drop_coming(self) -> None:
        if self._coming is not None:
            self._coming.close()
            self._coming = None

    def _is_cached(self, path: Path, position: int) -> bool:
        fd = self._files.open(path, write=False)
        try:
            return self._files.is_cached(fd, position)
        finally:
            self._files.close(fd)

    def _has_turn(self) -> bool:
        if self._buffers is None and self._turns.acquire(blocking=False):
            try:
                self._buffers = _Buffers()
            except BaseException:
                self._turns.release()
                raise
        return self._buffers is not None and not self._buffers.are_inherited


class _Buffers:
    """Memory to read into, and a thread to wait for the disk."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, "framework-cold-read")
        self.idle = [mmap(-1, STEP_BYTES) for _ in range(STEPS)]  # Begins at a page, as the disk wants it.
        self._pid = os.getpid()

    @property
    def are_inherited(self) -> bool:
        """Whether the process has been forked since: then the thread, which is the parent's, never answers."""
        return self._pid != os.getpid()

    def close(self) -> None:
        self.thread.shutdown()
        self.idle.clear()


class _ColdSegment:
    """One file, of which the next steps are in buffers, or on the way there."""

    def __init__(
        self, files: Files, buffers: _Buffers, path: Path, fd: int, position: int, size: int, asked: int
    ) -> None:
        self.path, self.buffers, self._files = path, buffers, files
        self._fd, self._size, self._asked = fd, size, asked
        self.began = self._next = position - position % STEP_BYTES
        self._steps: deque[tuple[int, mmap, Future[int]]] = deque()
        self._waited_s = 0.0
        self._read_on()

    @property
    def is_ahead(self) -> bool:
        return self._next >= self._size and bool(self.buffers.idle)

    @property
    def was_slow(self) -> bool:
        return self._waited_s * SLOW_BYTES_PER_S > self._next - self.began

    def read(self, size: int, position: int) -> bytes | None:
        """*size* bytes at *position*, fewer at the end; None if the disk did not give them."""
        while self._steps and self._steps[0][0] + STEP_BYTES <= position:
            # The disk may still be writing into one that was passed over, but does one after the other.
            self.buffers.idle.append(self._steps.popleft()[1])
        self._next = max(self._next, position - position % STEP_BYTES)
        self._read_on()
        parts, end = list[memoryview](), min(position + size, self._size)
        for start, buffer, done in self._steps:
            if position >= end:
                break
            if not self._is_whole(start, done):
                return None
            parts.append(memoryview(buffer)[position - start : end - start])
            position = start + STEP_BYTES
        return b"".join(parts) if position >= end else None

    def close(self) -> None:
        if not self.buffers.are_inherited:
            for _, buffer, done in self._steps:
                if not done.cancel():
                    done.exception()
                self.buffers.idle.append(buffer)
            # The page that said that it is cold is not to say next time that it is not.
            self._files.forget(self._fd, self._asked, PAGESIZE)
        self._files.close(self._fd)

    def _read_on(self) -> None:
        """Have the disk fill the buffers that nobody needs."""
        while self.buffers.idle and self._next < self._size:
            buffer = self.buffers.idle[-1]
            try:
                done = self.buffers.thread.submit(self._files.read_into, self._fd, buffer, self._next)
            except RuntimeError:  # The interpreter ends, and starts nothing any more.
                return
            self.buffers.idle.pop()
            self._steps.append((self._next, buffer, done))
            self._next += STEP_BYTES

    def _is_whole(self, start: int, done: Future[int]) -> bool:
        """Wait for a step; whether all of it is there."""
        began = perf_counter()
        try:
            return done.result() >= min(STEP_BYTES, self._size - start)
        except OSError:
            return False
        finally:
            self._waited_s += perf_counter() - began
