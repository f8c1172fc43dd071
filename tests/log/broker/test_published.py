"""Where the broker of a directory listens: who may believe it, and when."""

from __future__ import annotations

import os
from collections.abc import Callable

from framework.log import Log
from framework.log.broker.published import Published, holder_of, publish, published
from framework.log.broker.server import Broker
from framework.log.broker.settings import BrokerSettings
from framework.log.document import write_document
from framework.log.locks import BROKER_LOCK
from tests.log.broker.conftest import Start
from tests.log.conftest import Child

Begin = Callable[..., Child]
BROKER = """
    import asyncio
    from framework.log.broker.server import Broker
    from framework.log.broker.settings import BrokerSettings

    async def main():
        log = Log(sys.argv[1], create=True)
        async with Broker(log, BrokerSettings(port=0)) as broker:
            say(*broker.address)
            await asyncio.to_thread(hear)
        say("ended")
        await asyncio.to_thread(hear)

    asyncio.run(main())
"""


async def test_a_broker_says_where_it_listens_as_long_as_it_does(log: Log) -> None:
    assert published(log) is None
    async with Broker(log, BrokerSettings(port=0)) as broker:
        assert published(log) == Published(*broker.address, os.getpid())
    assert published(log) is None
    assert not (log.path / "broker").exists()


def test_other_processes_find_it(log: Log, child: Begin) -> None:
    broker = child(BROKER, log.path)
    host, port = broker.hear().split()
    assert published(log) == Published(host, int(port), broker.pid)
    broker.say()
    assert broker.hear() == "ended"
    assert (published(log), holder_of(log)) == (None, None)
    broker.say()
    broker.finish()


def test_what_a_killed_broker_has_said_is_not_believed(log: Log, child: Begin) -> None:
    broker = child(BROKER, log.path)
    broker.hear()
    broker.kill()
    assert (log.path / "broker").exists()
    assert published(log) is None


def test_nor_is_what_another_process_has_said_than_the_one_that_holds_the_lock(log: Log, child: Begin) -> None:
    broker = child(BROKER, log.path)
    broker.hear()
    broker.kill()
    assert log.shared.try_own(BROKER_LOCK) is None
    try:
        assert published(log) is None  # This process is the broker now, and has not said where it listens.
        publish(log, ("127.0.0.1", 1))
        assert published(log) == Published("127.0.0.1", 1, os.getpid())
    finally:
        log.shared.disown(BROKER_LOCK)


async def test_a_document_that_is_none_is_as_good_as_none(log: Log, start: Start) -> None:
    await start()
    (log.path / "broker").write_bytes(b"something else")
    assert published(log) is None


async def test_a_broker_that_cannot_write_it_down_serves_all_the_same(open_log: Callable[..., Log]) -> None:
    log = open_log()
    (log.path / "broker.tmp").mkdir()
    async with Broker(log, BrokerSettings(port=0)) as broker:
        assert broker.address[1] > 0
        assert published(log) is None


async def test_the_one_before_may_have_left_its_own(log: Log) -> None:
    write_document(log.files, log.path / "broker", "broker", 1, {"host": "127.0.0.1", "port": 1, "pid": 1})
    async with Broker(log, BrokerSettings(port=0)) as broker:
        assert published(log) == Published(*broker.address, os.getpid())
