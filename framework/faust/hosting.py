"""Finding the broker of a directory, and being it where there is none.

who has the lock of brokers?
  nobody        try to be it; of several that try one succeeds, and the others find it
  a process     connect to the address that it has published, once it has
connected: is the cluster id that of the directory? Or another program has the port by now.
"""

from __future__ import annotations

import asyncio
import logging

from framework.broker import serving
from framework.faust.link import Link
from framework.log import Log
from framework.log.broker.group_settings import GroupSettings
from framework.log.broker.published import cluster_id, holder_of, published
from framework.log.broker.settings import BrokerSettings
from framework.log.broker.table_topics import DescribeClusterRequest, DescribeClusterResponse
from framework.log.errors import Conflict
from framework.state.errors import GroupsBusy

FIND_TIMEOUT_S = 30.0
"""How long a broker is looked for that has the lock and cannot be reached."""
ANSWER_TIMEOUT_S = 5.0
POLL_S, MAX_POLL_S = 0.01, 0.25
GROUPS = GroupSettings(
    # When a broker has died all of its members come at once: one rebalance for all of them, and no partition is read by
    # two who do not know of each other yet. Nobody waits for more than that, least of all a worker that is alone.
    group_initial_rebalance_delay_ms=400,
    group_min_session_timeout_ms=1_000,
)
"""The groups of a broker that runs in a worker."""
logger = logging.getLogger(__name__)


class Hosting:
    """Connects to the broker of *log*; use it in one event loop, in which a broker may run."""

    def __init__(self, log: Log, client_id: str, group: asyncio.TaskGroup, listen: tuple[str, int]) -> None:
        """A broker that it runs lives in *group*, and listens at *listen*."""
        self._log, self._client_id, self._group = log, client_id, group
        self._settings = BrokerSettings(host=listen[0], port=listen[1])
        self._served: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()

    async def find(self) -> Link:
        """A connection to the broker, which this process becomes if there is none.

        Raises:
            Conflict: There is one, and it could not be reached for long.
        """
        loop = asyncio.get_running_loop()
        deadline_s, pause_s = loop.time() + FIND_TIMEOUT_S, POLL_S
        while True:
            link = await self._try()
            if link is not None:
                return link
            if loop.time() > deadline_s:
                raise Conflict(self._unreachable())
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_POLL_S)

    @property
    def is_broker(self) -> bool:
        """Whether this process is the broker."""
        return self._served is not None and not self._served.done()

    async def stop(self) -> None:
        """Be the broker no longer, if it is."""
        self._stopped.set()
        if self._served is not None:
            await asyncio.wait([self._served])

    async def _try(self) -> Link | None:
        """A connection, if there is a broker that can be reached, or could be made."""
        if holder_of(self._log) is None and not self._stopped.is_set():
            await self._serve()
        place = published(self._log)
        if place is None:
            return None
        try:
            link = await Link.connect(place.host, place.port, self._client_id)
            described = await link.ask(DescribeClusterRequest(), DescribeClusterResponse, ANSWER_TIMEOUT_S)
        except OSError as error:
            logger.debug("%s:%d: %s", place.host, place.port, error)
            return None
        if described.cluster_id != cluster_id(self._log):
            link.close()
            return None
        return link

    async def _serve(self) -> None:
        """Try to be the broker."""
        began: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._served = self._group.create_task(self._serving(began))
        await began

    async def _serving(self, began: asyncio.Future[None]) -> None:
        try:
            async with serving(self._log, self._settings, GROUPS) as broker:
                host, port = broker.address
                logger.info("this process is the broker of %s, at %s:%d", self._log.path, host, port)
                began.set_result(None)
                await self._stopped.wait()
        except (Conflict, GroupsBusy) as error:
            logger.debug("not the broker of %s: %s", self._log.path, error)
        finally:
            if not began.done():
                began.set_result(None)

    def _unreachable(self) -> str:
        holder, place = holder_of(self._log), published(self._log)
        where = "has not said where it listens" if place is None else f"does not answer at {place.host}:{place.port}"
        return (
            f"process {holder} is the broker of {self._log.path} and {where}, for {FIND_TIMEOUT_S:g} s: "
            "it may be of an older version, or hang; end it, and a worker will be the broker"
        )
