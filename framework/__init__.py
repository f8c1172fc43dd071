"""Stream processing over a built-in, durable log: agents, tables and scheduled jobs, exactly once."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from framework.agent import Agent
    from framework.app import App
    from framework.batch import Batch, Run
    from framework.clock import ManualClock
    from framework.jobs.job import Job
    from framework.log.ack import Ack, Sent
    from framework.log.errors import Error
    from framework.record import Record
    from framework.retry import Retry
    from framework.stream import Stream
    from framework.table import Table
    from framework.testing import Harness
    from framework.topic import Topic

_HOMES = {
    "Ack": "framework.log.ack",
    "Agent": "framework.agent",
    "App": "framework.app",
    "Batch": "framework.batch",
    "Error": "framework.log.errors",
    "Harness": "framework.testing",
    "Job": "framework.jobs.job",
    "ManualClock": "framework.clock",
    "Record": "framework.record",
    "Retry": "framework.retry",
    "Run": "framework.batch",
    "Sent": "framework.log.ack",
    "Stream": "framework.stream",
    "Table": "framework.table",
    "Topic": "framework.topic",
}

__all__ = [
    "Ack",
    "Agent",
    "App",
    "Batch",
    "Error",
    "Harness",
    "Job",
    "ManualClock",
    "Record",
    "Retry",
    "Run",
    "Sent",
    "Stream",
    "Table",
    "Topic",
]


def __getattr__(name: str) -> object:
    # Lazy, so that `import framework.log` needs no RocksDB, and `framework --help` no pydantic.
    if name not in _HOMES:
        raise AttributeError(f"module 'framework' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
