"""The app: the registry of topics, tables, agents and jobs, and, once open, the data directory they use."""

from __future__ import annotations

import atexit
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from framework.committed import CommittedTable
from framework.dead_letter import MAX_HEADERS_BYTES
from framework.declare import Declarations
from framework.log import Clock, Log, SystemClock, TopicInfo
from framework.log.errors import InvalidSetting, TopicExists, UnknownTopic
from framework.log.sending import Producer
from framework.log.settings import RANGES
from framework.replay import DEAD_LETTERS
from framework.retry import Retry
from framework.state.shards import Shards
from framework.state.view import StateView
from framework.table import Table
from framework.topic import Durability, Topic

if TYPE_CHECKING:
    from framework.testing import Harness

DATA_VARIABLE = "FRAMEWORK_DATA"


class App(Declarations):
    """What a program declares. Making one touches no disk, loop or thread.

    `async with app:` opens it for sending and reading in a program of your own, and so does the first `send`;
    agents and jobs run in `framework worker`.
    """

    def __init__(
        self,
        name: str,
        *,
        data: str | os.PathLike[str] | None = None,
        lifespan: Callable[[App], AbstractAsyncContextManager[Any]] | None = None,
        partitions: int = 1,
        durability: Durability | None = None,
        linger: timedelta | None = None,
        batch_bytes: int = 256 << 10,
        on_error: Retry | None = None,
        clock: Clock | None = None,
        snapshots: int = 24,
    ) -> None:
        """*data* is the data directory (FRAMEWORK_DATA and the command line go before it; default `./data`).

        *lifespan* wraps the time the app is open; what it needs to share it puts into `state`. *partitions* is how
        many a topic has that does not say, *durability* when a send to it is acknowledged. What is sent outside agents
        waits *linger* for company, or until a batch has *batch_bytes*; without, no longer than it must. *on_error* is
        what agents do about a record that fails, if they do not say. *snapshots* is how many hourly checkpoints of the
        state a worker keeps, for `framework agents rewind`; 0 for none.

        Raises:
            InvalidName, InvalidSetting: *name*, *partitions* or *snapshots* cannot be.
        """
        super().__init__(name, partitions=partitions, durability=durability, on_error=on_error)
        if snapshots < 0:
            raise InvalidSetting(f"snapshots is {snapshots}, it must be 0 for none, or how many are kept")
        self.snapshots = snapshots
        self.state: Any = SimpleNamespace()
        self.clock = clock or SystemClock()
        self.lifespan = lifespan
        self.place: Path | None = None
        """Where the data directory has to be, whatever anybody says."""
        self._data = data
        linger_ms = None if linger is None else linger // timedelta(milliseconds=1)
        self._producer_options: dict[str, Any] = {"linger_ms": linger_ms, "batch_bytes": batch_bytes}
        self._log: Log | None = None
        self._producer: Producer | None = None
        self._view: StateView | None = None
        self._infos: dict[str, TopicInfo] = {}
        self._infos_version = -1
        self._exits: list[AsyncExitStack] = []
        self._living = False

    # Being open.

    @property
    def data(self) -> Path:
        """The data directory, absolute."""
        if self._log is not None:
            return self._log.path
        return self.place or Path(os.environ.get(DATA_VARIABLE) or self._data or "data").absolute()

    @property
    def is_open(self) -> bool:
        """Whether the data directory is open."""
        return self._log is not None

    @property
    def log(self) -> Log:
        """The open log; opens it, making the directory if there is none."""
        if self._log is None:
            self.open(create=True)
        assert self._log is not None
        return self._log

    def open(self, data: str | os.PathLike[str] | None = None, *, create: bool, log: Log | None = None) -> Log:
        """Open the data directory for sending and reading, or use *log*.

        Raises:
            NoDataDirectory: There is none, and *create* is false.
        """
        if self._log is None:
            self._log = log or Log(Path(data or self.data), create=create, clock=self.clock)
            atexit.register(self.close)
        return self._log

    def close(self) -> None:
        """Bring everything sent to disk and close the log; more calls do nothing."""
        atexit.unregister(self.close)
        producer, view, log = self._producer, self._view, self._log
        self._producer = self._view = self._log = None
        self._infos = {}
        for topic in self.topics.values():
            topic.forget()
        if view is not None:
            view.close()
        try:
            if producer is not None:
                producer.close()
        finally:
            if log is not None:
                log.close()

    @contextmanager
    def opened(self, data: str | os.PathLike[str] | None = None, *, create: bool = True) -> Iterator[App]:
        """The app open for sending and reading, for programs without an event loop; `async with app:` for others."""
        self.open(data, create=create)
        try:
            yield self
        finally:
            self.close()

    async def __aenter__(self) -> App:
        """Open for sending and reading; runs no agents."""
        exits = AsyncExitStack()
        if not self.is_open:
            exits.callback(self.close)
        self.open(create=True)
        try:
            await exits.enter_async_context(self.living())
        except BaseException:
            await exits.aclose()
            raise
        self._exits.append(exits)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Flush what was sent and close."""
        await self._exits.pop().aclose()

    @asynccontextmanager
    async def living(self) -> AsyncIterator[None]:
        """Within the lifespan, which runs once however often it is asked for."""
        if self.lifespan is None or self._living:
            yield
            return
        self._living = True
        try:
            async with self.lifespan(self):
                yield
        finally:
            self._living = False

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        """Run agents and jobs beside the body; at its end they finish what is in hand and commit."""
        from framework.worker import Worker

        async with Worker(self).running():
            yield

    def testing(self, *, start: datetime | None = None) -> AbstractAsyncContextManager[Harness]:
        """The app running in a temporary directory, for a test; afterwards it is as it was.

        The clock shows *start*, by default a Monday at midnight, and moves when it is told to.

        Raises:
            AppIsOpen: It is in use already.
        """
        from framework.testing import harness

        return harness(self, start)

    def flush(self) -> None:
        """Hand what was sent outside agents to the log; does not wait for it."""
        if self._producer is not None:
            self._producer.flush()

    @property
    def is_flushed(self) -> bool:
        """Whether all that was sent outside agents has been acknowledged, or has failed."""
        return self._producer is None or self._producer.is_flushed

    def abandon(self) -> None:
        """Lose what was sent outside agents and waits for company, as a killed process does; until `close`."""
        self.producer().abandon()

    def refresh(self) -> None:
        """Show all that is committed by now to whoever reads a table outside its agent."""
        if self._view is not None:
            self._view.expire()

    # What topics and tables ask.

    def topic_info(self, topic: Topic[Any, Any], *, create: bool = True) -> TopicInfo:
        """The topic in the log; made as declared if it is not there and *create* is true.

        Raises:
            TopicExists: It is there with another number of partitions.
            UnknownTopic: It is not there, and *create* is false.
        """
        log = self.log
        version = log.catalogue_version
        if version != self._infos_version:
            self._infos, self._infos_version = {}, version
        info = self._infos.get(topic.name)
        if info is not None:
            return info
        partitions = topic.partitions if topic.like is None else self.topic_info(topic.like).partitions
        try:
            info = log.topic(topic.name)
        except UnknownTopic:
            if not create:
                raise
            try:
                info = log.create_topic(topic.name, partitions or self._partitions, topic.settings())
            except TopicExists:  # Another process was faster.
                info = log.topic(topic.name)
        if partitions not in (None, info.partitions):
            raise TopicExists(
                f"topic {topic.name!r} has {info.partitions} partitions in {log.path}, the app declares "
                f"{partitions}: declare {info.partitions}, or use another topic"
            )
        self._infos[topic.name] = info
        return info

    def dead_letters(self, name: str, source: Topic[Any, Any]) -> Topic[Any, Any]:
        """The dead-letter topic of the agent or job *name*, with the partitions of *source*."""
        called = f"{self.name}.{name}{DEAD_LETTERS}"
        info = self.topic_info(source)
        known = self.topics.get(called)
        if known is None:
            most = min(info.settings.max_message_bytes + MAX_HEADERS_BYTES, RANGES["max_message_bytes"][1])
            overrides = {"retention_ms": -1, "max_message_bytes": most}
            known = self.topics[called] = Topic(
                self, called, bytes, key_type=bytes, partitions=info.partitions, overrides=overrides
            )
        return known

    def producer(self) -> Producer:
        """What sends outside agents."""
        if self._producer is None:
            self._producer = self.log.producer(**self._producer_options)
        return self._producer

    def committed(self, table: Table[Any, Any]) -> CommittedTable:
        """The committed rows of *table*, as everybody but its agent sees them."""
        view, partitions = self._state_view(), table.partitions
        owner = None if partitions is not None or view.own is None else view.own.owner_of(table.name)
        if owner in self.agents:
            partitions = self.topic_info(self.agents[owner].source).partitions
        return CommittedTable(view, table, partitions)

    def own_shards(self, shards: Shards | None) -> None:
        """*shards* are open in this process, so that what they hold is read there; with None, no longer."""
        if shards is not None or self._view is not None:
            self._state_view().own = shards

    def _state_view(self) -> StateView:
        if self._view is None:
            self._view = StateView(self.log)
        return self._view

    def __repr__(self) -> str:
        return f"<App {self.name!r}>"
