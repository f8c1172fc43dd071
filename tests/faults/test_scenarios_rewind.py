"""The ways in which outputs or inputs are lost when state is not as old as its log.

F19  state that is reset, wiped or restored swallows outputs
F30  an input that loses its tail; retention ahead of an agent
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from framework import App
from framework.agent import OnGap
from framework.log import Log, SystemRandom, TopicSettings
from framework.log.errors import OffsetOutOfRange
from framework.rewind import ToCheckpoint, ToPlace
from framework.state import rows
from framework.state.checkpoints import checkpoints
from framework.state.errors import StateAhead, StateBehind
from framework.state.store import Commit, Store
from tests.faults.crash_files import CrashFiles, watched_stores
from tests.faults.one_partition import after_cut, append, read_all, the
from tests.framework.conftest import Shop
from tests.framework.till import Till, sums_of

pytestmark = pytest.mark.slow
FIRST, SECOND, THIRD = list(range(1, 40)), list(range(40, 80)), list(range(80, 120))


@pytest.fixture
def till(tmp_path: Path) -> Till:
    return Till(Shop(tmp_path / "data"))


@pytest.mark.parametrize("how", ["rewind", "reset", "wiped"])
async def test_f19_outputs_after_the_state_went_back_are_new_records(till: Till, how: str) -> None:
    """Were sequences to begin again below those in the log, all of them would be taken for duplicates."""
    await till.handle(*FIRST)
    time = till.checkpoint()
    await till.handle(*SECOND)
    if how == "rewind":
        till.rewind(ToCheckpoint(time), "send")
    elif how == "reset":
        till.rewind(ToPlace("beginning", empty=True), "send")
    else:
        shutil.rmtree(till.shop.data / "state")
    await till.handle(*THIRD)
    again = SECOND if how == "rewind" else FIRST + SECOND
    assert Counter(till.sent) == Counter(FIRST + SECOND + THIRD + again)
    assert till.rows == sums_of(FIRST + SECOND + THIRD)


@pytest.mark.parametrize("what", ["all of it", "a checkpoint of one shard"])
async def test_f19_an_old_state_that_was_put_back_by_hand_is_refused(till: Till, what: str) -> None:
    """Its next outputs would be dropped; the error names the way out, and nothing was sent or lost."""
    await till.handle(*FIRST)
    till.checkpoint()
    state, backup = till.shop.data / "state", till.shop.data.with_name("backup")
    shutil.copytree(state, backup)
    await till.handle(*SECOND)
    if what == "all of it":
        shutil.rmtree(state)
        backup.rename(state)
    else:
        shutil.rmtree(state / "0")
        shutil.copytree(checkpoints(till.shop.data, "0")[0].path, state / "0")
    with pytest.raises(StateBehind, match="or remove it to start with empty state and a new producer") as caught:
        await till.handle(*THIRD)
    assert caught.value.exit_code == 6
    assert till.sent == FIRST + SECOND
    shutil.rmtree(state)
    await till.handle()
    assert Counter(till.sent) == Counter(2 * (FIRST + SECOND) + THIRD)


async def test_f19_a_log_that_is_older_than_the_state_is_refused(till: Till) -> None:
    await till.handle(*FIRST)
    state, backup = till.shop.data / "state", till.shop.data.with_name("backup")
    shutil.copytree(till.shop.data, backup)
    await till.handle(*SECOND)
    shutil.rmtree(backup / "state")
    shutil.copytree(state, backup / "state")
    old = Till(Shop(backup))
    with pytest.raises(StateAhead, match="is newer than the log") as caught:
        await old.handle(*THIRD)
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("synced_first", [True, False])
def test_f30_an_input_that_nobody_has_synced_is_synced_before_it_counts(tmp_path: Path, synced_first: bool) -> None:
    """At level `os` it can be read when it is written; counted without a sync, a power cut would take it back."""
    (tmp_path / "disk").mkdir()
    files = CrashFiles(tmp_path / "disk")
    with watched_stores(), Log(files.root / "data", create=True, files=files) as log:
        topic = log.create_topic("t", 1, TopicSettings(durability="os"))
        append(log, b"first", b"second")
        store = Store(tmp_path / "state", log, SystemRandom().token)
        row = (rows.offset_key("fold", topic.id, 0), rows.pack_u64(2))
        store.commit(Commit([row], inputs=[the(log)] if synced_first else []))
        store.close()
        after_cut(files, tmp_path / "after", "nothing unsynced")
    with Log(tmp_path / "after" / "data") as log:
        store = Store(tmp_path / "state", log, SystemRandom().token)
        if synced_first:
            assert store.offset("fold", log.topic("t"), 0) == 2
            assert read_all(log) == [b"first", b"second"]
        else:
            with pytest.raises(StateAhead, match="fold has read t-0 up to 2, the log ends at 0"):
                store.offset("fold", log.topic("t"), 0)
        store.close()


async def test_f30_an_agent_stops_at_records_that_were_removed_before_it_read_them(tmp_path: Path) -> None:
    """And the range is named, and the way out; see tests/framework/test_gaps.py for `on_gap`."""
    shop = Shop(tmp_path / "data")
    seen = list[int]()

    def app(on_gap: OnGap = "fail") -> App:
        made = shop.app()
        topic = made.topic("numbers", int)

        @made.agent(topic, on_gap=on_gap)
        def see(number: int) -> None:
            seen.append(number)

        return made

    first = app()
    shop.send(first.topic("numbers", int), range(5))
    await shop.run(first)
    shop.send(first.topic("numbers", int), range(5, 25))
    with first.opened():
        first.log.partition(first.log.topic("numbers"), 0).delete_records(20)
    with pytest.raises(OffsetOutOfRange, match="records 5 to 19 were removed"):
        await shop.run(app())
    assert seen == list(range(5))
    await shop.run(app(on_gap="earliest"))
    assert seen == [*range(5), *range(20, 25)]
