"""Cutting a stream of bytes into frames, without a socket.

    frame = length:i32 content

`content` is what `requests` has the grammar of; `length` is that of the content.
"""

from __future__ import annotations

import struct

from framework.log.errors import MalformedFrame

MAX_FRAME_BYTES = 100 << 20
"""How long a frame may be: `socket.request.max.bytes` of Kafka."""
LENGTH_BYTES = 4


class Frames:
    """The frames of one connection: give it what arrives, and it gives the frames that are whole.

    It holds what has arrived of one frame, and an eighth of that at most for what comes next: never what a length
    only promises, and no object for each piece of a frame that arrives byte by byte.
    """

    __slots__ = ("_max_frame_bytes", "_pending", "_wanted")

    def __init__(self, *, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        """Refuse frames that are longer than *max_frame_bytes*."""
        self._max_frame_bytes = max_frame_bytes
        self._pending = bytearray()
        self._wanted = LENGTH_BYTES

    @property
    def pending_bytes(self) -> int:
        """How much it holds of a frame that is not whole yet."""
        return len(self._pending)

    def feed(self, data: bytes) -> list[bytes | bytearray]:
        """The contents of the frames that are whole with *data*, which came behind all that was given before.

        Nobody else has these buffers, and nobody changes them.

        Raises:
            MalformedFrame: A frame has no length that it could have; nothing of this connection can be read any more.
        """
        frames, at, end = list[bytes | bytearray](), 0, len(data)
        while at < end:
            if not self._pending and end - at >= LENGTH_BYTES:
                begin = at + LENGTH_BYTES
                stop = begin + self._length(data, at)
                if stop <= end:
                    frames.append(data[begin:stop])
                    at = stop
                    continue
            piece = data[at : at + self._wanted - len(self._pending)]
            self._pending += piece
            at += len(piece)
            if len(self._pending) == self._wanted == LENGTH_BYTES:
                self._wanted += self._length(self._pending, 0)
            if len(self._pending) == self._wanted:
                del self._pending[:LENGTH_BYTES]
                frames.append(self._pending)
                self._pending, self._wanted = bytearray(), LENGTH_BYTES
        return frames

    def _length(self, data: bytes | bytearray, at: int) -> int:
        (length,) = _LENGTH.unpack_from(data, at)
        if not 0 <= length <= self._max_frame_bytes:
            raise MalformedFrame(f"it is {length}, 0 to {self._max_frame_bytes} are allowed", 0, "length")
        return int(length)


_LENGTH = struct.Struct(">i")
