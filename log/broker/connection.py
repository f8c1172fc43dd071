"""One client: frames come in, requests begin in that order, and answers go out in it, whatever is finished first.

    socket --> Frames --> pending --> handlers --> answers, oldest first --> socket
             partial      in hand ...................... unsent

A client that asks for more than it may have in hand, or does not take what it is sent, is not read from until that
is better: what it sends then waits on its own side.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from framework.log.broker.context import Client, Context, HangUp, Node
from framework.log.broker.frames import Frames
from framework.log.broker.requests import Request, decode_request, encode_response
from framework.log.broker.schema import Buffer, Struct
from framework.log.errors import MalformedFrame, UnsupportedRequest

LOOK_AHEAD_BYTES = 64 << 10
"""So much is read from a client behind a Fetch that waits: only who reads is told that the client has gone."""
REQUESTS_A_TURN = 32
"""How many small requests of one connection are begun before others have their turn."""
logger = logging.getLogger("framework.broker")


class Host(Protocol):
    """What a connection needs of its server."""

    node: Node

    def connected(self, connection: Connection) -> bool:
        """A client has come; whether it may stay."""

    def disconnected(self, connection: Connection) -> None:
        """It has gone."""

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that ends with the server."""


@dataclass(slots=True, eq=False)
class _Answer:
    """What a request of so many bytes will be answered with."""

    request_bytes: int
    request: Request | None = None
    buffers: list[Buffer] = field(default_factory=list)
    is_done: bool = False
    bytes: int = 0


