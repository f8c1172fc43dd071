"""The partition of a key is the one every other Kafka client would choose."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import DefaultPartitioner
from kafka.partitioner.default import murmur2 as murmur2_of_kafka_python

from framework.log.keys import murmur2, partition_of

VECTORS = [
    (b"21", -973932308),
    (b"foobar", -790332482),
    (b"a-little-bit-long-string", -985981536),
    (b"a-little-bit-longer-string", -1486304829),
    (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
    (b"abc", 479470107),
]


@pytest.mark.parametrize(("key", "hashed"), VECTORS)
def test_the_hash_is_the_one_in_kafkas_own_tests(key: bytes, hashed: int) -> None:
    """The vectors of `UtilsTest.testMurmur2`, signed there as Java's integers are."""
    assert murmur2(key) == hashed % (1 << 32)


@given(st.binary(max_size=200))
def test_the_hash_is_the_one_of_kafka_python(key: bytes) -> None:
    assert murmur2(key) == murmur2_of_kafka_python(key)


@given(st.binary(max_size=64), st.integers(1, 10_000))
def test_the_partition_is_the_one_kafka_pythons_partitioner_chooses(key: bytes, partitions: int) -> None:
    numbers = set(range(partitions))
    cluster = SimpleNamespace(
        topics=lambda: {"t"},
        partitions_for_topic=lambda topic: numbers,
        available_partitions_for_topic=lambda topic: numbers,
    )
    chosen = DefaultPartitioner().partition("t", None, key, None, None, cluster)
    assert partition_of(key, partitions) == chosen


@pytest.mark.parametrize("key", [b"", b"\x00", b"\x00\x00\x00\x00", b"\xff" * 7])
def test_an_empty_key_and_keys_of_zeros_and_ones_have_a_partition_too(key: bytes) -> None:
    assert 0 <= partition_of(key, 3) < 3
    assert murmur2(key) == murmur2_of_kafka_python(key)
