"""What a worker and the process of a handler say to each other: frames of byte strings, over a socket.

    frame   = count:u32 field*
    field   = length:u32 bytes | ffffffff                             the latter is None
    asked   = get KEY | scan PREFIX START | commit COUNT (KEY VALUE)* sent* | done | failed ERROR TRACE AGAIN
    sent    = topic partition count record*
    record  = key value timestamp headers (name value)*               numbers as decimal text
    answer  = value | (key value)* | nothing

No pickle: what one side says is bytes to the other, and never code.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from framework.log import NewRecord, TopicInfo

_U32 = struct.Struct(">I")
_NONE = 0xFFFFFFFF
Field = bytes | None
Sent = dict[tuple[str, int], list[NewRecord]]


class Wire:
    """One end of the connection."""

    def __init__(self, connection: socket.socket) -> None:
        """*connection* is a stream, and belongs to it."""
        self._connection = connection
        self._incoming = connection.makefile("rb")

    def send(self, *fields: Field) -> None:
        """Send a frame.

        Raises:
            OSError: The other end is gone.
        """
        parts = [_U32.pack(len(fields))]
        for field in fields:
            parts += (_U32.pack(_NONE),) if field is None else (_U32.pack(len(field)), field)
        self._connection.sendall(b"".join(parts))

    def receive(self) -> list[Field]:
        """The next frame.

        Raises:
            EOFError: The other end is gone.
        """
        return [self._field() for _ in range(self._number())]

    def ask(self, *fields: Field) -> list[Field]:
        """Send a frame and return the answer."""
        self.send(*fields)
        return self.receive()

    def close(self) -> None:
        """Close the connection."""
        self._incoming.close()
        self._connection.close()

    def _field(self) -> Field:
        size = self._number()
        return None if size == _NONE else self._exactly(size)

    def _number(self) -> int:
        return int(_U32.unpack(self._exactly(_U32.size))[0])

    def _exactly(self, size: int) -> bytes:
        data = self._incoming.read(size)
        if len(data) < size:
            raise EOFError("the other process is gone")
        return data


def number(value: int) -> bytes:
    """A number as a field."""
    return b"%d" % value


def pack_sent(sent: Mapping[tuple[TopicInfo, int], Sequence[NewRecord]]) -> Iterator[Field]:
    """What was sent to each partition, as fields."""
    for (topic, partition), records in sent.items():
        yield topic.name.encode()
        yield number(partition)
        yield number(len(records))
        for record in records:
            yield record.key
            yield record.value
            yield number(record.timestamp)
            yield number(len(record.headers))
            for name, value in record.headers:
                yield name.encode()
                yield value


def unpack_sent(fields: Iterator[Field]) -> Sent:
    """What `pack_sent` has packed, by the names of topics."""
    sent: Sent = {}
    for name in fields:
        target = (text(name), int(text(next(fields))))
        sent[target] = [_record(fields) for _ in range(int(text(next(fields))))]
    return sent


def _record(fields: Iterator[Field]) -> NewRecord:
    key, value, timestamp, count = islice(fields, 4)
    headers = [(text(next(fields)), next(fields)) for _ in range(int(text(count)))]
    return NewRecord(key, value, int(text(timestamp)), headers)


def text(field: Field) -> str:
    """A field as text, which is never None."""
    assert field is not None
    return field.decode()
