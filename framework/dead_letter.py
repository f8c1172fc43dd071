"""Dead letters: records that could not be handled, kept as they were, with the reason in headers.

The topic of the dead letters of an agent is `<app>.<agent>.dead-letter`, with the partitions of its source. Headers:
`dead-letter.agent`, `.topic`, `.partition`, `.offset`, `.error`, `.traceback`, behind those the record had. One that
was sent back and failed again has `dead-letter.retries`: how often it was.
"""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Any

from framework.effects import Effects, current
from framework.log import Headers, Partition, StoredRecord

if TYPE_CHECKING:
    from framework.topic import Topic

TRACEBACK_BYTES, ERROR_BYTES = 8192, 2048
MAX_HEADERS_BYTES = 16 << 10
"""The most that a dead letter is larger than its record: room that its topic has."""
logger = logging.getLogger("framework.dead_letter")


def bury(
    effects: Effects,
    dead_letters: Topic[Any, Any],
    source: Partition,
    record: StoredRecord,
    error: BaseException,
) -> None:
    """Send *record*, read from *source*, to *dead_letters* with the next commit of *effects*; log it."""
    trace = "".join(traceback.format_exception(error))
    headers: Headers = [
        *(header for header in record.headers if not _is_ours(header[0])),
        ("dead-letter.agent", effects.owner.encode()),
        ("dead-letter.topic", source.topic.name.encode()),
        ("dead-letter.partition", b"%d" % source.number),
        ("dead-letter.offset", b"%d" % record.offset),
        ("dead-letter.error", describe(error).encode()[:ERROR_BYTES]),
        ("dead-letter.traceback", trace.encode()[-TRACEBACK_BYTES:]),
    ]
    logger.error(
        "%s: %s@%d goes to %s: %s",
        effects.owner,
        source.name,
        record.offset,
        dead_letters.name,
        describe(error),
    )
    token = current.set(effects)
    try:
        dead_letters.send_raw(record.key, record.value, record.timestamp, headers, partition=source.number)
    finally:
        current.reset(token)


def _is_ours(header: str) -> bool:
    """Of an earlier letter, which the record in hand may be itself."""
    return header.startswith("dead-letter.") and header != "dead-letter.retries"


def describe(error: BaseException) -> str:
    """The error's type and text in one line."""
    return f"{type(error).__name__}: {error}"
