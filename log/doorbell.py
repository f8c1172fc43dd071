"""Waiting for the log: the shared file is the doorbell, and whoever watches it sleeps until it is written to.

Linux: inotify, half a microsecond for the writer and nothing while idle. Elsewhere, or when the user has no
inotify instance left (128 by default), polling.
"""

from __future__ import annotations

import ctypes
import os
import select
import sys
import time
from pathlib import Path

POLL_S = 0.01
_IN_MODIFY = 0x2
_IN_CLOEXEC_NONBLOCK = os.O_CLOEXEC | os.O_NONBLOCK


class Doorbell:
    """One watch on the shared file of a data directory."""

    def __init__(self, path: Path) -> None:
        """Watch *path* from now on."""
        self.fd = _watch(path)

    @property
    def polls(self) -> bool:
        """Whether there is nothing to watch with: `wait` then returns after `POLL_S` seconds at most."""
        return self.fd < 0

    def wait(self, timeout: float) -> None:
        """Return when it has rung since the last call, or after *timeout* seconds."""
        if self.fd < 0:
            time.sleep(min(timeout, POLL_S))
            return
        select.select([self.fd], [], [], timeout)
        self.drain()

    def drain(self) -> None:
        """Forget the rings so far."""
        try:
            while self.fd >= 0 and os.read(self.fd, 4096):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Stop watching."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def _watch(path: Path) -> int:
    """An inotify descriptor that becomes readable when *path* is written to; -1 if there is none to have."""
    if sys.platform != "linux":
        return -1
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.inotify_init1(_IN_CLOEXEC_NONBLOCK))
    if fd >= 0 and libc.inotify_add_watch(fd, os.fsencode(path), _IN_MODIFY) < 0:
        os.close(fd)
        return -1
    return fd
