"""The rows of a state database: what was packed comes back, keys sort as they should, and no kind meets another."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from framework.state import rows

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
IDS = st.binary(min_size=16, max_size=16).map(bytes.hex)
U32, U64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
ID = "000102030405060708090a0b0c0d0e0f"


def test_every_row_has_the_bytes_that_the_grammar_says() -> None:
    """What one version wrote, the next one reads: a change here is a change of `rows.VERSION`."""
    target = bytes(range(16)) + b"\0\0\1\2"
    assert rows.VERSION == 1
    assert rows.meta_key("store") == b"mstore"
    assert rows.offset_key("fold", ID, 258) == b"ofold\0" + target
    assert rows.owner_key("sums") == b"wsums"
    assert rows.table_prefix("sums", 258) == b"tsums\0\0\0\1\2"
    assert rows.sequence_key(ID, 258) == b"s" + target
    assert rows.outbox_key(258) == b"x\0\0\0\0\0\0\1\2"
    assert rows.pack_outbox(ID, 258, b"batch") == target + b"batch"
    assert rows.pack_outbox(ID, 258, bytes(6000)).startswith(bytes(range(16)) + b"\x80\0\1\2" + b"\xf0\x2e\0\0")
    assert rows.run_prefix("nightly") == b"rnightly\0"
    assert rows.pack_u64(258) == b"\0\0\0\0\0\0\1\2"


@given(NAMES, IDS, U32)
def test_an_offset_key_says_whose_it_is(agent: str, topic_id: str, partition: int) -> None:
    assert rows.split_offset_key(rows.offset_key(agent, topic_id, partition)) == (agent, topic_id, partition)


@given(IDS, U32)
def test_a_sequence_key_says_its_target(topic_id: str, partition: int) -> None:
    assert rows.split_sequence_key(rows.sequence_key(topic_id, partition)) == (topic_id, partition)


@given(
    IDS, st.integers(0, (1 << 31) - 1), st.binary(max_size=200) | st.binary(max_size=200).map(lambda part: part * 99)
)
def test_an_outbox_row_gives_its_target_and_a_batch_that_the_log_may_patch(
    topic_id: str, partition: int, batch: bytes
) -> None:
    found = rows.split_outbox(rows.pack_outbox(topic_id, partition, batch))
    assert found == (topic_id, partition, bytearray(batch))
    assert isinstance(found[2], bytearray)


@given(U64)
def test_numbers_come_back(number: int) -> None:
    assert rows.unpack_u64(rows.pack_u64(number)) == number
    assert rows.outbox_number(rows.outbox_key(number)) == number


@given(st.lists(U64))
def test_outbox_rows_sort_in_the_order_of_sending(numbers: list[int]) -> None:
    assert sorted(map(rows.outbox_key, numbers)) == list(map(rows.outbox_key, sorted(numbers)))


@given(NAMES, st.lists(st.tuples(U32, st.binary(max_size=8))))
def test_the_rows_of_a_table_sort_by_partition_and_then_by_key(table: str, places: list[tuple[int, bytes]]) -> None:
    keys = [rows.table_prefix(table, partition) + key for partition, key in sorted(places)]
    assert keys == sorted(keys)


@given(st.tuples(NAMES, U32), st.tuples(NAMES, U32), st.binary(max_size=30))
def test_no_row_of_one_table_or_partition_is_found_under_another(
    one: tuple[str, int], other: tuple[str, int], key: bytes
) -> None:
    """Whatever the key: names hold no zero byte, so `a` is not the beginning of `ab`."""
    assert (rows.table_prefix(*one) + key).startswith(rows.table_prefix(*other)) == (one == other)


@given(NAMES, NAMES, st.text(max_size=20))
def test_no_run_of_one_job_is_found_under_another(one: str, other: str, run: str) -> None:
    assert (rows.run_prefix(one) + run.encode(errors="replace")).startswith(rows.run_prefix(other)) == (one == other)


@given(NAMES, IDS, U32, U64)
def test_the_first_letter_tells_the_kinds_apart(name: str, topic_id: str, partition: int, number: int) -> None:
    keys = [
        rows.meta_key(name),
        rows.offset_key(name, topic_id, partition),
        rows.owner_key(name),
        rows.table_prefix(name, partition),
        rows.sequence_key(topic_id, partition),
        rows.outbox_key(number),
        rows.run_prefix(name),
    ]
    assert sorted(key[:1] for key in keys) == sorted(struct.unpack("7c", b"mowtsxr"))
