"""What an idempotent producer sent twice is stored once, and what it skipped is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.log import Files
from framework.log.codec import NewRecord, encode
from framework.log.document import write_document
from framework.log.errors import Damaged, NewerFormat, OutOfOrderSequence, ProducerFenced
from framework.log.header import Header, read_header
from framework.log.producers import TASK_PRODUCER_BIT, VERSION, Producers

WRAP = 1 << 31
PLAIN, TASK = 4711, TASK_PRODUCER_BIT | 4711
[_BATCH] = encode([NewRecord(None, b"", 0)], max_batch_bytes=1024)


def sent(first: int, count: int, producer: int = PLAIN, epoch: int = 0) -> Header:
    """The header of a batch of *count* records with sequences from *first*."""
    return read_header(_BATCH)._replace(
        producer_id=producer,
        producer_epoch=epoch,
        base_sequence=first % WRAP,
        last_offset_delta=count - 1,
        records=count,
    )


def remembering(*headers: Header) -> Producers:
    """Producers that have appended *headers*, one after the other."""
    producers, offset = Producers(), 0
    for header in headers:
        producers.add(header, offset)
        offset += header.records
    return producers


def test_the_next_batch_is_new_and_the_last_one_a_duplicate() -> None:
    producers = remembering(sent(0, 10))
    assert producers.is_duplicate(sent(0, 10))
    assert not producers.is_duplicate(sent(10, 3))


def test_ten_batches_sent_again_are_ten_duplicates() -> None:
    """Kafka remembers five; an outbox may hold more."""
    batches = [sent(at * 7, 7) for at in range(10)]
    producers = remembering(*batches)
    assert all(producers.is_duplicate(batch) for batch in batches)
    assert not producers.is_duplicate(sent(70, 1))


@pytest.mark.parametrize("first", [11, 12, 1000, (1 << 30) + 9])
def test_a_gap_is_refused_and_both_sequences_are_named(first: int) -> None:
    producers = remembering(sent(0, 10))
    with pytest.raises(OutOfOrderSequence, match=f"sent sequence {first} after 9"):
        producers.is_duplicate(sent(first, 1))


def test_half_the_range_ahead_is_a_gap_and_one_more_is_the_past() -> None:
    producers = remembering(sent(0, 10))
    with pytest.raises(OutOfOrderSequence):
        producers.is_duplicate(sent(9 + (1 << 30), 1))
    assert producers.is_duplicate(sent(10 + (1 << 30), 1))


def test_a_batch_that_is_half_old_and_half_new_is_refused() -> None:
    with pytest.raises(OutOfOrderSequence):
        remembering(sent(0, 10)).is_duplicate(sent(5, 10))


def test_sequences_go_on_at_zero_behind_two_to_the_31() -> None:
    before, across = sent(WRAP - 8, 5, TASK), sent(WRAP - 3, 6, TASK)
    producers = remembering(before)
    assert not producers.is_duplicate(across)
    producers.add(across, 5)
    assert producers.last_sequence(TASK) == 2
    assert producers.is_duplicate(across)
    assert producers.is_duplicate(before)
    assert not producers.is_duplicate(sent(3, 1, TASK))
    with pytest.raises(OutOfOrderSequence):
        producers.is_duplicate(sent(4, 1, TASK))


def test_a_batch_that_ends_at_the_largest_sequence_is_followed_by_zero() -> None:
    producers = remembering(sent(WRAP - 2, 2, TASK))
    assert producers.last_sequence(TASK) == WRAP - 1
    assert not producers.is_duplicate(sent(0, 1, TASK))


def test_an_unknown_producer_must_begin_at_zero() -> None:
    assert not Producers().is_duplicate(sent(0, 1))
    with pytest.raises(OutOfOrderSequence, match="begins at sequence 1, not 0"):
        Producers().is_duplicate(sent(1, 1))


def test_an_unknown_task_producer_may_begin_anywhere() -> None:
    """Its sequences come from a state that may be older than this partition."""
    assert not Producers().is_duplicate(sent(123_456, 1, TASK))


def test_a_new_epoch_begins_again_at_zero() -> None:
    producers = remembering(sent(0, 10))
    assert not producers.is_duplicate(sent(0, 1, epoch=1))
    with pytest.raises(OutOfOrderSequence):
        producers.is_duplicate(sent(10, 1, epoch=1))


def test_producers_do_not_see_each_others_sequences() -> None:
    producers = remembering(sent(0, 10))
    assert not producers.is_duplicate(sent(0, 10, PLAIN + 1))
    assert producers.last_sequence(PLAIN) == 9
    assert producers.last_sequence(PLAIN + 1) is None


any_restarts = st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), max_size=6)


@given(st.integers(0, WRAP - 1), st.lists(st.integers(1, 500), min_size=1, max_size=20), any_restarts)
def test_however_a_task_replays_its_outbox_each_batch_is_stored_once(
    start: int, counts: list[int], restarts: list[tuple[int, int]]
) -> None:
    """It sends some batches, crashes, goes back to one it has sent, and sends all from there on."""
    firsts = [start + sum(counts[:at]) for at in range(len(counts))]
    producers, stored, begin = Producers(), [], 0
    for run, back in [*restarts, (len(counts), 0)]:
        end = min(begin + run, len(counts))
        for at in range(begin, end):
            header = sent(firsts[at], counts[at], TASK)
            if not producers.is_duplicate(header):
                producers.add(header, firsts[at] - start)
                stored.append(at)
        begin = min(back, end)
    assert stored == list(range(len(counts)))


def test_a_snapshot_remembers_everything(tmp_path: Path) -> None:
    path = tmp_path / "0.1.producers"
    remembering(sent(0, 10), sent(WRAP - 1, 3, TASK), sent(0, 2, PLAIN + 1, epoch=4)).write(Files(), path)
    producers = Producers.read(path)
    assert [producers.last_sequence(one) for one in (PLAIN, TASK, PLAIN + 1)] == [9, 1, 1]
    assert producers.is_duplicate(sent(0, 10))
    assert producers.is_duplicate(sent(WRAP - 1, 3, TASK))
    assert producers.is_duplicate(sent(0, 2, PLAIN + 1, epoch=4))


def test_a_missing_snapshot_is_damage_because_duplicates_cannot_be_told_any_more(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match=r"0\.1\.producers is missing"):
        Producers.read(tmp_path / "0.1.producers")


def test_a_newer_snapshot_is_refused(tmp_path: Path) -> None:
    write_document(Files(), tmp_path / "0.1.producers", "producers", VERSION + 1, {"rows": []})
    with pytest.raises(NewerFormat):
        Producers.read(tmp_path / "0.1.producers")


def test_an_older_epoch_is_fenced() -> None:
    """Whoever had the id before may have been stopped for a while, and does not know."""
    producers = remembering(sent(0, 2, epoch=4))
    with pytest.raises(ProducerFenced, match="epoch 3 was followed by epoch 4"):
        producers.is_duplicate(sent(2, 1, epoch=3))
    assert not producers.is_duplicate(sent(0, 1, epoch=5))


def test_only_other_clients_producers_are_forgotten_and_only_by_the_time_of_their_last_append() -> None:
    """Their records' own timestamps may be of any year."""
    quiet, busy, task = PLAIN, PLAIN + 1, TASK
    producers = Producers()
    for header, offset in ((sent(0, 10, quiet), 100), (sent(0, 10, task), 110), (sent(0, 10, busy), 120)):
        producers.add(header, offset)
    day_ms = 86_400_000
    producers.expire([(1_000, 100), (1_001, 110), (50_000, 120)], now_s=87_399, expiration_ms=day_ms)
    assert [producers.last_sequence(one) for one in (quiet, task, busy)] == [9, 9, 9]
    producers.expire([(87_400, 130)], now_s=87_400, expiration_ms=day_ms)
    assert [producers.last_sequence(one) for one in (quiet, task, busy)] == [None, 9, 9], "of later segments too"


def test_a_snapshot_remembers_when_its_producers_appended_last(tmp_path: Path) -> None:
    path = tmp_path / "0.1.producers"
    producers = remembering(sent(0, 10))
    producers.expire([(1_000, 0)], now_s=1_000, expiration_ms=60_000)
    producers.write(Files(), path)
    producers = Producers.read(path)
    producers.expire([(5_000, 50)], now_s=1_060, expiration_ms=60_000)
    assert producers.last_sequence(PLAIN) is None
