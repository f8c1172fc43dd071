"""Shards: which database a partition's state lies in, and that one process at a time owns it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from framework.log import Log, SystemClock
from framework.state import rows
from framework.state.errors import ShardBusy, StateFailed
from framework.state.shards import SHARDS, Shards
from framework.state.store import Commit, Store

HOLD = """
from framework.state.shards import Shards
log = Log(sys.argv[1])
shards = Shards(log)
shards.own_jobs() if sys.argv[2:] else shards.own_all()
say("owned")
hear()
shards.close()
say("given back")
hear()
"""
WAIT_S = 60.0


@pytest.fixture
def shards_of() -> Iterator[Callable[[Log], Shards]]:
    """Makes shards; closed after the test."""
    made: list[Shards] = []

    def make(log: Log) -> Shards:
        made.append(Shards(log))
        return made[-1]

    yield make
    for shards in made:
        shards.close()


def refused(log: Log, pid: int | None, what: str) -> str:
    """The whole text of a refusal."""
    who = "this process" if pid is None else f"process {pid}"
    return f"{who} owns {what} of {log.path}: a worker is running there. Stop it, or wait for it with --wait SECONDS"


# Which database.


def test_the_state_of_a_partition_lies_in_the_shard_of_its_number_modulo_8(
    data: Path, log: Log, shards_of: Any
) -> None:
    """For ever: another number would leave state behind."""
    shards = shards_of(log)
    assert SHARDS == 8
    for partition in (0, 7, 8, 13, 8_003):
        store: Store = shards.of_partition(partition)
        assert store.path == data / "state" / str(partition % 8)
    assert shards.of_partition(3) is shards.of_partition(11)
    assert shards.of_jobs().path == data / "state" / "jobs"


def test_stores_are_made_when_they_are_first_asked_for(data: Path, log: Log, shards_of: Any) -> None:
    shards = shards_of(log)
    shards.own_all()
    assert shards.open_stores() == []
    assert not (data / "state").exists()
    stores = [shards.of_partition(2), shards.of_jobs()]
    assert shards.open_stores() == stores
    assert sorted(path.name for path in (data / "state").iterdir()) == ["2", "jobs"]


def test_each_database_has_a_producer_of_its_own(log: Log, shards_of: Any) -> None:
    shards = shards_of(log)
    stores = [*map(shards.of_partition, range(SHARDS)), shards.of_jobs()]
    assert len({store.producer_id for store in stores}) == 9


def test_who_writes_a_table_is_known_in_every_shard(log: Log, shards_of: Any) -> None:
    """Also after a restart, from whichever shard holds its row."""
    shards = shards_of(log)
    shards.of_partition(5).commit(Commit([(rows.owner_key("sums"), b"fold")]))
    shards.close()
    shards = shards_of(log)
    first, jobs = shards.of_partition(0), shards.of_jobs()
    shards.of_partition(5)
    assert first.owners == jobs.owners == {"sums": "fold"}
    first.owners["counts"] = "count"
    assert jobs.owners["counts"] == "count"


# Who owns them.


def test_a_second_process_is_refused_and_told_who_owns_the_shards(
    data: Path, log: Log, shards_of: Any, child: Any
) -> None:
    holder = child(HOLD, data)
    assert holder.hear() == "owned"
    with pytest.raises(ShardBusy) as busy:
        shards_of(log).own_all()
    assert str(busy.value) == refused(log, holder.pid, "shard 0")
    assert busy.value.exit_code == 5
    with pytest.raises(ShardBusy) as busy:
        shards_of(log).own_jobs()
    assert str(busy.value) == refused(log, holder.pid, "the jobs")


def test_a_second_owner_in_one_process_is_refused_too(log: Log, open_log: Any, shards_of: Any) -> None:
    """Record locks alone would let it in: they belong to the process."""
    shards = shards_of(log)
    shards.own_all()
    with pytest.raises(ShardBusy) as busy:
        shards_of(open_log()).own_all()
    assert str(busy.value) == refused(log, None, "shard 0")
    shards.close()
    shards_of(log).own_all()


def test_one_who_owns_only_the_jobs_keeps_workers_out(data: Path, log: Log, shards_of: Any, child: Any) -> None:
    """A worker that is refused gives back the shards it had already taken."""
    holder = child(HOLD, data, "jobs")
    assert holder.hear() == "owned"
    shards = shards_of(log)
    with pytest.raises(ShardBusy) as busy:
        shards.own_all()
    assert str(busy.value) == refused(log, holder.pid, "the jobs")
    shards.close()
    holder.kill()
    worker = child(HOLD, data)
    assert worker.hear() == "owned"


def test_one_who_waits_has_them_when_they_are_given_back(data: Path, open_log: Any, shards_of: Any, child: Any) -> None:
    """Its clock lets the owner go when it looks whether it has waited long enough, so it was refused before."""
    looks = 0

    class Waiting(SystemClock):
        def monotonic(self) -> float:
            nonlocal looks
            looks += 1
            if looks == 2:
                holder.say("give back")
            return super().monotonic()

    log = open_log(clock=Waiting())
    holder = child(HOLD, data)
    assert holder.hear() == "owned"
    shards = shards_of(log)
    shards.own_all(WAIT_S)
    assert holder.hear() == "given back"
    assert looks >= 2
    assert shards.of_partition(0).replayed == 0


def test_after_kill_9_of_their_owner_they_are_free_at_once(data: Path, log: Log, shards_of: Any, child: Any) -> None:
    holder = child(HOLD, data)
    assert holder.hear() == "owned"
    holder.kill()
    shards = shards_of(log)
    shards.own_all(0.0)
    assert [shards.of_partition(number).replayed for number in range(SHARDS)] == [0] * SHARDS


def test_an_owner_that_is_stopped_keeps_them(data: Path, log: Log, shards_of: Any, child: Any) -> None:
    """It might go on at any moment: there is no lease that could run out."""
    holder = child(HOLD, data)
    assert holder.hear() == "owned"
    os.kill(holder.pid, signal.SIGSTOP)
    with pytest.raises(ShardBusy) as busy:
        shards_of(log).own_all(0.2)
    assert str(busy.value) == refused(log, holder.pid, "shard 0")
    os.kill(holder.pid, signal.SIGCONT)
    holder.say("give back")
    assert holder.hear() == "given back"
    shards_of(log).own_all()


def test_ownership_outlives_other_users_of_the_directory(data: Path, open_log: Any, shards_of: Any, child: Any) -> None:
    """Closing any descriptor of the lock file would drop the locks, so nobody but the last closes it."""
    log = open_log()
    shards = shards_of(log)
    shards.own_all()
    open_log().close()
    open_log().topics()
    script = """
    from framework.state.shards import *
    try:
        Shards(Log(sys.argv[1])).own_all()
    except ShardBusy as error:
        say(error)
    """
    assert child(script, data).hear() == refused(log, os.getpid(), "shard 0")


def test_one_store_that_fails_to_close_leaves_nothing_open(log: Log) -> None:
    """Its error is raised, but the other stores are closed and all shards are given back."""
    shards = Shards(log)
    shards.own_all()
    stores = [shards.of_partition(number) for number in range(3)]
    closed = []

    def close(number: int) -> None:
        Store.close(stores[number])
        closed.append(number)
        if number != 1:
            raise StateFailed(f"store {number}")

    for number, store in enumerate(stores):
        store.close = partial(close, number)  # type: ignore[method-assign]
    with pytest.raises(StateFailed):
        shards.close()
    assert sorted(closed) == [0, 1, 2]
    shards.close()
    again = Shards(log)
    again.own_all()
    again.close()
