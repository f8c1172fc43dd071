"""What can be said of a topic beside its types, and of what an app sends: settings, tombstones, batches."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from framework import App
from framework.errors import DeclarationError
from framework.log import TopicSettings
from framework.log.errors import InvalidSetting, KeyRequired


def settings_of(app: App, **options: Any) -> TopicSettings:
    """The settings that a declaration with *options* makes a topic with."""
    topic = app.topic("t", str, **options)
    with app.opened():
        topic.send("value", key="k").result()
        return app.log.topic("t").settings


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, TopicSettings()),
        ({"retention": None}, TopicSettings(retention_ms=-1)),
        ({"compression": "zstd"}, TopicSettings(compression_type="zstd")),
        ({"durability": "always"}, TopicSettings(durability="always")),
        ({"compact": True}, TopicSettings(cleanup_policy="compact")),
        (
            {"compact": True, "retention": timedelta(days=1)},
            TopicSettings(cleanup_policy="compact,delete", retention_ms=86_400_000),
        ),
        ({"config": {"segment.bytes": 8192, "max.message.bytes": 2048}}, TopicSettings(7 * 86_400_000, -1, 8192, 2048)),
    ],
)
def test_options_become_settings(tmp_path: Path, options: dict[str, Any], expected: TopicSettings) -> None:
    assert settings_of(App("shop", data=tmp_path / "data"), **options) == expected


def test_the_app_says_what_its_topics_do_not_say(tmp_path: Path) -> None:
    app = App("shop", data=tmp_path / "data", durability="os", partitions=3)
    assert settings_of(app) == TopicSettings(durability="os")
    assert app.topic("other", str, durability="group").settings().durability == "group"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": {"segment.byts": 1}}, "topic 't': unknown topic setting 'segment.byts'"),
        ({"config": {"segment.bytes": 1}}, "topic 't': segment.bytes is 1, it must lie between 4096"),
        ({"compression": "brotli"}, "topic 't': compression.type is 'brotli', it must be one of 'producer'"),
        ({"retention": timedelta(0)}, "topic 't': retention is 0:00:00, it must be positive"),
    ],
)
def test_an_option_that_cannot_be_is_refused_where_it_is_declared(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        App("shop").topic("t", str, **options)


def test_a_compacted_topic_takes_tombstones_and_no_record_without_a_key(tmp_path: Path) -> None:
    app = App("shop", data=tmp_path / "data")
    prices = app.topic("prices", int, compact=True)
    with app.opened():
        prices.send(3, key="tea")
        with pytest.raises(KeyRequired, match="'prices' is compacted"):
            prices.send(4)
        prices.send_tombstone("tea").result()
        records = list(prices.read().records())
    assert [(record.key, record.value) for record in records] == [("tea", 3), ("tea", None)]


async def test_what_is_sent_waits_for_company_as_long_as_it_may(tmp_path: Path) -> None:
    """A batch that is full goes at once; the others when the time is over."""
    app = App("shop", data=tmp_path / "data", linger=timedelta(hours=1), batch_bytes=1000)
    topic = app.topic("t", bytes)
    async with app:
        acks = [topic.send(bytes(300)) for _ in range(5)]
        assert (await acks[0]).offset == 0
        assert [ack.done for ack in acks].count(True) == 3
        app.producer().flush()
        assert [(await ack).offset for ack in acks] == [0, 1, 2, 3, 4]
    with pytest.raises(InvalidSetting, match="batch_bytes is 0, it must lie between 1"):
        App("shop", data=tmp_path / "data", batch_bytes=0).producer()


def test_an_option_that_there_is_not_is_refused_and_those_there_are_named(tmp_path: Path) -> None:
    app: Any = App("shop", data=tmp_path)
    with pytest.raises(DeclarationError, match=r"segment_bytes is no option of topic 't' \(settings by Kafka's name"):
        app.topic("t", int, segment_bytes=1 << 20)
    with pytest.raises(DeclarationError, match="conurrency is no option of agent; there are concurrency, name"):
        app.agent(app.topic("numbers", int), conurrency=3)
