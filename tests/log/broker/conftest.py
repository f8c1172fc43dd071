"""What the tests of the broker share: a running one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from framework.log import Log
from framework.log.broker.server import Broker
from framework.log.broker.settings import BrokerSettings
from tests.log.broker.client import RawClient, connected

Start = Callable[..., Awaitable[Broker]]
Connect = Callable[..., Awaitable[RawClient]]


@pytest.fixture
async def exits() -> AsyncIterator[AsyncExitStack]:
    """Ends brokers and connections after the test, the last one first."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def log(open_log: Callable[..., Log]) -> Log:
    """The log that is served."""
    return open_log()


@pytest.fixture
async def start(log: Log, exits: AsyncExitStack) -> Start:
    """Starts a broker of the log, or of another one, with the settings that a test names."""

    async def start_it(of: Log = log, **settings: object) -> Broker:
        return await exits.enter_async_context(Broker(of, BrokerSettings(**{"port": 0, **settings})))  # type: ignore[arg-type]

    return start_it


@pytest.fixture
async def connect(exits: AsyncExitStack) -> Connect:
    """Connects to a broker."""

    async def connect_to(broker: Broker) -> RawClient:
        return await exits.enter_async_context(connected(broker))

    return connect_to
