"""Waiting for the log: the shared file is the doorbell, and whoever watches it sleeps until it is written to.

Linux: inotify, half a microsecond for the writer and nothing while idle; macOS: kqueue. Elsewhere, or when the user
has no inotify instance left (128 by default), polling.
"""

from __future__ import annotations

import ctypes
import math
import os
import select
import sys
import time
from pathlib import Path
from typing import Any

POLL_S = 0.01
_IN_MODIFY = 0x2
_IN_CLOEXEC_NONBLOCK = os.O_CLOEXEC | os.O_NONBLOCK
_EVENTS_A_DRAIN = 64


class Doorbell:
    """One watch on the shared file of a data directory; `fd` becomes readable when it rings, and is -1 without any."""

    def __init__(self, path: Path, shared_fd: int) -> None:
        """Watch the shared file at *path* from now on; *shared_fd* is the descriptor by which the process has it open.

        Another one must not be opened: closing it would drop the locks of the process.
        """
        self.fd = -1
        self._kqueue = _kqueue(shared_fd)
        if self._kqueue is not None:
            self.fd = self._kqueue.fileno()
        elif sys.platform == "linux":
            self.fd = inotify(path)

    @property
    def polls(self) -> bool:
        """Whether there is nothing to watch with: `wait` then returns after `POLL_S` seconds at most."""
        return self.fd < 0

    def wait(self, timeout: float) -> None:
        """Return when it has rung since the last call, or after *timeout* seconds."""
        if self.fd < 0:
            time.sleep(min(timeout, POLL_S))
            return
        if self._kqueue is not None:
            self._kqueue.control(None, _EVENTS_A_DRAIN, timeout)
            return
        watch = select.poll()  # `select` cannot watch descriptors from 1024 on.
        watch.register(self.fd, select.POLLIN)
        watch.poll(math.ceil(timeout * 1000))
        self.drain()

    def drain(self) -> None:
        """Forget the rings so far."""
        if self._kqueue is not None:
            self._kqueue.control(None, _EVENTS_A_DRAIN, 0)
            return
        try:
            while self.fd >= 0 and os.read(self.fd, 4096):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Stop watching."""
        if self._kqueue is not None:
            self._kqueue.close()
        elif self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def inotify(path: Path) -> int:
    """An inotify descriptor that becomes readable when *path* is written to; -1 if there is none to have."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.inotify_init1(_IN_CLOEXEC_NONBLOCK))
    if fd >= 0 and libc.inotify_add_watch(fd, os.fsencode(path), _IN_MODIFY) < 0:
        os.close(fd)
        return -1
    return fd


def _kqueue(shared_fd: int) -> Any:
    """A kqueue that becomes readable when the file open as *shared_fd* is written to; None where there is no such."""
    if sys.platform != "darwin":
        return None
    queue = select.kqueue()
    flags = select.KQ_EV_ADD | select.KQ_EV_CLEAR
    queue.control([select.kevent(shared_fd, select.KQ_FILTER_VNODE, flags, select.KQ_NOTE_WRITE)], 0, 0)
    return queue
