"""The broker: one directory, served to Kafka's clients on one address of this machine.

    async with Broker(log, BrokerSettings(port=0)) as broker:
        print(broker.address)

It has an event loop's time and a few threads; everything else about it is bounded by its settings. What it lets the log
append is in the same files that this and other processes append to and read.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any

from framework.log.broker.connection import Connection
from framework.log.broker.context import Node
from framework.log.broker.group_handlers import Address, GroupHandlers
from framework.log.broker.group_settings import GroupSettings
from framework.log.broker.handlers import HANDLERS
from framework.log.broker.memory import Memory
from framework.log.broker.offsets import ForeignGroups, OffsetStore
from framework.log.broker.published import cluster_id, publish, withdraw
from framework.log.broker.readers import Readers
from framework.log.broker.sent_before import SentBefore
from framework.log.broker.settings import DEFAULT_HOST, BrokerSettings
from framework.log.broker.waiting import Bell, Relay
from framework.log.errors import Conflict, Error
from framework.log.locks import BROKER_LOCK
from framework.log.log import Log

WORKING_THREADS = CHECKING_THREADS = 2
BACKLOG = 512
SWEEPS = 10
"""How many times in its idle time a connection is looked at."""
MAX_SWEEP_S = 5.0
DANGLING_POLL_S = 1.0
logger = logging.getLogger("framework.broker")


class Broker:
    """A broker; it serves as long as it is entered."""

    node: Node

    def __init__(
        self,
        log: Log,
        settings: BrokerSettings | None = None,
        *,
        offsets: Callable[[Log], OffsetStore] | None = None,
        foreign: ForeignGroups | None = None,
        groups: GroupSettings | None = None,
    ) -> None:
        """Serve *log*, which stays open for longer than the broker, as *foreign* does.

        *offsets* opens where committed offsets are kept; without it there are no consumer groups. *foreign* are groups
        that are shown beside those of clients.
        """
        self._log, self.settings = log, settings or BrokerSettings()
        self._offsets, self._foreign, self._group_settings = offsets, foreign, groups or GroupSettings()
        self._exits = AsyncExitStack()
        self._connections: set[Connection] = set()
        self._numbers = self._refused = 0
        self._is_ending = False

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self.node.address

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    async def __aenter__(self) -> Broker:
        """Listen.

        Raises:
            Conflict: Another broker serves the directory, or the port is taken.
        """
        async with AsyncExitStack() as exits:
            holder = self._log.shared.try_own(BROKER_LOCK)
            if holder is not None:
                raise Conflict(
                    f"process {holder} is the broker of {self._log.path} already; clients of it see the same topics"
                )
            exits.callback(self._log.shared.disown, BROKER_LOCK)
            named = cluster_id(self._log)
            bell = Bell(self._log)
            exits.callback(bell.close)
            reading = ThreadPoolExecutor(self.settings.read_threads, "framework-broker-read")
            working = ThreadPoolExecutor(WORKING_THREADS, "framework-broker-work")
            checking = ThreadPoolExecutor(CHECKING_THREADS, "framework-broker-check")
            readers = Readers(self._log, self.settings.max_open_readers, reading)
            exits.callback(readers.close)
            for threads in (reading, working, checking):
                exits.callback(threads.shutdown)
            server, address = await self._listen()
            exits.callback(server.close)
            self.node = Node(
                self._log,
                self.settings,
                named,
                address,
                Relay(),
                bell,
                Memory(self.settings.queued_max_request_bytes, self._relieve),
                readers,
                SentBefore(),
                reading,
                working,
                checking,
                HANDLERS,
            )
            groups = await self._open_groups(exits)
            self._group = await exits.enter_async_context(asyncio.TaskGroup())
            works = [self._sweep(), self._retain(), self._sync_dangling(), *([groups.run()] if groups else [])]
            services = [self._group.create_task(work) for work in works]
            await server.start_serving()
            exits.push_async_callback(self._end, server, services, groups)
            exits.callback(self._say, withdraw, self._log)
            self._say(publish, self._log, address)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Finish what is in hand, answer it, and hang up."""
        # Not told what came out of the body, which the group would put into another exception.
        await self._exits.aclose()

    def _say(self, call: Callable[..., None], *arguments: object) -> None:
        """*call* writes down where it listens; those who know the address need not read it."""
        try:
            call(*arguments)
        except OSError as error:
            logger.warning("programs of this machine cannot find the broker of %s: %s", self._log.path, error)

    async def _listen(self) -> tuple[asyncio.Server, tuple[str, int]]:
        """The server, which takes nobody yet, and its address."""
        host, port = self.settings.host, self.settings.port
        try:
            server = await asyncio.get_running_loop().create_server(
                self._connection,
                DEFAULT_HOST if host == "localhost" else host,
                port,
                backlog=BACKLOG,
                start_serving=False,
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Conflict(
                    f"another program listens on {host}:{port}; choose another port, or 0 for any that is free"
                ) from error
            raise
        return server, server.sockets[0].getsockname()[:2]

    async def _open_groups(self, exits: AsyncExitStack) -> GroupHandlers | None:
        """The handlers of consumer groups, which are in the table of the node from then on."""
        if self._offsets is None:
            return None
        store = await asyncio.to_thread(self._offsets, self._log)
        exits.callback(store.close)
        groups = GroupHandlers(
            self._log,
            store,
            self._group_settings,
            address=lambda: Address(self.settings.broker_id, *self.node.address),
            foreign=self._foreign,
            random=self._log.random,
        )
        await groups.refresh()
        self.node.handlers = {**HANDLERS, **groups.table}
        return groups

    async def _end(
        self, server: asyncio.Server, services: list[asyncio.Task[None]], groups: GroupHandlers | None
    ) -> None:
        self._is_ending = True
        server.close()
        for service in services:
            service.cancel()
        if groups is not None:
            groups.close()  # Whoever waits for others to join is answered.
        # Those who wait for records get what there is.
        self.node.bell.end_waits()
        for connection in list(self._connections):
            connection.finish()
        try:
            async with asyncio.timeout(self.settings.shutdown_timeout_ms / 1000):
                await self._all_gone()
        except TimeoutError:
            logger.warning("%d clients did not take their last answers in time", len(self._connections))
            for connection in list(self._connections):
                connection.abort()
            await self._all_gone()

    async def _all_gone(self) -> None:
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._connections:
            await self._gone

    # For connections.

    def _connection(self) -> Connection:
        self._numbers += 1
        return Connection(self, self._numbers)

    def connected(self, connection: Connection) -> bool:
        """A client has come; whether it may stay."""
        if self._is_ending:
            return False
        if len(self._connections) >= self.settings.max_connections:
            self._refused += 1
            return False
        self._connections.add(connection)
        return True

    def disconnected(self, connection: Connection) -> None:
        """It has gone."""
        self._connections.discard(connection)
        if self._is_ending and not self._connections and not self._gone.done():
            self._gone.set_result(None)

    def _relieve(self) -> None:
        """Hang up on whoever has sent most of a request that is not whole."""
        memory = self.node.memory
        most = max(self._connections, key=lambda connection: connection.partial_bytes)
        most.hang_up(
            f"all clients together sent {memory.partial_bytes} bytes of requests that are not whole, "
            f"queued.max.request.bytes is {memory.limit_bytes}, and its {most.partial_bytes} are the most"
        )

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that ends with the server."""
        return self._group.create_task(work)

    # Upkeep.

    async def _sweep(self) -> None:
        """Hang up on those who do nothing."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(self.settings.connections_max_idle_ms / 1000 / SWEEPS, MAX_SWEEP_S))
            now_s = loop.time()
            for connection in list(self._connections):
                connection.check_idle(now_s)
            self.node.readers.prune()
            if self._refused:
                limit = self.settings.max_connections
                logger.warning("%d clients were turned away: max.connections is %d", self._refused, limit)
                self._refused = 0

    async def _retain(self) -> None:
        while True:
            await asyncio.sleep(self.settings.log_retention_check_interval_ms / 1000)
            await self._quietly(self._log.retain)

    async def _sync_dangling(self) -> None:
        """Sync what a killed process has written but not synced: nobody could read it until the next append."""
        slots, dangling = b"", dict[int, int]()
        while True:
            await asyncio.sleep(DANGLING_POLL_S)
            before, slots = slots, self._log.shared.slots()
            if slots != before or dangling:
                seen, dangling = dangling, {}
                await self._quietly(self._sync_those, seen, dangling)

    def _sync_those(self, seen: dict[int, int], dangling: dict[int, int]) -> None:
        """Sync the partitions that have stood still since they were *seen*; note those that are not synced."""
        for info in self._log.topics().values():
            for number in range(info.partitions):
                partition = self._log.partition(info, number)
                if not partition.is_synced:
                    dangling[partition.slot] = partition.log_end
                    if seen.get(partition.slot) == partition.log_end:
                        self._log.sync(partition)

    async def _quietly(self, call: Callable[..., None], *arguments: object) -> None:
        """*call* in a thread; what is wrong with the data does not end the broker."""
        try:
            await self.node.in_thread(call, *arguments)
        except (Error, OSError) as error:
            logger.warning("upkeep: %s", error)
