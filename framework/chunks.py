"""Going through a batch chunk by chunk, in a thread or from the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from typing import Generic

from typing_extensions import TypeVar

from framework.batch import Batch
from framework.log.piece import Piece, take

V = TypeVar("V")
K = TypeVar("K", default=str)
T = TypeVar("T")


class Chunks(Generic[V, K]):
    """The chunks of a batch, for `for` and for `async for`; in a job, asking for the next commits the one before."""

    def __init__(self, batch: Batch[V, K], records: int) -> None:
        """Chunks of *records* records; use `Batch.chunks`."""
        if records < 1:
            raise ValueError(f"chunks({records}): a chunk has at least 1 record")
        self._batch, self._records, self._number = batch, records, batch.number
        self._cursor, self._pieces = batch.cursor(), batch.pieces() if batch.is_chunk else None
        self._rest: Piece | None = None
        self._is_out = self._is_over = False

    def __iter__(self) -> Chunks[V, K]:
        return self

    def __next__(self) -> Batch[V, K]:
        chunk = self._next()
        if chunk is None:
            raise StopIteration
        return chunk

    def __aiter__(self) -> Chunks[V, K]:
        return self

    async def __anext__(self) -> Batch[V, K]:
        chunk = await _in_thread(self._next)
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    def _next(self) -> Batch[V, K] | None:
        if self._is_over:
            return None
        batch = self._batch
        # When something fails here, a handler that goes on all the same gets no more.
        self._is_over = batch.begun = True
        if self._is_out:
            done, batch.open_records = batch.open_records, 0
            self._is_out = False
            self._number += 1
            if batch.run is not None and not batch.is_chunk:
                batch.number = self._number
                batch.reading.commit(self._cursor, done)
        taken, count = self._take()
        if not count:
            return None
        batch.open_records, self._is_out, self._is_over = count, True, False
        return batch.chunk(self._number, taken)

    def _take(self) -> tuple[list[Piece], int]:
        if self._pieces is None:
            return self._cursor.take_pieces(self._records, self._batch.reading.pause)
        taken, count, self._rest = take(self._pieces, self._rest, self._records)
        return taken, count


async def _in_thread(function: Callable[[], T]) -> T:
    """What *function* returns; also when cancelled it waits for it, so that nobody commits behind the run's back."""
    future = asyncio.get_running_loop().run_in_executor(None, copy_context().run, function)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # Nobody asks for it any more, and that is no fault.
        raise
