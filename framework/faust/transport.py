"""What Faust finds by the scheme of a broker's URL: consumers and producers of one directory."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Any

from faust.exceptions import ImproperlyConfigured
from faust.transport.base import Transport as FaustTransport
from faust.types.enums import ProcessingGuarantee

from framework.faust.consumer import Consumer
from framework.faust.place import parse_urls
from framework.faust.producer import Producer
from framework.log import Log
from framework.log.errors import Error

EXACTLY_ONCE = (
    "processing_guarantee='exactly_once' needs transactions, which the log does not have yet: 'at_least_once' loses "
    "nothing and may handle a record again after a crash; agents of framework itself handle each exactly once"
)
THREADED = "producer_threaded=True is not needed: the log has a thread that writes and syncs. Leave it out"


class Transport(FaustTransport):
    """The directory of one app. It is opened once, for as long as a consumer or a producer has it."""

    Consumer = Consumer
    Producer = Producer
    default_port = 0
    driver_version = f"framework-streams={version('framework-streams')}"

    def __init__(self, url: list[Any], app: Any, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Opens nothing: an app makes it when its module is imported.

        Raises:
            ImproperlyConfigured: *url* is not that of a directory.
        """
        super().__init__(url, app, loop)
        try:
            self.place = parse_urls([_written(each) for each in url])
        except Error as error:
            raise ImproperlyConfigured(str(error)) from None
        self._log: Log | None = None
        self._users = 0

    def create_consumer(self, callback: Any, **kwargs: Any) -> Any:
        """As Faust has it.

        Raises:
            ImproperlyConfigured: It is to be exact.
        """
        if self.app.conf.processing_guarantee == ProcessingGuarantee.EXACTLY_ONCE:
            raise ImproperlyConfigured(EXACTLY_ONCE)
        return super().create_consumer(callback, **kwargs)

    def create_producer(self, **kwargs: Any) -> Any:
        """As Faust has it.

        Raises:
            ImproperlyConfigured: It is to have a thread.
        """
        if self.app.conf.producer_threaded:
            raise ImproperlyConfigured(THREADED)
        return super().create_producer(**kwargs)

    async def open_log(self) -> Log:
        """The log; each call is undone by one of `close_log`."""
        self._users += 1
        if self._log is None or self._log.shared.forked:
            # Not in a thread: two who ask for it at once would open it twice.
            self._log = Log(self.place.path, create=True)
        return self._log

    async def close_log(self) -> None:
        """Close it, when nobody has it any more."""
        self._users -= 1
        if not self._users and self._log is not None:
            log, self._log = self._log, None
            await asyncio.to_thread(log.close)


def _written(url: Any) -> str:
    """*url* as people write it; as a string it has no slashes where it has no host."""
    query = f"?{url.raw_query_string}" if url.raw_query_string else ""
    return f"{url.scheme}://{url.raw_authority}{url.raw_path}{query}"
