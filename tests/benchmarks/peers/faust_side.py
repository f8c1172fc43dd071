"""One measurement of Faust, in a process of its own: `faust_side filter|sum best|installed STORE RECORDS [BROKER]`.

Prints the records handled a second, as JSON. Without the URL of a broker the records lie in memory and the transport
costs nothing; a broker's topic `input` holds the same ones.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from typing import Any

import orjson

from tests.benchmarks.peers import faust_in_memory
from tests.benchmarks.peers.work import THRESHOLD, kept, values


def main(work: str, setting: str, store: str, records: int, broker: str | None = None) -> None:
    """Measure, and print; *setting* is `best`, with uvloop and Cython, or `installed`."""
    if setting == "best":
        import uvloop

        uvloop.install()
    if broker is None:
        faust_in_memory.Transport.records = values(records)
    with tempfile.TemporaryDirectory() as directory:
        app = faust_in_memory.app(directory, optimised=setting == "best", store=store, broker=broker)
        measured = _Measured(records, app.Table("sums", default=int, partitions=1) if work == "sum" else None)
        topic = app.topic("input", value_serializer="raw")
        app.agent(topic, name=work)(measured.add if work == "sum" else measured.keep)
        app.finalize()
        print(json.dumps(asyncio.run(measured.run(app))), flush=True)


class _Measured:
    """The agents; the time is that from the first record to the last."""

    def __init__(self, records: int, sums: Any) -> None:
        self._records, self._sums = records, sums
        self._started = self._seconds = 0.0
        self._done = asyncio.Event()

    async def run(self, app: Any) -> float:
        """Records a second."""
        async with app:
            await asyncio.wait_for(self._done.wait(), _TIMEOUT_S)
        return self._records / self._seconds

    async def keep(self, stream: Any) -> None:
        """Count those over the threshold."""
        found = seen = 0
        async for raw in stream:
            if not seen:
                self._started = time.perf_counter()
            value = orjson.loads(raw)
            if value["amount"] > THRESHOLD:
                found += 1
            seen += 1
            if seen == self._records:
                assert found == kept(self._records)
                self._end()

    async def add(self, stream: Any) -> None:
        """Sum in the table."""
        sums, seen = self._sums, 0
        async for raw in stream:
            if not seen:
                self._started = time.perf_counter()
            value = orjson.loads(raw)
            sums[value["key"]] += value["amount"]
            seen += 1
            if seen == self._records:
                self._end()

    def _end(self) -> None:
        self._seconds = time.perf_counter() - self._started
        self._done.set()


_TIMEOUT_S = 100.0

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), *sys.argv[5:])
