"""What a directory says about its broker, in two small documents: where it listens, and what clients know it by.

    broker  = document "broker" {"host": str, "port": int, "pid": int}
    cluster = document "cluster" {"cluster_id": str}

The address outlives a broker that is killed, so it counts only as long as the process that it names holds the lock of
brokers. That may be another process of the same pid, before it has written its own; and another program may have the
port by now. So who connects makes sure of the cluster id, which every directory has drawn for itself.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import NamedTuple

from framework.log.document import read_document, write_document
from framework.log.errors import Damaged, NewerFormat
from framework.log.locks import BROKER_LOCK
from framework.log.log import Log

VERSION = 1
CLUSTER_VERSION = 1


class Published(NamedTuple):
    """Where a broker listens, and which process it is."""

    host: str
    port: int
    pid: int


def publish(log: Log, address: tuple[str, int]) -> None:
    """Say that this process is the broker of *log*, which it must be, at *address*."""
    host, port = address
    write_document(log.files, _path(log), "broker", VERSION, {"host": host, "port": port, "pid": os.getpid()})


def withdraw(log: Log) -> None:
    """Say that there is none any more; call it while the lock is still held, or it is another broker's that goes."""
    path = _path(log)
    if path.exists():
        log.files.unlink(path)


def published(log: Log) -> Published | None:
    """Where the broker of *log* listens; None if there is none, or it has not said so yet.

    Raises:
        NewerFormat: A newer version of this software wrote it.
    """
    holder = holder_of(log)
    if holder is None:
        return None
    try:
        body = read_document(_path(log), "broker", VERSION)
        found = Published(str(body["host"]), int(body["port"]), int(body["pid"]))
    except NewerFormat:
        raise
    except (FileNotFoundError, Damaged):  # Whoever listens next replaces it.
        return None
    return found if found.pid == holder else None


def cluster_id(log: Log) -> str:
    """The name of the directory of *log* for clients, drawn by the first broker that it has."""
    path = log.path / "cluster"
    try:
        return str(read_document(path, "cluster", CLUSTER_VERSION)["cluster_id"])
    except FileNotFoundError:
        drawn = base64.urlsafe_b64encode(log.random.token(16)).decode().rstrip("=")
        write_document(log.files, path, "cluster", CLUSTER_VERSION, {"cluster_id": drawn})
        return drawn


def holder_of(log: Log) -> int | None:
    """The process that is the broker of *log*, this one included, whether it listens already or not."""
    if log.shared.mutex(BROKER_LOCK).locked():  # The system tells a process nothing of its own locks.
        return os.getpid()
    return log.shared.holder(BROKER_LOCK)


def _path(log: Log) -> Path:
    return log.path / "broker"
