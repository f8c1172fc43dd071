"""Committed offsets of groups: there when they are acknowledged, in the order of the commits, one process at a time."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from framework.log import Log
from framework.log.broker.offsets import Committed, MemoryOffsets, OffsetStore, Place
from framework.log.errors import LogClosed, NewerFormat, TooManyGroups
from framework.log.locks import GROUPS_LOCK
from framework.state import rows
from framework.state.database import Database
from framework.state.errors import DiskFailed, GroupsBusy, StateFailed
from framework.state.groups import GroupStore, GroupsView
from tests.state.conftest import Crash, CrashingDatabase

A, B = "a" * 32, "b" * 32
OpenStore = Callable[..., GroupStore]


@pytest.fixture
def open_store(log: Log) -> Iterator[OpenStore]:
    """Opens the groups of the log's directory; closed after the test."""
    opened: list[GroupStore] = []

    def open_it(**options: Any) -> GroupStore:
        opened.append(GroupStore(log, **options))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, open_store: OpenStore) -> OffsetStore:
    """Either store: they are to be told apart by nothing but their end."""
    return open_store(max_groups=3) if request.param == "disk" else MemoryOffsets(max_groups=3)


class Faulty(Database):
    """A real RocksDB whose next syncs fail, or wait."""

    failing = 0
    syncs = 0
    reopened = 0

    def __init__(self, path: Path) -> None:
        self.may_sync = threading.Event()
        self.may_sync.set()
        self.reached = threading.Event()
        super().__init__(path)

    def sync(self) -> None:
        self.reached.set()
        assert self.may_sync.wait(60)
        self.syncs += 1
        if self.failing:
            self.failing -= 1
            raise DiskFailed("the disk refused")
        super().sync()

    def reopen(self) -> None:
        self.reopened += 1
        super().reopen()


def at(offset: int, time_ms: int = 0) -> Committed:
    """A committed offset."""
    return Committed(offset, time_ms=time_ms)


# Both stores.


def test_what_is_committed_is_there_with_all_that_was_said(store: OffsetStore) -> None:
    there: dict[Place, Committed] = {
        (A, 0): Committed(7, 3, "späť ", 1_700_000_000_000),
        (A, 1): Committed(0),
        (B, 0): Committed((1 << 63) - 1, -1, "x" * 4096, 5),
    }
    store.commit("readers", there).result(60)
    assert store.fetch("readers") == there
    assert store.fetch("readers", [(A, 1), (B, 9)]) == {(A, 1): Committed(0)}
    store.commit("readers", {(A, 0): at(9)}).result(60)
    assert store.fetch("readers", [(A, 0)]) == {(A, 0): at(9)}
    assert store.fetch("others") == {}


@pytest.mark.parametrize("names", [("a", "ab"), ("a\0", "a"), ("", "o"), ("größe", "größ")])
def test_groups_whose_names_begin_alike_are_kept_apart(store: OffsetStore, names: tuple[str, str]) -> None:
    for number, name in enumerate(names):
        store.commit(name, {(A, 0): at(number)}).result(60)
    assert [store.fetch(name) for name in names] == [{(A, 0): at(0)}, {(A, 0): at(1)}]
    store.delete_group(names[0]).result(60)
    assert (store.fetch(names[0]), store.groups()) == ({}, [names[1]])


def test_a_group_is_there_as_long_as_it_has_offsets(store: OffsetStore) -> None:
    store.commit("readers", {}).result(60)
    assert store.groups() == []
    store.commit("readers", {(A, 0): at(1), (A, 1): at(2)}).result(60)
    store.delete("readers", [(A, 0), (B, 0)]).result(60)
    assert (store.groups(), store.fetch("readers")) == (["readers"], {(A, 1): at(2)})
    store.delete("readers", [(A, 1)]).result(60)
    assert store.groups() == []
    store.delete("readers", [(A, 1)]).result(60)
    store.delete_group("readers").result(60)


@pytest.mark.parametrize("named", [[0, 0], [0, 0, 1], [0, 7, 7]])
def test_a_partition_that_is_named_twice_is_forgotten_once(store: OffsetStore, named: list[int]) -> None:
    """A group is there as long as it has offsets, and no longer, whatever a client asks for."""
    store.commit("g", {(A, 0): Committed(1), (A, 1): Committed(1)}).result(30)
    store.delete("g", [(A, number) for number in named]).result(30)
    left = {(A, number) for number in (0, 1) if number not in named}
    assert (set(store.fetch("g")), store.groups()) == (left, ["g"] if left else [])
    store.delete("g", [(A, 1), (A, 1)]).result(30)
    store.delete("none", [(A, 1)]).result(30)
    assert store.groups() == []


