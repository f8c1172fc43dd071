"""`compression.type` of a topic is how its records are stored, whoever sends them; readers do not notice."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from framework import App, Stream
from framework.log import Log, TopicSettings
from framework.log.compression import COMPRESSIONS
from framework.log.errors import InvalidSetting

if TYPE_CHECKING:
    from tests.framework.conftest import Shop

TEXTS = [f"number {at} " * 30 for at in range(50)]


def kinds(app: App, name: str) -> set[int]:
    """How the batches of a topic are compressed."""
    with app.opened():
        partition = app.log.partition(app.log.topic(name), 0)
        reader, found = app.log.reader(partition, 0), set[int]()
        while batches := reader.read().batches:
            found |= {header.attributes for header, _ in batches}
        reader.close()
    return found


def declared(shop: Shop, compression: str) -> Any:
    """An app with an agent that sends what it gets, to topics that are there with *compression*."""
    app = shop.app()
    with app.opened():
        for name in ("texts", "copies", "sent"):
            app.log.create_topic(name, 1, TopicSettings(compression_type=compression))
    texts, copies, sent = (app.topic(name, str) for name in ("texts", "copies", "sent"))

    @app.agent(texts, sink=copies)
    async def copy(stream: Stream[str]) -> AsyncGenerator[str, None]:
        async for text in stream:
            sent.send(text, key="all")
            yield text

    return app, texts, copies, sent


@pytest.mark.parametrize("compression", [*COMPRESSIONS, "producer"])
async def test_what_is_sent_and_what_agents_send_is_stored_as_the_topic_says(shop: Shop, compression: str) -> None:
    app, texts, copies, sent = declared(shop, compression)
    with app.opened():
        texts.send_many(TEXTS).result()
    await shop.run(app)
    for topic in (texts, copies, sent):
        assert shop.values(topic) == TEXTS
        assert kinds(app, topic.name) == {COMPRESSIONS.get(compression, 0)}


async def test_a_topic_that_is_altered_holds_both_and_is_read_across(shop: Shop) -> None:
    """The agent too, from the middle of a batch on."""
    app, texts, copies, _ = declared(shop, "lz4")
    with app.opened():
        texts.send_many(TEXTS[:20]).result()
        app.log.alter_topic("texts", TopicSettings(compression_type="zstd"))
        texts.send_many(TEXTS[20:]).result()
        assert list(texts.read(7, 33)) == TEXTS[7:33]
    await shop.run(app)
    assert shop.values(copies) == TEXTS
    assert kinds(app, "texts") == {COMPRESSIONS["lz4"], COMPRESSIONS["zstd"]}


def test_a_producer_that_would_compress_as_nobody_can_is_refused_before_it_sends(tmp_path: Path) -> None:
    with Log(tmp_path / "data", create=True) as log:
        with pytest.raises(InvalidSetting, match=r"compression 'none' is not known: it is one of uncompressed, gzip, "):
            log.producer(compression="none")
        log.producer(compression="zstd").close()
