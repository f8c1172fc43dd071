"""A connection to a broker that may be killed at any time: whoever asks waits for the answer, or for the end of it."""

from __future__ import annotations

import select
import socket
import struct
from contextlib import suppress
from itertools import count
from typing import Any

from framework.log.broker import Struct, decode_response, encode_request
from framework.log.broker.table_groups import OffsetFetchGroup, OffsetFetchRequest, OffsetFetchTopic
from framework.log.broker.table_records import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from tests.log.broker.client import BY_NAME

ANSWER_S, AWAY_S, LATEST = 30.0, 0.05, -1
FETCH_VERSION, PRODUCE_VERSION, LIST_VERSION, COMMITTED_VERSION = 12, 9, 8, 8


class Wire:
    """One connection at a time.

    Raises:
        OSError: All its methods do, when the broker is gone.
    """

    def __init__(self, address: str) -> None:
        """Not connected yet."""
        host, _, port = address.rpartition(":")
        self._address, self._numbers = (host, int(port)), count(1)
        self._socket: socket.socket | None = None

    def connect(self) -> None:
        """A connection, if there is none; where nobody listens it is an error some time later."""
        if self._socket is None:
            try:
                self._socket = socket.create_connection(self._address, ANSWER_S)
            except OSError:
                select.select([], [], [], AWAY_S)
                raise
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._file = self._socket.makefile("rb")

    def drop(self) -> None:
        """End the connection."""
        if self._socket is not None:
            self._socket.close()
            self._file.close()
            self._socket = None

    def send(self, name: str, version: int, body: Struct) -> None:
        """Send a request; answers come in the order of the requests."""
        self.connect()
        assert self._socket is not None
        api = BY_NAME[name]
        frame = encode_request(api, version, body, correlation_id=next(self._numbers), client_id="history")
        self._socket.sendall(b"".join(frame))

    def receive(self, name: str, version: int) -> Any:
        """The next answer, which is one of that API."""
        (length,) = struct.unpack(">i", self._exactly(4))
        return decode_response(self._exactly(length), BY_NAME[name], version)[1]

    def ask(self, name: str, version: int, body: Struct) -> Any:
        """The answer to a request, when no other is waited for."""
        try:
            self.send(name, version, body)
            return self.receive(name, version)
        except OSError:
            self.drop()
            raise

    def end(self, topic: str, partition: int) -> int:
        """The high watermark."""
        part = ListOffsetsPartition(index=partition, timestamp=LATEST)
        body = ListOffsetsRequest(topics=[ListOffsetsTopic(name=topic, partitions=[part])])
        part = self.ask("ListOffsets", LIST_VERSION, body).topics[0].partitions[0]
        if part.error_code:
            raise ConnectionError(f"the end of {topic} cannot be had: {part.error_code}")
        offset = part.offset
        assert isinstance(offset, int)
        return offset

    def committed(self, group: str, topic: str, partition: int) -> int:
        """What *group* has committed, -1 for nothing."""
        asked = OffsetFetchGroup(group_id=group, topics=[OffsetFetchTopic(name=topic, partitions=[partition])])
        [found] = self.ask("OffsetFetch", COMMITTED_VERSION, OffsetFetchRequest(groups=[asked])).groups
        part = found.topics[0].partitions[0]
        if found.error_code or part.error_code:
            raise ConnectionError(f"the offsets of {group} cannot be had: {found.error_code}, {part.error_code}")
        offset = part.committed_offset
        assert isinstance(offset, int)
        return offset

    def _exactly(self, size: int) -> bytes:
        data = b""
        with suppress(ValueError):  # It was dropped by who asked last.
            data = self._file.read(size)
        if len(data) != size:
            raise ConnectionError(f"{len(data)} of {size} bytes came")
        return data
