"""Taking an agent back: its state and offsets together, and nothing else changes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from framework import Stream
from framework.log import Log
from framework.log.errors import Conflict, NotFound, OffsetOutOfRange
from framework.rewind import Rewind, ToCheckpoint, ToPlace
from framework.state.checkpoints import checkpoints
from framework.state.errors import ShardBusy, StateFailed
from framework.state.shards import Shards
from framework.state.store import Commit, Store
from framework.worker import Worker
from tests.framework.conftest import Shop
from tests.framework.till import HOUR_MS, PARTITIONS, Till, sums_of


@pytest.fixture
def till(shop: Shop) -> Till:
    return Till(shop)


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


def refusing_after(commits: int) -> Callable[[Store, Commit], None]:
    """`Store.commit` that fails after so many, which stands for a kill."""
    real, done = Store.commit, list[Store]()

    def commit(store: Store, commit: Commit) -> None:
        if len(done) == commits:
            raise StateFailed("killed")
        done.append(store)
        real(store, commit)

    return commit


async def test_nothing_is_moved_under_a_running_worker(till: Till) -> None:
    await till.handle(1)
    app = till.build()
    async with Worker(app).running():
        assert Rewind(app.log, "add", ToPlace("beginning", empty=True)).plan()
        with pytest.raises(ShardBusy, match="a worker is running there"):
            Shards(app.log).own_all()


async def test_an_agent_with_stages_is_not_moved_by_itself(shop: Shop) -> None:
    """What lay between its stages is gone, so it would handle only what comes after."""
    app = shop.app()
    numbers, sums = app.topic("numbers", int), app.table("sums", int)

    @app.agent(numbers)
    async def add(stream: Stream[int]) -> None:
        async for number in stream.group_by(lambda number: f"k{number % 3}"):
            sums[f"k{number % 3}"] += number

    shop.send(numbers, range(9))
    await shop.run(app)
    with Log(shop.data) as log, pytest.raises(Conflict, match="has stages before a group_by"):
        Rewind(log, "add", ToPlace("beginning", empty=True)).plan()