class Connection(asyncio.Protocol):
    """The connection of one client."""

    _transport: asyncio.Transport

    def __init__(self, host: Host, number: int) -> None:
        """*number* is like no other connection's of this broker."""
        self._host, self._node = host, host.node
        self._settings, self._memory = host.node.settings, host.node.memory
        self._loop = asyncio.get_running_loop()
        self.client = Client(number, "", "")
        self._context = Context(host.node, self.client)
        self._frames = Frames(max_frame_bytes=self._settings.socket_request_max_bytes)
        self._pending: deque[bytes | bytearray] = deque()
        self._answers: deque[_Answer] = deque()
        self._held: asyncio.Task[None] | None = None
        """A request behind which no other one may begin yet."""
        self._in_hand_bytes = self._unsent_bytes = self._ready_bytes = self._partial_bytes = 0
        self._is_reading, self._is_blocked = True, False
        self._waits = self._writes = False
        """Whether the request that is held waits for records, or has some, which are kept though their client goes."""
        self._is_ending = self._is_lost = self._is_scheduled = False
        self._active_s = self._loop.time()

    @property
    def partial_bytes(self) -> int:
        """How much it has sent of a request that is not whole yet."""
        return self._partial_bytes

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody has connected."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        host, port, *_ = transport.get_extra_info("peername") or ("", 0)
        self.client.host, self.client.peer = host, f"{host}:{port}"
        if not self._host.connected(self):
            self._is_ending = True
            transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        """It is over, whoever ended it."""
        self._is_lost = True
        if self._held is not None and not self._writes:
            self._held.cancel()
        self._memory.forget(self._go_on)
        self._memory.unsent_bytes -= self._unsent_bytes + self._ready_bytes
        self._unsent_bytes = self._ready_bytes = 0
        self._drop_unbegun()
        for answer in self._answers:
            if answer.is_done:  # The others are being appended, and are in memory until then.
                self._memory.give_back(answer.request_bytes)
        self._answers.clear()
        self._node.readers.drop(self.client.number)
        self._host.disconnected(self)

    def data_received(self, data: bytes) -> None:
        """Begin what is whole with *data*."""
        self._active_s = self._loop.time()
        if self._is_ending:
            return
        try:
            frames = self._frames.feed(data)
        except MalformedFrame as fault:
            self.hang_up(str(fault))
            return
        size, more = sum(map(len, frames)), self._frames.pending_bytes - self._partial_bytes
        self._in_hand_bytes += size
        self._partial_bytes += more
        self._pending += frames
        self._memory.take(size, more)
        self._go_on()

    def pause_writing(self) -> None:
        """It does not take what it is sent."""
        self._is_blocked = True
        self._count_unsent()

    def resume_writing(self) -> None:
        """It has taken nearly all."""
        self._is_blocked, self._active_s = False, self._loop.time()
        self._count_unsent()
        self._go_on()

    # What the server calls.

    def finish(self) -> None:
        """Begin nothing more, and end when what is in hand is answered."""
        if self._is_ending:
            return
        self._is_ending = True
        self._drop_unbegun()
        self._read(wanted=False)
        if not self._answers:
            self._transport.close()

    def abort(self) -> None:
        """End now."""
        self._is_ending = True
        self._transport.abort()

    def hang_up(self, reason: str, level: int = logging.WARNING) -> None:
        """End at once, and say why."""
        if self._is_lost:
            return
        logger.log(level, "hung up on %s: %s", self.client, reason)
        self._is_ending = True
        self._drop_unbegun()
        if self._held is not None:
            self._held.cancel()
        self._transport.close()

    def check_idle(self, now_s: float) -> None:
        """Hang up if it has neither asked nor taken anything for too long."""
        unsent = self._transport.get_write_buffer_size()
        if unsent < self._unsent_bytes or (self._answers and not self._is_blocked):
            self._active_s = now_s
        self._count_unsent()
        idle_ms = (now_s - self._active_s) * 1000
        if idle_ms >= self._settings.connections_max_idle_ms:
            if not self._is_ending:
                what = f"{unsent} bytes wait for it" if unsent else f"{self._partial_bytes} bytes of a request came"
                self.hang_up(f"it did nothing for {idle_ms:.0f} ms; {what}", logging.INFO)
            self._transport.abort()

    # Requests.

    def _go_on(self) -> None:
        """Begin what may begin now."""
        self._is_scheduled = False
        begun = 0
        while self._pending and self._may_begin():
            if begun == REQUESTS_A_TURN:
                if not self._is_scheduled:
                    self._is_scheduled = True
                    self._loop.call_soon(self._go_on)
                break
            begun += 1
            self._begin(self._pending.popleft())
        if self._is_ending:
            return
        full = self._memory.is_full
        if full:
            self._memory.wait_for_room(self._go_on)
        over = self._in_hand_bytes > self._settings.max_in_flight_bytes
        self._read(wanted=not (self._is_behind() or self._is_blocked or full or over))

    def _is_behind(self) -> bool:
        """Whether it has sent enough for now."""
        if self._held is None or not self._waits or len(self._pending) >= self._settings.max_in_flight_requests:
            return bool(self._pending)
        return sum(map(len, self._pending)) > LOOK_AHEAD_BYTES

    def _may_begin(self) -> bool:
        return not (
            self._held is not None
            or self._is_blocked
            or self._is_ending
            or len(self._answers) >= self._settings.max_in_flight_requests
            or self._ready_bytes > self._settings.max_in_flight_bytes
        )

    def _begin(self, frame: bytes | bytearray) -> None:
        answer = _Answer(len(frame))
        self._answers.append(answer)
        try:
            request = answer.request = decode_request(frame)
            self.client.client_id = request.client_id
            handler = self._context.node.handlers.get(request.api.name)
            if handler is None:
                raise UnsupportedRequest(f"{request.api.name} is not served")
            result = handler(self._context, request.version, request.body)
        except UnsupportedRequest as error:
            if error.answer is None:
                self._forget(answer)
                self._fail(error)
            else:
                answer.buffers = error.answer
                self._settled(answer)
        except Exception as error:  # noqa: BLE001  # one client's request must not end the others' broker
            self._forget(answer)
            self._fail(error)
        else:
            self._settle(answer, result)

    def _settle(self, answer: _Answer, result: Any) -> None:
        """Send what a handler returned, or wait for it."""
        if result is None or isinstance(result, Struct):
            self._finish(answer, result)
        elif isinstance(result, asyncio.Future):
            result.add_done_callback(partial(self._came, answer))
        else:
            name = answer.request and answer.request.api.name
            self._waits, self._writes = name == "Fetch", name == "Produce"
            self._held = self._host.start(self._hold(answer, result))
            self._held.add_done_callback(partial(self._let_go, answer, result))

    async def _hold(self, answer: _Answer, work: Coroutine[Any, Any, Any]) -> None:
        """Let no other request begin before *work* has ended."""
        try:
            result = await work
        except Exception as error:  # noqa: BLE001  # one client's request must not end the others' broker
            self._held = None
            self._forget(answer)
            self._fail(error)
        else:
            self._held = None
            self._settle(answer, result)
            self._go_on()

    def _let_go(self, answer: _Answer, work: Coroutine[Any, Any, Any], held: asyncio.Task[None]) -> None:
        """Forget a request that was called off; not in `_hold`, which has not begun if that was in the same moment."""
        if held.cancelled():
            work.close()
            self._forget(answer)

    def _came(self, answer: _Answer, future: asyncio.Future[Any]) -> None:
        error = future.exception()
        if error is not None:
            self._forget(answer)
            self._fail(error)
        else:
            self._finish(answer, future.result())
            self._go_on()

    def _finish(self, answer: _Answer, response: Struct | None) -> None:
        """*answer* is ready, and sent as soon as those before it are."""
        if self._is_lost:
            self._forget(answer)
            return
        if response is not None:
            assert answer.request is not None
            try:
                answer.buffers = encode_response(answer.request, response)
            except Exception as error:  # noqa: BLE001  # a response that cannot be written is a bug, of one request
                self._forget(answer)
                self._fail(error)
                return
        self._settled(answer)

    def _settled(self, answer: _Answer) -> None:
        answer.is_done, answer.request = True, None
        if answer is not self._answers[0]:
            answer.bytes = sum(map(len, answer.buffers))
            self._ready_bytes += answer.bytes
            self._memory.unsent_bytes += answer.bytes
            return
        buffers: list[Buffer] = []
        while self._answers and self._answers[0].is_done:
            ready = self._answers.popleft()
            buffers += ready.buffers
            self._ready_bytes -= ready.bytes
            self._memory.unsent_bytes -= ready.bytes
            self._in_hand_bytes -= ready.request_bytes
            self._memory.give_back(ready.request_bytes)
        if len(buffers) == 1:
            self._transport.write(buffers[0])
        elif buffers:
            self._transport.writelines(buffers)
        self._active_s = self._loop.time()
        self._count_unsent()
        if self._is_ending and not self._answers:
            self._transport.close()

    def _forget(self, answer: _Answer) -> None:
        """A request has ended for which there is no answer, as its connection ends or has."""
        if answer in self._answers:
            self._answers.remove(answer)
            self._in_hand_bytes -= answer.request_bytes
        self._memory.give_back(answer.request_bytes)

    def _fail(self, error: BaseException) -> None:
        """No answer can say what went wrong."""
        if isinstance(error, MalformedFrame | UnsupportedRequest | HangUp):
            self.hang_up(str(error))
        else:
            logger.error("a request of %s could not be handled", self.client, exc_info=error)
            self.hang_up(f"{type(error).__name__}: {error}")

    def _drop_unbegun(self) -> None:
        """Forget what no request has begun of."""
        size, partial = sum(map(len, self._pending)), self._partial_bytes
        self._pending.clear()
        self._frames = Frames()
        self._in_hand_bytes -= size
        self._partial_bytes = 0
        self._memory.give_back(size, partial)

    def _count_unsent(self) -> None:
        unsent = self._transport.get_write_buffer_size()
        self._memory.unsent_bytes += unsent - self._unsent_bytes
        self._unsent_bytes = unsent

    def _read(self, *, wanted: bool) -> None:
        if wanted != self._is_reading and not self._transport.is_closing():
            self._is_reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()
