"""One worker: records stay what they were, it stops when it is told to, and the next one goes on where it was."""

from __future__ import annotations

import json

import pytest

from framework.log import NewRecord
from framework.log.locks import BROKER_LOCK, GROUPS_LOCK
from tests.faust.stage import Stage

TIME_MS = 1_700_000_000_000

pytestmark = pytest.mark.slow


def test_a_worker_that_is_stopped_holds_nothing_and_the_next_goes_on_where_it_was(stage: Stage) -> None:
    for topic, partitions in [("numbers", 4), ("copies", 4), ("beats", 1)]:
        stage.topic(topic, partitions)
    copies = stage.watch("copies")
    stage.send("numbers", range(1_000))
    worker = stage.start("forward", "ada")
    copies.until("all copies", lambda: len(copies.different) == 1_000)
    stage.stop(worker)
    for byte in (BROKER_LOCK, GROUPS_LOCK):
        assert stage.log.shared.holder(byte) is None
    assert stage.committed("forward", "numbers") == stage.ends("numbers")

    stage.send("numbers", range(1_000, 1_500))
    worker = stage.start("forward", "ada")
    copies.until("the rest", lambda: len(copies.different) == 1_500)
    stage.stop(worker)
    copies.now()
    assert sorted(copies.values()) == list(range(1_500)), "some are there twice"
    shown = [json.loads(line) for line in stage.framework("groups", "show", "forward", "--json").splitlines()]
    assert {row["partition"]: row["committed"] for row in shown if row["topic"] == "numbers"} == stage.ends("numbers")


@pytest.mark.parametrize("loop", ["aio", "uvloop"])
def test_key_value_headers_and_time_of_a_record_stay_what_they_were(stage: Stage, loop: str) -> None:
    stage.topic("numbers", 1)
    stage.topic("copies", 1)
    sent = [
        NewRecord(b"key", b'{"a":1}', TIME_MS, [("trace", b"7")]),
        NewRecord(None, b"\x00\xff", TIME_MS + 1, []),
        NewRecord(b"\xff", b"", TIME_MS - 1, [("a", b""), ("b", b"2")]),
    ]
    with stage.log.producer() as producer:
        for record in sent:
            producer.send(
                "numbers", record.value, key=record.key, timestamp=record.timestamp, headers=record.headers
            ).result()
    copies = stage.watch("copies")
    worker = stage.start("forward", "ada", loop=loop)
    copies.until("all copies", lambda: len(copies.records) == len(sent))
    stage.stop(worker)
    assert [(each.key, each.value, each.timestamp) for each in copies.records] == [
        (each.key, each.value, each.timestamp) for each in sent
    ]
    assert [list(each.headers) for each in copies.records] == [[*each.headers, ("worker", b"ada")] for each in sent]


def test_exactly_once_is_refused_with_a_sentence(stage: Stage) -> None:
    worker = stage.run("forward", "ada", "worker", "--without-web", PROCESSING_GUARANTEE="exactly_once")
    stage.ended(worker)
    assert worker.wait() != 0
    assert "exactly_once" in worker.said()
    assert "at_least_once" in worker.said()
