"""A broker that breaks its word on purpose: `python -m tests.faults.broken_broker BREAK broker --data ...`.

Whoever judges the histories of its clients has to notice, or it would not notice the same by accident either.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from framework.cli import main
from framework.log import Log, Partition
from framework.log.broker.produce import _Producing
from framework.log.header import Header, read_header
from framework.log.producers import Producers
from framework.state.groups import GroupStore

LATE_S = 0.3
"""How long after its answer something is done that should have been done before."""


def acknowledge_at_once() -> None:
    """An append is acknowledged before it is made."""
    append, late, guard = Log.append, ThreadPoolExecutor(1), threading.Lock()
    ends: dict[Partition, int] = {}

    def append_late(self: Log, partition: Partition, batches: list[bytearray], *, durable: bool = False) -> Future[int]:
        told: Future[int] = Future()
        with guard:
            offset = max(partition.log_end, ends.get(partition, 0))
            ends[partition] = offset + sum(read_header(batch).last_offset_delta + 1 for batch in batches)

            def make() -> None:
                threading.Event().wait(LATE_S / 10)
                append(self, partition, batches, durable=durable)

            late.submit(make)
        told.set_result(offset)
        return told

    Log.append = append_late  # type: ignore[method-assign]


def forget_producers() -> None:
    """After a start, nothing is known of what was sent before, and everything is appended."""
    is_duplicate = Producers.is_duplicate

    def is_known_duplicate(self: Producers, header: Header) -> bool:
        return header.producer_id in self._states and is_duplicate(self, header)

    Producers.fold = lambda *_: None  # type: ignore[method-assign]
    Producers.read = classmethod(lambda cls, _: cls())  # type: ignore[method-assign,assignment]
    Producers.is_duplicate = is_known_duplicate  # type: ignore[method-assign]


def refuse_producers() -> None:
    """After a start, nothing is known of what was sent before, and producers are told so."""
    Producers.fold = lambda *_: None  # type: ignore[method-assign]
    Producers.read = classmethod(lambda cls, _: cls())  # type: ignore[method-assign,assignment]


def commit_late() -> None:
    """A commit is answered before it is written."""
    submit = GroupStore._submit
    late = ThreadPoolExecutor(1)

    def submit_late(self: GroupStore, change: Any) -> Future[Any]:
        told: Future[Any] = Future()
        told.set_result(None)

        def make() -> None:
            threading.Event().wait(LATE_S)
            submit(self, change)

        late.submit(make)
        return told

    GroupStore._submit = submit_late  # type: ignore[method-assign]


def tell_another_offset() -> None:
    """Every fiftieth batch is said to be one offset before where it is."""
    acknowledge, count = _Producing._acknowledge, [0]

    def acknowledge_wrongly(self: _Producing, part: Any, offset: int | None) -> None:
        count[0] += 1
        acknowledge(self, part, offset if offset is None or count[0] % 50 else max(0, offset - 1))

    _Producing._acknowledge = acknowledge_wrongly  # type: ignore[method-assign]


def drop_batches() -> None:
    """Every fiftieth batch is acknowledged and not appended."""
    append, count = Log.append, [0]

    def append_most(self: Log, partition: Partition, batches: list[bytearray], *, durable: bool = False) -> Future[int]:
        count[0] += 1
        if count[0] % 50:
            return append(self, partition, batches, durable=durable)
        told: Future[int] = Future()
        told.set_result(partition.log_end)
        return told

    Log.append = append_most  # type: ignore[method-assign]


BREAKS: dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        acknowledge_at_once,
        forget_producers,
        refuse_producers,
        commit_late,
        tell_another_offset,
        drop_batches,
    )
}

if __name__ == "__main__":
    BREAKS[sys.argv.pop(1)]()
    main()
