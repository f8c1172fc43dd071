"""Topic settings have Kafka's names, and what Kafka would not take is refused with its range."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.log.errors import InvalidName, InvalidSetting
from framework.log.settings import (
    CHOICES,
    MAX_PARTITIONS,
    RANGES,
    TopicSettings,
    check_partitions,
    check_topic_name,
    kafka_name,
)


def _between(low: float, high: float) -> st.SearchStrategy[Any]:
    return st.floats(low, high) if isinstance(low, float) else st.integers(low, int(high))


any_settings = st.fixed_dictionaries(
    {
        **{name: _between(low, high) for name, (low, high) in RANGES.items()},
        **{name: st.sampled_from(choices) for name, choices in CHOICES.items()},
    }
)


def test_every_setting_has_a_range_and_kafkas_name() -> None:
    assert {field.name for field in dataclasses.fields(TopicSettings)} == {*RANGES, *CHOICES}
    assert set(TopicSettings().as_config()) == {
        "retention.ms",
        "retention.bytes",
        "segment.bytes",
        "max.message.bytes",
        "index.interval.bytes",
        "segment.ms",
        "hold.bytes",
        "durability",
        "compression.type",
        "max.uncompressed.bytes",
        "cleanup.policy",
        "min.cleanable.dirty.ratio",
        "delete.retention.ms",
        "min.compaction.lag.ms",
        "producer.id.expiration.ms",
    }


@given(any_settings)
def test_settings_survive_the_way_through_kafkas_names(values: dict[str, Any]) -> None:
    settings = TopicSettings(**values)
    assert TopicSettings.from_config(settings.as_config()) == settings


def test_what_is_not_named_has_its_default() -> None:
    settings = TopicSettings.from_config({"segment.bytes": 8192})
    assert settings == TopicSettings(segment_bytes=8192)
    assert settings.retention_ms == TopicSettings().retention_ms == 604_800_000


@pytest.mark.parametrize("name", RANGES)
def test_both_ends_of_a_range_are_taken_and_one_beyond_is_refused(name: str) -> None:
    low, high = RANGES[name]
    TopicSettings.from_config({kafka_name(name): low})
    TopicSettings.from_config({kafka_name(name): high})
    for beyond in (low - 1, high + 1):
        with pytest.raises(
            InvalidSetting, match=rf"{kafka_name(name)} is {re.escape(str(beyond))}, .* {low} and {high}"
        ):
            TopicSettings.from_config({kafka_name(name): beyond})


@pytest.mark.parametrize("value", ["8192", 8192.0, True, None])
def test_a_value_that_is_no_integer_is_refused(value: object) -> None:
    with pytest.raises(InvalidSetting, match=r"retention\.ms is"):
        TopicSettings.from_config({"retention.ms": value})  # type: ignore[dict-item]


def test_an_unknown_setting_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(InvalidSetting, match=r"'segment\.byts'.*segment\.bytes"):
        TopicSettings.from_config({"segment.byts": 8192})


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "x" * 249, "...", "__consumer_offsets"])
def test_a_topic_name_that_kafka_takes_is_taken(name: str) -> None:
    assert check_topic_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "x" * 250, "a b", "a/b", "ä", "a\n", "a\0", "../x"])
def test_a_topic_name_that_kafka_refuses_is_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        check_topic_name(name)


@pytest.mark.parametrize("count", [1, 2, MAX_PARTITIONS])
def test_a_topic_may_have_one_to_ten_thousand_partitions(count: int) -> None:
    assert check_partitions(count) == count


@pytest.mark.parametrize("count", [0, -1, MAX_PARTITIONS + 1, 1.0, "4", None])
def test_any_other_number_of_partitions_is_refused(count: object) -> None:
    with pytest.raises(InvalidSetting, match="partitions is"):
        check_partitions(count)  # type: ignore[arg-type]
