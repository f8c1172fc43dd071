"""Our frames in two other codecs, and theirs in ours: every API, every version that they know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.log.broker.apis import Api
from framework.log.broker.reading import MAX_ELEMENTS, read_whole, reader
from framework.log.broker.requests import decode_assignment, decode_subscription, encode_blob
from framework.log.broker.schema import Struct
from framework.log.broker.table_configs import ApiVersionsResponse
from framework.log.broker.table_group_admin import Assignment, Subscription
from framework.log.broker.writing import Target, writer
from tests.log.broker import oracles
from tests.log.broker.drawn import ALL, in_version, made, name_of, of_version, plain_struct, structs

EXAMPLES = 16
every_kind = pytest.mark.parametrize(("api", "kind"), ALL, ids=name_of)


def written(value: Struct, api: Api, version: int) -> bytes:
    """The bytes of *value*, all buffers together."""
    target = Target()
    writer(type(value), version, api.flexible(version))(target, value)
    return b"".join(target.buffers())


def read(body: bytes, api: Api, kind: type[Struct], version: int) -> Struct:
    """What is in *body*."""
    value = read_whole(reader(kind, version, api.flexible(version)), body, 0, MAX_ELEMENTS)
    assert isinstance(value, kind)
    return value


def not_refused(value: Any) -> Any:
    """*value*, unless it refuses ApiVersions: kafka-python, like all clients, reads that as version 0."""
    kind: type[Struct] = type(value)
    return made(kind, (0, *value[1:])) if kind is ApiVersionsResponse else value


@pytest.mark.slow
@every_kind
def test_what_is_written_is_read_back_in_every_version(api: Api, kind: type[Struct]) -> None:
    @settings(max_examples=EXAMPLES, derandomize=True)
    @given(structs(kind))
    def check(value: Struct) -> None:
        for version in api.versions:
            expected = of_version(value, version)
            assert read(written(expected, api, version), api, kind, version) == expected

    check()


@pytest.mark.slow
@every_kind
def test_kafka_python_reads_ours_and_we_read_its(api: Api, kind: type[Struct]) -> None:
    @settings(max_examples=EXAMPLES, derandomize=True)
    @given(structs(kind).map(not_refused))
    def check(value: Struct) -> None:
        for version in api.versions:
            expected = of_version(value, version)
            body, content = written(expected, api, version), plain_struct(expected, version)
            assert oracles.kafka_python_decode(body, kind, version) == content
            assert read(oracles.kafka_python_encode(content, kind, version), api, kind, version) == expected

    check()


@pytest.mark.slow
@every_kind
def test_kio_reads_ours_and_we_read_its(api: Api, kind: type[Struct]) -> None:
    versions = [version for version in api.versions if oracles.kio_class(api, kind, version) is not None]
    assert versions

    @settings(max_examples=EXAMPLES, derandomize=True)
    @given(structs(kind))
    def check(value: Struct) -> None:
        for version in versions:
            expected = of_version(value, version)
            found, theirs = oracles.kio_decode(written(expected, api, version), api, kind, version)
            assert found == plain_struct(expected, version)
            assert read(theirs, api, kind, version) == expected

    check()


# What our names for fields are in Kafka's own definitions, which kafka-python has, where they are not the same.
RENAMED = {
    "assignment": {"member_assignment"},
    "cluster_authorized_operations": {"authorized_operations"},
    "error_code": {"partition_error_code"},
    "error_message": {"batch_index_error_message"},
    "forgotten_topics": {"forgotten_topics_data"},
    "generation_id": {"generation_id_or_member_epoch"},
    "groups": {"groups_names", "results"},
    "index": {"partition", "partition_index"},
    "log_dirs": {"results"},
    "log_start_offset": {"low_watermark"},
    "metadata": {"member_metadata"},
    "name": {"topic"},
    "partitions": {"partition_data", "partition_indexes", "partition_responses", "results_by_partition"},
    "producer_epoch": {"v3_and_below_producer_epoch"},
    "producer_id": {"v3_and_below_producer_id"},
    "protocol": {"protocol_data"},
    "resources": {"responses"},
    "state": {"group_state"},
    "topic_authorized_operations": {"authorized_operations"},
    "topics": {"responses", "results", "results_by_topic_v3_and_below", "topic_data", "v3_and_below_topics"},
    "transactional_id": {"v3_and_below_transactional_id"},
    "type": {"group_type"},
}


@every_kind
def test_fields_have_kafkas_names_or_are_said_to_have_others(api: Api, kind: type[Struct]) -> None:
    """Two fields of one type that have changed places would be read without an error, and as each other."""
    theirs = oracles.KAFKA_PYTHON[kind.__name__]._struct
    for version in api.versions:
        assert list(other_names(kind, theirs, version)) == []


def other_names(kind: type[Struct], theirs: Any, version: int) -> Iterator[tuple[str, str]]:
    """Our name and theirs of each field that has another."""
    for our, their in zip(in_version(kind, version), oracles.kafka_python_fields(theirs, version), strict=True):
        if our.name != their.name and their.name not in RENAMED.get(our.name, ()):
            yield our.name, their.name
        struct = our.struct or (our.element and our.element.struct)
        if struct:
            yield from other_names(struct, their, version)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Subscription, Assignment], ids=name_of)
def test_what_consumers_tell_each_other_is_read_as_kio_does(kind: type[Struct]) -> None:
    decode = decode_subscription if kind is Subscription else decode_assignment

    @settings(max_examples=50, derandomize=True)
    @given(structs(kind), st.integers(0, 3), st.binary(max_size=5))
    def check(value: Any, version: int, later: bytes) -> None:
        expected = of_version(value, version)
        blob = encode_blob(expected, version)
        assert oracles.kio_decode_blob(blob[2:], f"consumer_protocol_{kind.__name__.lower()}", kind, version) == (
            plain_struct(expected, version)
        )
        assert decode(blob) == expected
        if version == 3:
            assert decode(b"\0\7" + blob[2:] + later) == expected, "what a later version adds is passed over"

    check()