def test_there_are_so_many_groups_and_no_more(store: OffsetStore) -> None:
    for name in "abc":
        store.commit(name, {(A, 0): at(1)}).result(60)
    with pytest.raises(TooManyGroups, match="group 'd' would be one more than 3"):
        store.commit("d", {(A, 0): at(1)})
    store.commit("a", {(A, 0): at(2)}).result(60)
    store.delete_group("b").result(60)
    store.commit("d", {(A, 0): at(1)}).result(60)


def test_offsets_of_groups_that_nobody_has_seen_for_too_long_are_forgotten(store: OffsetStore) -> None:
    """As long as there are members they are kept, however long ago the last commit was."""
    for name, time_ms in (("old", 1_000), ("new", 5_000), ("live", 1_000)):
        store.commit(name, {(A, 0): at(1, time_ms), (A, 1): at(1, time_ms)}).result(60)
    assert store.expire(5_000, 9_000, {"live"}, {A}).result(60) == 2
    assert sorted(store.groups()) == ["live", "new"]
    assert store.expire(9_000, 12_000, set(), {A}).result(60) == 2
    assert store.groups() == ["live"], "it counts from when its members were seen last"
    assert store.expire(9_001, 12_000, set(), {A}).result(60) == 2
    assert store.groups() == []


def test_offsets_of_topics_that_are_gone_are_forgotten(store: OffsetStore) -> None:
    store.commit("readers", {(A, 0): at(1, 5), (B, 0): at(2, 5)}).result(60)
    store.commit("others", {(A, 0): at(1, 5)}).result(60)
    assert store.expire(0, 6, {"readers"}, {B}).result(60) == 2
    assert (store.groups(), store.fetch("readers")) == (["readers"], {(B, 0): at(2, 5)})


# On the disk.


def test_what_was_committed_is_there_when_it_is_opened_anew(log: Log, open_store: OpenStore) -> None:
    first = open_store()
    first.commit("readers", {(A, 0): at(1, 7)}).result(60)
    first.close()
    second = open_store()
    assert (second.groups(), second.fetch("readers")) == (["readers"], {(A, 0): at(1, 7)})
    assert second.expire(8, 9, set(), {A}).result(60) == 1


def test_changes_are_made_in_the_order_in_which_they_were_asked_for(open_store: OpenStore) -> None:
    store = open_store(open_database=Faulty)
    assert isinstance(store._database, Faulty)
    store._database.may_sync.clear()
    done: list[Future[None]] = []
    for number in range(200):
        done.append(store.commit("readers", {(A, number % 3): at(number)}))
        if number % 50 == 49:
            done.append(store.delete_group("readers"))
            done.append(store.commit("readers", {(B, 0): at(number)}))
        if number % 7 == 0:
            done.append(store.delete("readers", [(A, 1)]))
    done.append(store.commit("readers", {(A, 1): at(8), (A, 5): at(7)}))
    done.append(store.delete("readers", [(A, 1)]))
    store._database.may_sync.set()
    for each in done:
        each.result(60)
    assert store.fetch("readers") == {(B, 0): at(199), (A, 5): at(7)}


def test_many_commits_are_synced_together_and_none_is_done_before(open_store: OpenStore) -> None:
    store = open_store(open_database=Faulty)
    database = store._database
    assert isinstance(database, Faulty)
    database.may_sync.clear()
    first = store.commit("readers", {(A, 0): at(0)})
    assert database.reached.wait(60)
    others = [store.commit(f"readers {number}", {(A, 0): at(number)}) for number in range(500)]
    assert not first.done()
    assert not any(each.done() for each in others)
    database.may_sync.set()
    for each in [first, *others]:
        each.result(60)
    assert database.syncs == 2
    assert len(store.groups()) == 501


