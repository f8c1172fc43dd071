"""What all sides do the same work on: no framework is imported here, and each is in an environment of its own."""

from __future__ import annotations

import orjson

KEYS = 10_000
THRESHOLD = 500


def values(records: int) -> list[bytes]:
    """Records of 45 to 60 bytes; a key comes every 10,000th record, in no simple order."""
    return [
        orjson.dumps({"key": f"k{number * 7919 % KEYS}", "amount": number % 1000, "at": 1_700_000_000 + number})
        for number in range(records)
    ]


def kept(records: int) -> int:
    """How many of them are over the threshold."""
    return sum(number % 1000 > THRESHOLD for number in range(records))
