"""Cutting a stream of bytes into frames, without a socket.

frame = length:i32 content
"""

from __future__ import annotations

from framework.log.errors import MalformedFrame

MAX_FRAME_BYTES = 100 << 20
"""How long a frame may be: `socket.request.max.bytes` of Kafka."""
LENGTH_BYTES = 4


class Frames:
    """The frames of one connection: give it what arrives, and it gives the frames that are whole.

    It holds what arrived of one frame, never what a length only promises.
    """

    __slots__ = ("_max_frame_bytes", "_missing", "_parts", "_received")

    def __init__(self, *, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        """Refuse frames that are longer than *max_frame_bytes*."""
        self._max_frame_bytes = max_frame_bytes
        self._parts = list[bytes]()
        self._received = 0
        self._missing = LENGTH_BYTES

    @property
    def received_bytes(self) -> int:
        """How much it holds of a frame that is not whole yet."""
        return self._received

    def feed(self, data: bytes) -> list[bytes]:
        """The contents of the frames that are whole with *data*, which came behind all that was given before.

        Raises:
            MalformedFrame: A frame has no length that it could have; nothing of this connection can be read any more.
        """
        self._received += len(data)
        if self._received < self._missing:
            if data:
                self._parts.append(data)
            return []
        if self._parts:
            data = b"".join([*self._parts, data])
            self._parts = []
        frames, at, end = list[bytes](), 0, len(data)
        while end - at >= LENGTH_BYTES:
            length = int.from_bytes(data[at : at + LENGTH_BYTES], "big", signed=True)
            if not 0 <= length <= self._max_frame_bytes:
                raise MalformedFrame(f"length is {length}, 0 to {self._max_frame_bytes} are allowed", 0, "length")
            if end - at - LENGTH_BYTES < length:
                self._missing = LENGTH_BYTES + length
                break
            frames.append(data[at + LENGTH_BYTES : at + LENGTH_BYTES + length])
            at += LENGTH_BYTES + length
        else:
            self._missing = LENGTH_BYTES
        self._received = end - at
        if at < end:
            self._parts = [data[at:]]
        return frames
