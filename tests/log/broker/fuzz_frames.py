"""Whatever bytes come: atheris draws them, led by which code they reach. `python fuzz_frames.py -runs=200000`."""

from __future__ import annotations

import sys
from contextlib import suppress

import atheris

with atheris.instrument_imports(include=["framework.log"]):
    from framework.log.broker.batches import check_records, header_of
    from framework.log.broker.frames import Frames
    from framework.log.broker.requests import decode_assignment, decode_request, decode_subscription
    from framework.log.catalogue import TopicInfo
    from framework.log.errors import Error, MalformedFrame, UnsupportedRequest
    from framework.log.header import HEADER_BYTES, seal
    from framework.log.settings import TopicSettings


TOPIC = TopicInfo("flights", "0" * 32, TopicSettings(), (0,))


def one(data: bytes) -> None:
    """The first byte says what the others are given to."""
    what, rest = data[:1], data[1:]
    if what < b"\x80":
        with suppress(MalformedFrame, UnsupportedRequest):
            decode_request(rest)
    elif what < b"\xa0":
        with suppress(MalformedFrame):
            Frames(max_frame_bytes=1 << 16).feed(rest)
    elif what < b"\xc0":
        with suppress(MalformedFrame):
            decode_subscription(rest)
        with suppress(MalformedFrame):
            decode_assignment(rest)
    else:
        batch = bytearray(rest.ljust(HEADER_BYTES, b"\0"))
        # Else nothing would get beyond the length and the checksum.
        seal(batch)
        with suppress(Error):
            check_records(batch, header_of(batch, TOPIC), TOPIC)


if __name__ == "__main__":
    atheris.Setup([*sys.argv, "-max_len=4096", "-rss_limit_mb=1024", "-timeout=10"], one)
    atheris.Fuzz()