def test_a_commit_that_the_disk_refuses_fails_and_can_be_made_again(
    open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(open_database=Faulty)
    store.commit("readers", {(A, 0): at(1)}).result(60)
    assert isinstance(store._database, Faulty)
    store._database.failing = 1
    with pytest.raises(StateFailed, match="the disk refused"):
        store.commit("readers", {(A, 0): at(2)}).result(60)
    assert "committed offsets could not be written: the disk refused" in caplog.text
    store.commit("readers", {(A, 0): at(2)}).result(60)
    assert store.fetch("readers") == {(A, 0): at(2)}
    assert store._database.reopened == 1, "RocksDB takes nothing more after a failed write"


def test_who_gives_up_waiting_has_asked_all_the_same(open_store: OpenStore) -> None:
    store = open_store(open_database=Faulty)
    assert isinstance(store._database, Faulty)
    store._database.may_sync.clear()
    first = store.commit("readers", {(A, 0): at(1)})
    second = store.commit("readers", {(A, 0): at(2)})
    assert second.cancel()
    store._database.may_sync.set()
    first.result(60)
    store.commit("others", {(A, 0): at(1)}).result(60)
    assert store.fetch("readers") == {(A, 0): at(2)}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("left", [0, 1])
def test_a_fault_of_ours_keeps_nobody_waiting(open_store: OpenStore, left: int) -> None:
    """It comes out of the write, or of the sync, and ends the thread."""
    store = open_store(open_database=CrashingDatabase)
    store.commit("readers", {(A, 0): at(1)}).result(60)
    assert isinstance(store._database, CrashingDatabase)
    store._database.left = left
    assert isinstance(store.commit("readers", {(A, 1): at(1)}).exception(60), Crash)
    store._thread.join()
    with pytest.raises(LogClosed):
        store.commit("readers", {(A, 2): at(1)})
    store.close()
    found = open_store().fetch("readers")
    assert found[A, 0] == at(1)
    assert ((A, 1) in found) == bool(left)


def test_closing_it_makes_what_was_asked_for(open_store: OpenStore) -> None:
    store = open_store()
    done = [store.commit("readers", {(A, number): at(number)}) for number in range(50)]
    store.close()
    store.close()
    assert all(each.done() and each.exception() is None for each in done)
    with pytest.raises(LogClosed):
        store.commit("readers", {(A, 0): at(1)})
    assert len(open_store().fetch("readers")) == 50


def test_one_process_has_the_groups_and_another_is_told_which(
    data: Path, log: Log, child: Callable[..., Any], open_store: OpenStore
) -> None:
    script = """
    from framework.state.groups import GroupStore
    store = GroupStore(Log(sys.argv[1]))
    say("open")
    hear()
    """
    other = child(script, data)
    assert other.hear() == "open"
    with pytest.raises(GroupsBusy, match=f"process {other.pid} has the groups of .* a broker is running there"):
        open_store()
    other.kill()
    store = open_store(wait_s=10)
    with pytest.raises(GroupsBusy, match="this process has the groups"):
        GroupStore(log)
    store.close()


def test_what_a_newer_version_has_written_is_left_alone(data: Path, log: Log, open_store: OpenStore) -> None:
    database = Database(data / "state" / "groups")
    database.write([(rows.meta_key("store"), b'{"version": 99}')])
    database.close()
    with pytest.raises(NewerFormat):
        open_store()
    with pytest.raises(NewerFormat):
        GroupsView(log)
    assert log.shared.try_own(GROUPS_LOCK) is None, "who failed to open it does not keep it"
    log.shared.disown(GROUPS_LOCK)


def test_others_read_it_while_it_is_open_and_while_it_is_not(log: Log, open_store: OpenStore) -> None:
    view = GroupsView(log)
    assert (view.groups(), view.fetch("readers")) == ({}, {})
    store = open_store()
    store.commit("readers", {(A, 0): at(1, 7)}).result(60)
    view = GroupsView(log)
    assert (view.groups(), view.fetch("readers")) == ({"readers": 7}, {(A, 0): at(1, 7)})
    view.close()
    store.close()
    view = GroupsView(log)
    assert view.fetch("readers") == {(A, 0): at(1, 7)}
    view.close()


@pytest.mark.slow
def test_what_a_killed_process_acknowledged_is_there(
    data: Path, log: Log, child: Callable[..., Any], open_store: OpenStore, seed: int
) -> None:
    """Killed at random while several threads commit, delete and expire; later commits of a place stand over earlier."""
    script = """
    import threading
    from framework.log.broker.offsets import Committed
    from framework.state.groups import GroupStore
    first = int(sys.argv[2])
    store = GroupStore(Log(sys.argv[1]), wait_s=10)
    lock = threading.Lock()

    def commit(group):
        for number in range(first, first + 1_000_000):
            places = {("a" * 32, part): Committed(number, time_ms=number) for part in range(3)}
            store.commit(group, places).result(60)
            if number % 20 == 0:
                store.commit("passing " + group, places)
                store.delete_group("passing " + group).result(60)
                store.expire(0, 0, [], ["a" * 32]).result(60)
            with lock:
                say(group, number)

    for each in "xyz":
        threading.Thread(target=commit, args=(each,), daemon=True).start()
    hear()
    """
    chance = random.Random(seed)
    last = dict.fromkeys("xyz", -1)
    for _ in range(6):
        victim = child(script, data, max(last.values()) + 1)
        said = [victim.hear() for _ in range(chance.randrange(1, 300))]
        victim.kill()
        for line in [*said, *victim.hear_rest()]:
            group, number = line.split()
            last[group] = int(number)
        store = open_store(wait_s=10)
        for group, number in last.items():
            found = store.fetch(group)
            if number >= 0:
                assert min(each.offset for each in found.values()) >= number
            assert len(found) in (0, 3), "a commit is there as a whole"
            assert len({each.offset for each in found.values()}) <= 1
            last[group] = next((each.offset for each in found.values()), -1)
        assert set(store.groups()) <= {*"xyz", *(f"passing {each}" for each in "xyz")}
        store.close()
    assert min(last.values()) > 0
