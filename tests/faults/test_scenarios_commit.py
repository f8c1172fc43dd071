"""The ways in which a commit loses or doubles what it holds, one test each.

Numbered as where they were first written down; those of the log are in test_scenarios.py.

    F17  an outbox that outlives its producer        here; the log's part there
    F18  an outbox of many batches                   here; the log's part there
    F20  an outbox that cannot be appended           here; full disks in test_full_disk.py
    F21  a stopped worker                            test_scenarios_owner.py
    F22  a slow or stalled RocksDB                   here
    F23  databases and partitions                    here
    F25  values changed in place                     here
    F26  a record that fails, and its neighbours     here
    F27  one record larger than a commit             here
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from framework import Batch, Stream, Table
from framework.jobs.runner import JobRunner
from framework.log import Log, NewRecord, SystemRandom, TopicInfo, TopicSettings, decode, encode, partition_of
from framework.state.database import Database
from framework.state.rows import Change
from framework.state.shards import SHARDS, Shards
from framework.state.store import Commit, Store
from framework.worker import Worker
from tests.framework.conftest import Shop
from tests.log.conftest import ManualClock
from tests.state.conftest import Crash, CrashingDatabase

DAY_MS = 24 * 3600 * 1000
SMALL = TopicSettings(max_message_bytes=1024, segment_bytes=4096)

pytestmark = pytest.mark.slow


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """An empty place for data."""
    return Shop(tmp_path / "data")


class Stores:
    """A log on a clock that a test moves, and shard 0 of it, which crashes where it is told to."""

    def __init__(self, data: Path) -> None:
        self.clock = ManualClock()
        self.log = Log(data, create=True, clock=self.clock)
        self.path = data / "state" / "0"

    def open(self) -> Store:
        return Store(self.path, self.log, SystemRandom().token, open_database=CrashingDatabase)

    def leave_outbox(self, topic: TopicInfo, count: int, *, left: int) -> int:
        """Commit *count* records, and crash when *left* operations are done; how many batches they are."""
        store, commit = self.open(), Commit()
        store.send(commit, {(topic, 0): [NewRecord(None, b"%d" % number, 0) for number in range(count)]})
        assert isinstance(store.database, CrashingDatabase)
        store.database.left = left
        with pytest.raises(Crash):
            store.commit(commit)
        store.database.close()
        return len(commit.outbox)

    def values(self, topic: TopicInfo) -> list[int]:
        partition = self.log.partition(topic, 0)
        reader, found = self.log.reader(partition, partition.log_start), list[int]()
        while batches := reader.read().batches:
            found += [int(record.value or b"") for _, batch in batches for record in decode(batch)]
        reader.close()
        return found


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    """An empty data directory, open."""
    found = Stores(tmp_path / "data")
    yield found
    found.log.close()


def test_f17_an_outbox_left_on_friday_is_in_the_log_once_on_monday(stores: Stores) -> None:
    """Its batches were appended; the rows were not deleted, and meanwhile other producers were forgotten."""
    topic = stores.log.create_topic("out", 1, SMALL)
    batches = stores.leave_outbox(topic, 500, left=2)
    stores.clock.ms += 3 * DAY_MS
    partition = stores.log.partition(topic, 0)
    for number in range(500, 520):  # Segments roll, and the snapshots of their producers with them.
        stores.log.append(partition, _batches(number)).result()
    store = stores.open()
    assert store.replayed == batches
    store.close()
    assert stores.values(topic) == [*range(500), *range(500, 520)]
    assert stores.open().replayed == 0, "a clean stop leaves no outbox"


def _batches(number: int) -> list[bytearray]:
    return encode([NewRecord(None, b"%d" % number, 0)], max_batch_bytes=1024)


@pytest.mark.parametrize("left", [1, 2], ids=["before the write", "after the append"])
def test_f18_an_outbox_of_many_batches_is_replayed_to_its_end_and_once(stores: Stores, left: int) -> None:
    """Kafka remembers five batches of a producer."""
    topic = stores.log.create_topic("out", 1, SMALL)
    assert stores.leave_outbox(topic, 1000, left=left) > 7
    for _ in range(2):
        store = stores.open()
        assert stores.values(topic) == list(range(1000))
        store.close()


def test_f20_a_committed_outbox_is_appended_whatever_the_topics_settings_say_now(stores: Stores) -> None:
    """A smaller limit, and compaction, which takes no records without a key; both only for what is sent from now on."""
    topic = stores.log.create_topic("out", 1, TopicSettings(max_message_bytes=1 << 20))
    assert stores.leave_outbox(topic, 5000, left=1) == 1
    stores.log.alter_topic("out", TopicSettings(max_message_bytes=1024, cleanup_policy="compact"))
    assert stores.open().replayed == 1
    assert stores.values(topic) == list(range(5000))


def test_f20_a_deleted_target_drops_its_batches_counted_and_logged(
    stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing could ever take them; one that is made anew under the same name is another topic."""
    topic = stores.log.create_topic("out", 1, SMALL)
    batches = stores.leave_outbox(topic, 1000, left=1)
    stores.log.delete_topic("out")
    again = stores.log.create_topic("out", 1, SMALL)
    store = stores.open()
    assert (store.replayed, store.dropped) == (batches, batches)
    assert f"{batches} batches that were sent are dropped, {batches} since the start" in caplog.text
    assert stores.values(again) == []


