"""Taking an agent back: state and offsets together, outputs as the user says, and nothing else changes."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from framework import App, Stream
from framework.log import Log
from framework.log.errors import NotFound, OffsetOutOfRange
from framework.replay import Outputs
from framework.rewind import Rewind, Step, Target, ToCheckpoint, ToPlace
from framework.state.checkpoints import Checkpoints, checkpoints
from framework.state.errors import ShardBusy, StateFailed
from framework.state.shards import Shards
from framework.state.store import Commit, Store
from framework.worker import Worker
from tests.framework.conftest import Shop
from tests.log.conftest import ManualClock

HOUR_MS = 3_600_000
PARTITIONS = 3


class Till:
    """A shop whose agent sums numbers by key into a table, and sends each sum; and another that only counts."""

    def __init__(self, shop: Shop) -> None:
        self.shop, self.clock = shop, ManualClock()
        self.build()

    def build(self, fails_at: int | None = None) -> App:
        """The app anew, as after a restart; its agent raises at the number *fails_at*."""
        self.app = app = self.shop.app(clock=self.clock)
        self.numbers = app.topic("numbers", int, key=lambda number: f"k{number % 7}", partitions=PARTITIONS)
        self.sums_topic = app.topic("sums-topic", int, partitions=2)
        self.elsewhere = app.topic("elsewhere", int, partitions=1)
        self.sums, self.counts = app.table("sums", int), app.table("counts", int)

        @app.agent(self.numbers, sink=self.sums_topic)
        async def add(stream: Stream[int]) -> AsyncGenerator[int, None]:
            async for number in stream:
                if number == fails_at:
                    raise ValueError(number)
                self.sums[f"k{number % 7}"] += number
                yield number

        @app.agent(self.numbers)
        async def count(stream: Stream[int]) -> None:
            async for number in stream:
                self.counts[f"k{number % 7}"] += 1

        return app

    async def handle(self, *numbers: int, **options: Any) -> None:
        """Send *numbers* and let a new worker handle them."""
        app = self.build(**options)
        with app.opened():
            app.topic_info(self.elsewhere)
        self.shop.send(self.numbers, numbers)
        await self.shop.run(app)

    def checkpoint(self) -> int:
        """Make a checkpoint of every shard now; returns the time, which then goes on by an hour."""
        now = self.clock.ms
        with Log(self.shop.data, clock=self.clock) as log:
            shards = Shards(log)
            shards.own_all()
            made = Checkpoints(log, keep=24)
            for number in range(PARTITIONS):
                made.make(shards.of_partition(number))
            shards.close()
        self.clock.ms += HOUR_MS
        return now

    def rewind(self, target: Target, outputs: str = "send", agent: str = "add") -> list[Step]:
        """Do it."""
        with Log(self.shop.data, clock=self.clock) as log:
            shards = Shards(log)
            shards.own_all()
            try:
                return Rewind(log, agent, target, outputs).execute(shards)
            finally:
                shards.close()

    def plan(self, target: Target, agent: str = "add") -> list[Step]:
        """What it would do."""
        with Log(self.shop.data, clock=self.clock) as log:
            return Rewind(log, agent, target).plan()

    @property
    def sent(self) -> list[int]:
        return sorted(self.shop.values(self.sums_topic))

    @property
    def rows(self) -> dict[str, int]:
        return self.shop.rows(self.sums)

    def everything(self) -> dict[str, dict[bytes, bytes]]:
        """All rows of all shards."""
        found = {}
        with Log(self.shop.data) as log:
            shards = Shards(log)
            for number in range(PARTITIONS):
                found[str(number)] = dict(shards.of_partition(number).database.scan(b""))
            shards.close()
        return found


@pytest.fixture
def till(shop: Shop) -> Till:
    return Till(shop)


def sums_of(numbers: list[int]) -> dict[str, int]:
    """The reference."""
    return {f"k{rest}": total for rest in range(7) if (total := sum(n for n in numbers if n % 7 == rest))}


# State and offsets.


async def test_an_agent_goes_back_to_a_checkpoint_and_ends_as_before(till: Till) -> None:
    before, after = list(range(1, 40)), list(range(40, 100))
    await till.handle(*before)
    time = till.checkpoint()
    await till.handle(*after)
    assert till.rows == sums_of(before + after)
    steps = till.rewind(ToCheckpoint(time))
    assert till.rows == sums_of(before)
    assert sum(step.to for step in steps) == len(before)
    assert sum(step.committed for step in steps) == len(before + after)
    assert all(step.checkpoint is not None and step.checkpoint.time_ms == time for step in steps)
    await till.handle()
    assert till.rows == sums_of(before + after)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.integers(1, 50), max_size=12), min_size=2, max_size=4),
    st.integers(0, 3),
    st.sampled_from(["send", "drop", "elsewhere"]),
)
async def test_a_rewind_is_the_fold_of_the_prefix_and_its_replay_that_of_all(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[int]], back_to: int, outputs: str
) -> None:
    """Parts of the input with a checkpoint after each, then back to one of them."""
    till, handled, known = Till(Shop(tmp_path_factory.mktemp("data"))), list[int](), list[tuple[int, list[int]]]()
    for part in parts:
        await till.handle(*part)
        handled += part
        known.append((till.checkpoint(), list(handled)))
    time, prefix = known[min(back_to, len(known) - 1)]
    till.rewind(ToCheckpoint(time), outputs)
    assert till.rows == sums_of(prefix)
    await till.handle()
    assert till.rows == sums_of(handled)
    again = handled[len(prefix) :]
    assert till.sent == sorted(handled + (again if outputs == "send" else []))
    assert sorted(till.shop.values(till.elsewhere)) == sorted(again if outputs == "elsewhere" else [])


async def test_other_agents_sequences_and_producers_stay_as_they_are(till: Till) -> None:
    await till.handle(*range(1, 20))
    time = till.checkpoint()
    await till.handle(*range(20, 40))
    before = till.everything()
    till.rewind(ToCheckpoint(time))
    after = till.everything()
    for shard, rows in before.items():
        changed = {key for key in rows.keys() | after[shard].keys() if rows.get(key) != after[shard].get(key)}
        assert changed
        assert all(key.startswith((b"oadd\0", b"padd\0", b"tsums\0")) for key in changed)


async def test_rows_that_came_later_go_and_rows_that_went_come_back(till: Till) -> None:
    """A key of every kind: new, deleted, changed and unchanged since the checkpoint."""
    await till.handle(1, 2, 3)
    time = till.checkpoint()
    with Log(till.shop.data) as log:
        shards = Shards(log)
        for number in range(PARTITIONS):
            store = shards.of_partition(number)
            for key, _ in list(store.database.scan(b"tsums\0")):
                if key.endswith(b"k2"):
                    store.commit(Commit(changes=[(key, None)]))
        shards.close()
    await till.handle(4, 1)
    assert till.rows == {"k1": 2, "k3": 3, "k4": 4}
    steps = till.rewind(ToCheckpoint(time))
    assert till.rows == {"k1": 1, "k2": 2, "k3": 3}
    assert sum(step.restored for step in steps) == 2
    assert sum(step.deleted for step in steps) == 1


async def test_the_newest_checkpoint_from_the_time_or_before_is_taken(till: Till) -> None:
    times = []
    for number in range(1, 4):
        await till.handle(number)
        times.append(till.checkpoint())
    assert till.plan(ToCheckpoint(times[1] + 5))[0].checkpoint == till.plan(ToCheckpoint(times[1]))[0].checkpoint
    till.rewind(ToCheckpoint(times[2] - 1))
    assert till.rows == {"k1": 1, "k2": 2}


async def test_without_a_checkpoint_the_way_out_is_named(till: Till) -> None:
    await till.handle(1)
    with pytest.raises(NotFound, match=r"there is none at all.* say --state reset"):
        till.plan(ToCheckpoint(till.clock.ms))
    time = till.checkpoint()
    with pytest.raises(NotFound, match="the oldest is from 2023-11-14T22:13:20Z"):
        till.plan(ToCheckpoint(time - 1))


async def test_an_agent_nobody_knows_has_nothing_to_move(till: Till) -> None:
    await till.handle(1)
    with pytest.raises(NotFound, match="agent 'other' has committed nothing"):
        till.plan(ToPlace("beginning", empty=True), agent="other")


async def test_a_plan_changes_nothing(till: Till) -> None:
    await till.handle(*range(1, 20))
    time = till.checkpoint()
    await till.handle(*range(20, 40))
    before = till.everything()
    assert [step.to < step.committed for step in till.plan(ToCheckpoint(time))] == [True] * PARTITIONS
    till.plan(ToPlace("beginning", empty=True))
    assert till.everything() == before


async def test_a_checkpoint_is_the_same_after_it_was_used(till: Till) -> None:
    await till.handle(*range(1, 20))
    time = till.checkpoint()
    files = {path.name: path.read_bytes() for path in checkpoints(till.shop.data, "0")[0].path.iterdir()}
    await till.handle(*range(20, 40))
    till.rewind(ToCheckpoint(time))
    assert {path.name: path.read_bytes() for path in checkpoints(till.shop.data, "0")[0].path.iterdir()} == files


async def test_records_that_are_gone_are_named_or_skipped(till: Till) -> None:
    await till.handle(*range(1, 10))
    time = till.checkpoint()
    await till.handle(*range(10, 40))
    with till.app.opened():
        partition = till.app.log.partition(till.app.log.topic("numbers"), 0)
        start = partition.high_watermark - 1
        partition.delete_records(start)
    step = next(step for step in till.plan(ToCheckpoint(time, on_gap="earliest")) if step.partition.number == 0)
    assert step.to == start
    with pytest.raises(OffsetOutOfRange, match=f"records [0-9]+ to {start - 1} cannot be handled again.*--on-gap ear"):
        till.plan(ToCheckpoint(time))


async def test_retention_waits_again_for_what_is_to_be_handled_again(till: Till) -> None:
    await till.handle(*range(1, 40))
    with Log(till.shop.data) as log:
        partition = log.partition(log.topic("numbers"), 0)
        partition.set_hold(10)
    till.rewind(ToPlace("beginning", empty=True))
    with Log(till.shop.data) as log:
        assert log.shared.hold(partition.slot) == 0


# Reset.


async def test_reset_empties_the_tables_and_begins_at_the_log_start(till: Till) -> None:
    await till.handle(*range(1, 30))
    till.rewind(ToPlace("beginning", empty=True), "drop")
    assert till.rows == {}
    await till.handle()
    assert till.rows == sums_of(list(range(1, 30)))
    assert till.sent == list(range(1, 30))


async def test_reset_may_keep_the_tables(till: Till) -> None:
    await till.handle(*range(1, 30))
    till.rewind(ToPlace("beginning", empty=False), "drop")
    await till.handle()
    assert till.rows == {key: 2 * value for key, value in sums_of(list(range(1, 30))).items()}


async def test_reset_skips_to_the_end_of_one_partition(till: Till) -> None:
    await till.handle(*range(1, 30))
    till.shop.send(till.numbers, range(30, 60))
    (step,) = till.rewind(ToPlace("end", empty=False, partition=1))
    assert step.to == step.end > step.committed
    await till.handle()
    assert len(till.sent) == 59 - (step.to - step.committed)


async def test_reset_goes_to_a_time(till: Till) -> None:
    await till.handle(*range(1, 30))
    till.clock.ms += 2 * HOUR_MS
    await till.handle(*range(30, 40))
    till.rewind(ToPlace(timedelta(hours=1), empty=False))
    await till.handle()
    assert till.sent == sorted([*range(1, 40), *range(30, 40)])


# Outputs.


async def test_dropping_ends_where_the_agent_was(till: Till) -> None:
    """Also with records that came meanwhile, in the same batch of work."""
    await till.handle(*range(1, 30))
    till.rewind(ToPlace("beginning", empty=True), "drop")
    till.shop.send(till.numbers, range(30, 60))
    await till.handle(*range(60, 90))
    assert till.sent == list(range(1, 90))
    assert not any(key.startswith(b"p") for rows in till.everything().values() for key in rows)


async def test_dropping_survives_a_restart_in_the_middle_of_it(till: Till) -> None:
    await till.handle(*range(1, 200))
    till.rewind(ToPlace("beginning", empty=True), "drop")
    app, worker = till.build(), Worker(till.app)
    async with worker.running():
        for task in worker.tasks:
            task._slice_size = 5
        await till.shop.until(lambda: any(task.committed > 0 for task in worker.tasks))
        for task in worker.tasks:
            task.stop()
    assert app is till.app
    await till.handle(*range(200, 220))
    assert till.sent == list(range(1, 220))
    assert till.rows == sums_of(list(range(1, 220)))


@pytest.mark.parametrize("outputs", ["send", "drop"])
async def test_a_list_with_one_record_that_was_never_handled_is_sent(shop: Shop, outputs: str) -> None:
    """Lists of two over three records that were handled and one that was not: better twice than never."""
    app = shop.app()
    numbers, pairs = app.topic("numbers", int), app.topic("pairs", list)

    @app.agent(numbers)
    async def gather(stream: Stream[int]) -> None:
        async for taken in stream.take(size, timedelta(hours=1)):
            pairs.send(taken)

    size = 3
    shop.send(numbers, range(3))
    await shop.run(app)
    assert shop.values(pairs) == [[0, 1, 2]]
    with Log(shop.data) as log:
        shards = Shards(log)
        shards.own_all()
        Rewind(log, "gather", ToPlace("beginning", empty=True), outputs).execute(shards)
        shards.close()
    size = 2
    shop.send(numbers, [3])
    await shop.run(app)
    assert shop.values(pairs)[1:] == ([[0, 1], [2, 3]] if outputs == "send" else [[2, 3]])


async def test_what_fails_when_it_is_handled_again_is_a_dead_letter_though_outputs_are_dropped(till: Till) -> None:
    await till.handle(*range(1, 30))
    till.rewind(ToPlace("beginning", empty=True), "drop")
    await till.handle(fails_at=17)
    assert [record.value for record in till.shop.dead(till.app, "add")] == [b"17"]
    assert till.sent == list(range(1, 30))


async def test_a_record_that_fails_behind_the_end_of_dropping_is_not_dropped_with_the_others(till: Till) -> None:
    """The task goes back to below the end, where its commit was, and comes to it again."""
    await till.handle(*range(1, 30))
    till.rewind(ToPlace("beginning", empty=True), "drop")
    till.shop.send(till.numbers, range(30, 60))
    await till.handle(fails_at=45)
    assert till.sent == [number for number in range(1, 60) if number != 45]


async def test_a_second_rewind_within_the_first_remembers_what_was_sent(till: Till) -> None:
    """Its agent has not come to where it was: above its offset, but below the old one, all was sent before."""
    await till.handle(*range(1, 60))
    time = till.checkpoint()
    await till.handle(*range(60, 90))
    till.rewind(ToPlace("beginning", empty=True), "send")
    till.rewind(ToCheckpoint(time), "drop")
    await till.handle(*range(90, 95))
    assert till.sent == list(range(1, 95))


async def test_going_forward_drops_nothing(till: Till) -> None:
    await till.handle(*range(1, 30))
    till.shop.send(till.numbers, range(30, 60))
    steps = till.rewind(ToPlace("end", empty=False), "drop")
    assert not any(step.replays for step in steps)
    await till.handle(*range(60, 70))
    assert till.sent == [*range(1, 30), *range(60, 70)]


async def test_who_has_sent_is_known(till: Till) -> None:
    await till.handle(1)
    with Log(till.shop.data) as log:
        for agent, sends in (("add", True), ("count", False)):
            rewind = Rewind(log, agent, ToPlace("beginning", empty=True))
            rewind.plan()
            assert rewind.has_sent is sends


@pytest.mark.parametrize("policy", ["send", "drop", "a-topic", "t", "s", "d"])
def test_what_becomes_of_outputs_is_read_as_it_was_written(policy: str) -> None:
    assert Outputs.unpack(Outputs(7, policy).pack()) == Outputs(7, policy)


# Kills and owners.


@pytest.mark.parametrize("outputs", ["send", "drop"])
@pytest.mark.parametrize("commits", [0, 1, 2])
async def test_killed_between_two_shards_the_same_command_does_the_rest(
    till: Till, monkeypatch: pytest.MonkeyPatch, commits: int, outputs: str
) -> None:
    await till.handle(*range(1, 30))
    time = till.checkpoint()
    await till.handle(*range(30, 60))
    shutil.copytree(till.shop.data, till.shop.data.with_name("whole"))
    whole = Till(Shop(till.shop.data.with_name("whole")))
    whole.clock.ms = till.clock.ms
    whole.rewind(ToCheckpoint(time), outputs)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "commit", refusing_after(commits))
        with pytest.raises(StateFailed):
            till.rewind(ToCheckpoint(time), outputs)
    till.rewind(ToCheckpoint(time), outputs)
    assert till.everything() == whole.everything()
    await till.handle()
    again = list(range(30, 60)) if outputs == "send" else []
    assert till.sent == sorted([*range(1, 60), *again])
    assert till.rows == sums_of(list(range(1, 60)))


def refusing_after(commits: int) -> Callable[[Store, Commit], list[int]]:
    """`Store.commit` that fails after so many, which stands for a kill."""
    real, done = Store.commit, list[Store]()

    def commit(store: Store, commit: Commit) -> list[int]:
        if len(done) == commits:
            raise StateFailed("killed")
        done.append(store)
        return real(store, commit)

    return commit


async def test_nothing_is_moved_under_a_running_worker(till: Till) -> None:
    await till.handle(1)
    app = till.build()
    async with Worker(app).running():
        assert Rewind(app.log, "add", ToPlace("beginning", empty=True)).plan()
        with pytest.raises(ShardBusy, match="a worker is running there"):
            Shards(app.log).own_all()


# Records that were removed before they were read.


async def gapped(till: Till, on_gap: Any, removed: int = 20) -> tuple[App, list[int]]:
    """An app whose agent has read 5 records, of which *removed* are gone now, of 25."""
    seen = list[int]()

    def app() -> App:
        made = till.shop.app("gaps", clock=till.clock)
        topic = made.topic("gapped", int)

        @made.agent(topic, on_gap=on_gap)
        def see(number: int) -> None:
            seen.append(number)

        return made

    first = app()
    till.shop.send(first.topic("gapped", int), range(5))
    await till.shop.run(first)
    till.shop.send(first.topic("gapped", int), range(5, 25))
    with first.opened():
        first.log.partition(first.log.topic("gapped"), 0).delete_records(removed)
    return app(), seen


async def test_an_agent_stops_where_records_were_removed_before_it_read_them(till: Till) -> None:
    app, _ = await gapped(till, "fail")
    with pytest.raises(OffsetOutOfRange, match=r"records 5 to 19 were removed .* on_gap='earliest', or run `fra"):
        await till.shop.run(app)


@pytest.mark.parametrize("removed", [20, 25])
async def test_an_agent_goes_on_at_the_log_start_if_it_may(
    till: Till, caplog: pytest.LogCaptureFixture, removed: int
) -> None:
    app, seen = await gapped(till, "earliest", removed)
    await till.shop.run(app)
    assert seen == [*range(5), *range(removed, 25)]
    assert f"see goes on at gapped-0@{removed}: {removed - 5} offsets, 5 to {removed - 1}, were removed" in caplog.text
    till.shop.send(app.topics["gapped"], [100])
    await till.shop.run(app)
    assert seen[-1] == 100


async def test_records_removed_while_the_agent_runs_are_skipped_too(shop: Shop) -> None:
    """It is held up in its last record while the next ones come and go."""
    app, seen, free = shop.app("gaps"), list[int](), asyncio.Event()
    topic = app.topic("gapped", int)

    @app.agent(topic, on_gap="earliest")
    async def see(number: int) -> None:
        seen.append(number)
        await free.wait()

    shop.send(topic, [0])
    worker = Worker(app)
    async with worker.running():
        await shop.until(lambda: bool(seen))
        await topic.send_many(range(1, 10))
        worker.tasks[0].fetch.partition.delete_records(7)
        free.set()
        await shop.until(lambda: seen[-1] == 9 and worker.idle)
    assert seen == [0, 7, 8, 9]
