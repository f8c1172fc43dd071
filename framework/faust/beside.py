"""The group of a consumer, in a thread beside the app's event loop.

User code may hold up the app's loop for as long as it likes: heartbeats go out all the same, and so do the answers of
the broker, if this process is it. What the consumer has to do for its group is done in the app's loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from framework.faust.hosting import Hosting
from framework.faust.membership import GroupOptions, Membership, Part, Place, Standing
from framework.log import Log
from framework.log.errors import LogClosed

logger = logging.getLogger(__name__)
T = TypeVar("T")


class GroupThread:
    """A member of a group, used from the event loop of an app."""

    def __init__(
        self,
        log: Log,
        part: Part,
        options: GroupOptions,
        *,
        listen: tuple[str, int],
        failed: Callable[[BaseException], Coroutine[Any, Any, None]],
    ) -> None:
        """*part* and *failed* are called in the app's loop, in which this is made; see `Membership`.

        *listen* is where a broker listens that this process has to be. *failed* hears what ended the membership.
        """
        self._log, self._options, self._listen, self._failed = log, options, listen, failed
        self._app_loop = asyncio.get_running_loop()
        self._part = _InLoop(part, self._app_loop)
        self._began: asyncio.Future[None] = self._app_loop.create_future()
        self._loop: asyncio.AbstractEventLoop
        self._membership: Membership
        self._stopped: asyncio.Event
        self._thread = threading.Thread(target=self._run, name=f"framework-group-{options.group_id}", daemon=True)

    async def start(self) -> None:
        """Begin, without joining yet."""
        self._thread.start()
        await self._began

    def join(self) -> None:
        """Join the group, or join it anew because there is something else to read."""
        self._loop.call_soon_threadsafe(self._membership.rejoin)

    async def commit(self, offsets: Mapping[Place, int], standing: Standing) -> bool:
        """As `Membership.commit`."""
        return await self._there(self._membership.commit(offsets, standing))

    async def committed(self, places: Iterable[Place]) -> dict[Place, int]:
        """As `Membership.committed`."""
        return await self._there(self._membership.committed(list(places)))

    async def stop(self) -> None:
        """Leave the group, and end the broker if there is one here."""
        with suppress(RuntimeError):  # It has ended by itself, and its loop is closed.
            self._loop.call_soon_threadsafe(self._stopped.set)
        await asyncio.to_thread(self._thread.join)

    async def _there(self, call: Coroutine[Any, Any, T]) -> T:
        try:
            called = asyncio.run_coroutine_threadsafe(call, self._loop)
        except RuntimeError:
            call.close()
            raise LogClosed(f"the membership in group {self._options.group_id!r} has ended") from None
        return await asyncio.wrap_future(called)

    # In the thread.

    def _run(self) -> None:
        try:
            # Not the loop that the app may have chosen for itself: the broker is made for this one.
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(self._main())
        except BaseExceptionGroup as failures:
            cause: BaseException = failures
            while isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[0]
            logger.error("the membership in group %r has ended", self._options.group_id, exc_info=cause)
            asyncio.run_coroutine_threadsafe(self._failed(cause), self._app_loop)

    async def _main(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            hosting = Hosting(self._log, self._options.client_id, group, self._listen)
            self._membership = Membership(hosting.find, self._part, self._options)
            self._app_loop.call_soon_threadsafe(self._began.set_result, None)
            member = group.create_task(self._membership.run())
            await self._stopped.wait()
            member.cancel()
            await asyncio.wait([member])
            if hosting.is_broker:
                await self._membership.hand_over()
            else:
                await self._membership.leave()
            await hosting.stop()


class _InLoop:
    """A part whose calls are made in another event loop."""

    def __init__(self, part: Part, loop: asyncio.AbstractEventLoop) -> None:
        self._part, self._loop = part, loop

    async def subscription(self) -> bytes:
        return await self._there(self._part.subscription())

    async def share_out(self, members: Mapping[str, bytes]) -> Mapping[str, bytes]:
        return await self._there(self._part.share_out(members))

    async def revoke(self) -> None:
        await self._there(self._part.revoke())

    async def take(self, share: bytes, standing: Standing) -> None:
        await self._there(self._part.take(share, standing))

    async def _there(self, call: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, self._loop))
