"""One connection to a broker of the Kafka protocol: requests go out in order, and are answered in it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TypeVar, cast

from framework.log.broker import APIS, Api, Frames, Struct, decode_response, encode_request
from framework.log.broker.table_groups import (
    HeartbeatRequest,
    JoinGroupRequest,
    LeaveGroupRequest,
    OffsetCommitRequest,
    OffsetFetchRequest,
    SyncGroupRequest,
)
from framework.log.broker.table_topics import DescribeClusterRequest
from framework.log.errors import MalformedFrame

R = TypeVar("R", bound=Struct)
VERSIONS: dict[type[Struct], int] = {
    DescribeClusterRequest: 0,
    JoinGroupRequest: 5,
    SyncGroupRequest: 3,
    HeartbeatRequest: 3,
    LeaveGroupRequest: 3,
    OffsetCommitRequest: 7,
    OffsetFetchRequest: 7,
}
"""The version in which each request is sent. Old ones, which every broker of ours will go on serving."""
CONNECT_TIMEOUT_S = 5.0
_APIS = {api.request: api for api in APIS.values()}


class Link(asyncio.Protocol):
    """A connection; use `connect`. What goes wrong with it is an `OSError` to all who wait for an answer."""

    def __init__(self, client_id: str) -> None:
        """*client_id* is what the broker shows of it."""
        self._client_id = client_id
        self._frames = Frames()
        self._asked: deque[tuple[Api, int, asyncio.Future[Struct]]] = deque()
        self._number = 0
        self._over: OSError | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def connect(cls, host: str, port: int, client_id: str) -> Link:
        """Connect to a broker.

        Raises:
            OSError: Nobody listens there.
        """
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, link = await asyncio.get_running_loop().create_connection(lambda: cls(client_id), host, port)
        return link

    @property
    def is_over(self) -> bool:
        """Whether it is lost or closed."""
        return self._over is not None

    async def ask(self, request: Struct, response: type[R], timeout_s: float) -> R:
        """What answers *request*, a *response*; others may ask meanwhile.

        Raises:
            OSError: The connection was lost, or there was no answer within *timeout_s*, which ends it.
        """
        if self._over is not None:
            raise ConnectionError(str(self._over))
        assert self._transport is not None, "it is connected"
        api, version = _APIS[type(request)], VERSIONS[type(request)]
        assert api.response is response, f"{api.name} is answered with {api.response.__name__}"
        self._number += 1
        answer: asyncio.Future[Struct] = asyncio.get_running_loop().create_future()
        self._asked.append((api, version, answer))
        self._transport.writelines(
            encode_request(api, version, request, correlation_id=self._number, client_id=self._client_id)
        )
        try:
            async with asyncio.timeout(timeout_s):
                return cast(R, await answer)
        except TimeoutError:
            # The answer would be taken for the next one's.
            self._end(ConnectionError(f"the broker has not answered {api.name} for {timeout_s:g} s"))
            assert self._over is not None, "it has just ended"
            raise self._over from None

    def close(self) -> None:
        """Hang up; who still waits is told."""
        self._end(ConnectionError("the connection was closed"))

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Give each answer to who asked first."""
        try:
            for frame in self._frames.feed(data):
                if not self._asked:
                    raise MalformedFrame("nobody has asked", 0, "answer")
                api, version, answer = self._asked.popleft()
                _, response = decode_response(frame, api, version)
                if not answer.done():  # Whoever asked may have been cancelled.
                    answer.set_result(response)
        except MalformedFrame as error:
            self._end(ConnectionError(f"the broker's answer cannot be read: {error}"))

    def connection_lost(self, error: Exception | None) -> None:
        """The other side has hung up, or this one has."""
        self._end(error if isinstance(error, OSError) else ConnectionError("the broker has hung up"))

    def _end(self, error: OSError) -> None:
        if self._over is not None:
            return
        self._over = error
        if self._transport is not None:
            self._transport.close()
        for _, _, answer in self._asked:
            if not answer.done():
                answer.set_exception(ConnectionError(str(error)))
        self._asked.clear()