class Slow(Database):
    """A real RocksDB on a disk that syncs when it is told to."""

    free = threading.Event()
    syncing = threading.Event()

    def sync(self) -> None:
        self.syncing.set()
        assert self.free.wait(10)
        super().sync()


async def test_f20_a_commit_begins_only_when_the_outbox_of_the_last_one_is_acknowledged(shop: Shop) -> None:
    """Or after a crash the log would get the second one first, and take the first for a duplicate."""
    app, events = shop.app(), list[str]()

    class Watched(Database):
        def write(self, changes: Sequence[Change]) -> None:
            [forgets] = {key[:1] == b"x" and value is None for key, value in changes[:1]}
            events.append("acknowledged" if forgets else "commit")
            super().write(changes)

    numbers, out = app.topic("numbers", int), app.topic("out", int)

    @app.agent(numbers)
    async def forward(number: int) -> None:
        out.send(number)

    shop.send(numbers, range(20_000))
    async with asyncio.timeout(10):
        await Worker(app, open_database=Watched).run(until_idle=True)
    commits = events[events.index("acknowledged") - 1 :]  # Those before say who the producer is, and who the agent.
    assert commits == ["commit", "acknowledged"] * (len(commits) // 2)


async def test_f22_a_slow_sync_holds_up_neither_the_loop_nor_other_databases(shop: Shop) -> None:
    """And nothing that the commit sends is visible before it."""
    app, seen = shop.app(), list[int]()
    numbers = app.topic("numbers", int, key=str, partitions=2)
    out = app.topic("out", int)
    zero = partition_of(b"0", 2)
    other = next(number for number in range(1, 100) if partition_of(b"%d" % number, 2) != zero)
    same = next(number for number in range(1, 100) if partition_of(b"%d" % number, 2) == zero)

    @app.agent(numbers)
    async def forward(number: int) -> None:
        seen.append(number)
        out.send(number)

    worker = Worker(app, open_database=Slow)
    Slow.free.set()
    async with worker.running():
        Slow.free.clear()
        Slow.syncing.clear()
        await numbers.send(0)
        await shop.until(Slow.syncing.is_set)
        await numbers.send(other)
        await numbers.send(same)
        await shop.until(lambda: sorted(seen) == sorted([0, other, same]))
        assert app.log.partition(app.topic_info(out), 0).log_end == 0
        Slow.free.set()
        await shop.until(lambda: worker.idle)
    assert sorted(shop.values(out)) == sorted([0, other, same])


stalled = Counter[str]()


class Stalling(Database):
    """A real RocksDB that is asked to stall every other write, as it does when it cannot keep up."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._db = Refusing(self._db)  # type: ignore[assignment]


class Refusing:
    """Stands before RocksDB; every second write is refused as a stalled one is."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.stalls = inner, False

    def write(self, batch: Any, options: Any) -> None:
        assert options.no_slowdown
        self.stalls = not self.stalls
        if self.stalls:
            stalled["write"] += 1
            raise Exception("Result incomplete: Incomplete: Write stall")  # rocksdict raises nothing more exact
        self.inner.write(batch, options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


async def test_f22_a_commit_that_rocksdb_stalls_is_made_when_it_can_be(shop: Shop) -> None:
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", int)
    sums = app.table("sums", int)

    @app.agent(numbers)
    async def fold(number: int) -> None:
        sums["all"] += number
        out.send(number)

    shop.send(numbers, range(10_000))
    stalled.clear()
    async with asyncio.timeout(10):
        await Worker(app, open_database=Stalling).run(until_idle=True)
    assert stalled["write"] > 2
    assert shop.rows(sums) == {"all": sum(range(10_000))}
    assert shop.values(out) == list(range(10_000))


async def test_f23_many_partitions_live_in_eight_databases_and_one_commit_writes_for_all_of_them(shop: Shop) -> None:
    app, writes = shop.app(), Counter[str]()

    class Counting(Database):
        def write(self, changes: Sequence[Change]) -> None:
            writes[self.path.name] += 1
            super().write(changes)

    numbers, sums = app.topic("numbers", int, key=str, partitions=64), app.table("sums", int)

    @app.agent(numbers)
    async def fold(number: int) -> None:
        sums[f"{number}"] += 1

    shop.send(numbers, range(1000))
    async with asyncio.timeout(10):
        await Worker(app, open_database=Counting).run(until_idle=True)
    assert sorted(path.name for path in (shop.data / "state").iterdir() if path.name.isdigit()) == list("01234567")
    assert len(writes) == SHARDS
    assert max(writes.values()) < 8, "one write for many tasks"


async def test_f25_what_a_failed_run_changed_in_place_is_undone_and_what_a_good_one_did_is_stored(shop: Shop) -> None:
    app, failures = shop.app(), Counter[int]()
    numbers = app.topic("numbers", int)
    lists: Table[list[int]] = app.table("lists", list)
    nested: Table[dict[str, list[int]]] = app.table("nested", dict)

    @app.agent(numbers)
    async def fold(stream: Stream[int]) -> None:
        async for number in stream:
            lists["k"].append(number)
            nested["k"].setdefault("n", []).append(number)
            failures[number] += 1
            if number % 5 == 3 and failures[number] < 3:
                raise ValueError(number)

    shop.send(numbers, range(20))
    await shop.run(app)
    assert shop.rows(lists) == {"k": list(range(20))}
    assert shop.rows(nested) == {"k": {"n": list(range(20))}}
    assert failures[3] == 3


async def test_f26_a_record_that_fails_does_not_have_its_neighbours_repeated_with_each_retry(shop: Shop) -> None:
    """They are called at most twice: before, and in the one replay, which commits in front of it."""
    app, calls = shop.app(), Counter[int]()
    numbers = app.topic("numbers", int)

    @app.agent(numbers)
    async def call(stream: Stream[int]) -> None:
        async for number in stream:
            calls[number] += 1
            if number == 4999:
                raise ValueError(number)

    shop.send(numbers, range(5010))
    await shop.run(app)
    assert max(calls[number] for number in range(5010) if number != 4999) <= 2
    assert calls[4999] >= 4


@pytest.mark.parametrize(("limit", "job"), [("RECORD_LIMIT_BYTES", False), ("RUN_LIMIT_BYTES", True)])
async def test_f27_more_than_a_commit_may_hold_is_an_error_of_its_record_or_run(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, limit: str, *, job: bool
) -> None:
    """Nothing of it is sent; for an agent the others go on, and a job can do the same work in chunks."""
    monkeypatch.setattr(f"framework.effects.{limit}", 200_000)
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", str)
    shop.send(numbers, [1, 30, 2])
    if not job:

        @app.agent(numbers)
        async def flood(number: int) -> None:
            out.send_many(f"{number} {'.' * 10_000}" for _ in range(number))

        await shop.run(app)
        assert Counter(value.split()[0] for value in shop.values(out)) == {"1": 1, "2": 2}
        assert len(shop.dead(app, "flood")) == 1
        return

    @app.job(numbers, schedule="@daily")
    def report(batch: Batch[int]) -> None:
        for number in batch:
            out.send_many("." * 10_000 for _ in range(number))

    with app.opened():
        shards = Shards(app.log)
        shards.own_jobs()
        runner = JobRunner(app, shards.of_jobs())
        with pytest.raises(Exception, match=r"report sent 20[0-9]{4} bytes .* read the batch in chunks"):
            await runner.run(app.jobs["report"], runner.now(), trigger="manual")
        shards.close()
    assert shop.values(out) == []


async def test_f27_a_flood_is_committed_at_the_soft_limit(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """So no commit holds more than that and one record, however fast the agent is."""
    monkeypatch.setattr("framework.effects.SOFT_LIMIT_BYTES", 50_000)
    sizes: list[int] = []

    class Measured(Database):
        def write(self, changes: Sequence[Change]) -> None:
            sizes.append(sum(len(value or b"") for key, value in changes if key[:1] == b"x"))
            super().write(changes)

    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", str)

    @app.agent(numbers)
    async def flood(number: int) -> None:
        out.send(os.urandom(1000).hex())

    shop.send(numbers, range(500))
    async with asyncio.timeout(10):
        await Worker(app, open_database=Measured).run(until_idle=True)
    assert len(shop.values(out)) == 500
    assert 45_000 < max(sizes) < 60_000
