"""Topics as Faust declares them."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from framework.faust.topics import Cluster, ensure_topic, settings_of
from framework.log import Log, TopicSettings
from framework.log.errors import InvalidName, InvalidSetting
from tests.framework.faust.group_of import PARTITIONS, TOPIC


def declared(log: Log, **options: Any) -> TopicSettings:
    """The settings of a topic that is declared so."""
    return settings_of(log, **{"retention_s": None, "compacting": None, "deleting": None, "config": None} | options)


def test_a_topic_that_is_there_stays_as_it_is(log: Log) -> None:
    assert ensure_topic(log, TOPIC, PARTITIONS + 1).partitions == PARTITIONS
    assert ensure_topic(log, "new", 3).partitions == 3


def test_a_name_that_the_log_does_not_take_is_told(log: Log) -> None:
    with pytest.raises(InvalidName, match="'a b'"):
        ensure_topic(log, "a b", 1)


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ({"compacting": True}, "cleanup_policy", "compact"),
        ({"compacting": True, "deleting": True}, "cleanup_policy", "compact,delete"),
        ({"retention_s": 1.5}, "retention_ms", 1500),
        ({"config": {"segment.bytes": 65536}}, "segment_bytes", 65536),
        ({"config": {"segment.bytes": "65536"}}, "segment_bytes", 65536),
        ({"compacting": True, "config": {"cleanup.policy": "delete"}}, "cleanup_policy", "delete"),
    ],
)
def test_what_faust_says_becomes_a_setting(log: Log, options: dict[str, Any], field: str, value: object) -> None:
    assert getattr(declared(log, **options), field) == value


def test_what_is_about_brokers_is_left_out_and_named(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert declared(log, config={"min.insync.replicas": 2, "follower.replication.throttled.replicas": "*"}) == (
            log.defaults
        )
    assert "unknown topic setting 'follower.replication.throttled.replicas'" in caplog.text


def test_a_value_out_of_its_range_is_refused(log: Log) -> None:
    with pytest.raises(InvalidSetting, match=r"segment\.bytes is 1"):
        declared(log, config={"segment.bytes": 1})


def test_a_value_of_another_kind_is_refused(log: Log) -> None:
    with pytest.raises(InvalidSetting, match=r"segment\.bytes is 'large'"):
        declared(log, config={"segment.bytes": "large"})


def test_the_assignor_sees_the_topics_of_the_directory(log: Log) -> None:
    cluster = Cluster(log)
    assert cluster.topics() == {TOPIC}
    assert cluster.partitions_for_topic(TOPIC) == set(range(PARTITIONS))
    assert cluster.partitions_for_topic("none") is None
