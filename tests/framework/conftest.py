"""What the tests of agents share: a new data directory each, and apps on it that run until they are idle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from framework import App, Record, Retry, Table, Topic
from framework.worker import Worker
from tests.until import until

LIMIT_S = 10.0
"""When a worker that does not become idle fails its test."""

AT_ONCE = Retry(wait=timedelta(0), outage_after=0)
"""Tried again without waiting, whatever else has failed."""


@dataclass(frozen=True)
class Shop:
    """A data directory, and what a test does with apps on it."""

    data: Path

    def app(self, name: str = "shop", **options: Any) -> App:
        """A new app on the directory, as after a restart."""
        return App(name, data=self.data, **{"on_error": AT_ONCE} | options)

    def send(self, topic: Topic[Any, Any], values: Iterable[Any], **options: Any) -> None:
        """Send *values*; they are durable when it returns."""
        with topic._app.opened():
            for value in values:
                topic.send(value, **options)

    def send_raw(self, topic: Topic[Any, Any], value: bytes | None, *, key: bytes | None = None) -> None:
        """Send one record as it is: None for a tombstone, or bytes that are no value of the topic."""
        with topic._app.opened():
            topic.send_raw(key, value, None, [])

    async def run(self, app: App) -> Worker:
        """Run *app* until everything is handled; the worker that did it."""
        worker = Worker(app)
        async with asyncio.timeout(LIMIT_S) as limit:
            try:
                await worker.run(until_idle=True)
            finally:
                # Whatever it raises when it is cancelled at last.
                assert not limit.expired(), "the worker neither became idle nor failed"
        return worker

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let others run until *condition* is true."""
        await until(condition, LIMIT_S)

    async def commit(self, worker: Worker) -> None:
        """Return when a commit that began after this call is over, in all stores of *worker*."""
        async with asyncio.timeout(LIMIT_S):
            for loop in worker._commits.values():
                await loop.commit()

    def values(self, topic: Topic[Any, Any]) -> list[Any]:
        """All values in *topic*."""
        with topic._app.opened():
            return list(topic.read())

    def rows(self, table: Table[Any, Any]) -> dict[Any, Any]:
        """All committed rows of *table*."""
        with table._app.opened():
            return dict(table.items())

    def dead(self, app: App, agent: str) -> list[Record[bytes, bytes]]:
        """The dead letters of *agent*."""
        with app.opened():
            name = f"{app.name}.{agent}.dead-letter"
            return list(app.topics[name].read().records()) if name in app.topics else []


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """An empty place for data."""
    return Shop(tmp_path / "data")
