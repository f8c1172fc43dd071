"""One measurement of Bytewax, in a process of its own: `bytewax_side filter|sum BATCH RECORDS`.

Prints the records handled a second, as JSON. Its state is in memory, without recovery, which is its fastest.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import bytewax.operators as op
import orjson
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import TestingSource, run_main

from tests.benchmarks.peers.work import THRESHOLD, kept, values


class Counted(DynamicSink[Any]):
    """Counts what arrives."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.items = 0

    def build(self, step_id: str, worker_index: int, worker_count: int) -> StatelessSinkPartition[Any]:
        """The only part."""
        return _Part(self)


class _Part(StatelessSinkPartition[Any]):
    def __init__(self, counted: Counted) -> None:
        self._counted = counted

    def write_batch(self, items: list[Any]) -> None:
        self._counted.items += len(items)


def main(work: str, batch: int, records: int) -> None:
    """Measure, and print."""
    data = values(records)
    flow, counted = Dataflow("bench"), Counted()
    parsed = op.map("parse", op.input("input", flow, TestingSource(data, batch_size=batch)), orjson.loads)
    if work == "filter":
        op.output("output", op.filter("filter", parsed, lambda value: value["amount"] > THRESHOLD), counted)
        expected = kept(records)
    else:
        keyed = op.map("key", parsed, lambda value: (value["key"], value["amount"]))
        op.output("output", op.stateful_map("sum", keyed, _add), counted)
        expected = records
    started = time.perf_counter()
    run_main(flow)
    seconds = time.perf_counter() - started
    assert counted.items == expected, f"{counted.items}, not {expected}"
    print(json.dumps(records / seconds), flush=True)


def _add(total: int | None, amount: int) -> tuple[int, int]:
    total = (total or 0) + amount
    return total, total


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
