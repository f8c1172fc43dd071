"""Agents and jobs are known by name: what happens when names change, and how they are changed in the state."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from framework import App, Batch, Stream, Table, Topic
from framework.errors import IdentityUnclear
from framework.identity import known_names
from framework.jobs.runner import JobRunner
from framework.log import Log
from framework.log.errors import Conflict, NotFound
from framework.renaming import Renaming
from framework.state import rows
from framework.state.database import Database
from framework.state.shards import SHARDS, Shards

if TYPE_CHECKING:
    from tests.framework.conftest import Shop

NAMES = [f"name {number}" for number in range(40)]


def counter(shop: Shop, name: str, table: str = "counts") -> tuple[App, Topic[str], Table[int]]:
    """An app with one agent, which counts."""
    app = shop.app()
    names = app.topic("names", str, key=lambda value: value, partitions=9)
    counts = app.table(table, int)

    @app.agent(names, name=name)
    async def count(stream: Stream[str]) -> None:
        async for value in stream:
            counts[value] += 1

    return app, names, counts


async def counted(shop: Shop) -> None:
    """The agent `old` has counted all names once."""
    app, names, _ = counter(shop, "old")
    shop.send(names, NAMES)
    await shop.run(app)


@contextmanager
def renaming(shop: Shop, name: str, open_database: Any = Database) -> Iterator[Renaming]:
    """What the state holds under *name*."""
    with Log(shop.data) as log:
        shards = Shards(log, open_database=open_database)
        try:
            shards.own_all()
            yield Renaming(log, shards, name)
        finally:
            shards.close()


def state(shop: Shop, prefix: bytes) -> dict[bytes, bytes]:
    """The rows of all shards whose keys begin so."""
    found: dict[bytes, bytes] = {}
    for number in range(SHARDS):
        database = Database(shop.data / "state" / str(number))
        found |= dict(database.scan(prefix))
        database.close()
    return found


async def test_a_worker_stops_where_an_agent_may_have_been_renamed(shop: Shop) -> None:
    await counted(shop)
    app, _, _ = counter(shop, "new")
    with pytest.raises(IdentityUnclear) as refused:
        await shop.run(app)
    text = str(refused.value)
    assert "knows agent 'old' of topic 'names' (9 committed offsets, table 'counts')" in text
    assert "which app 'shop' does not declare any more, while 'new' is new" in text
    assert "`framework agents rename old new --execute`" in text
    assert "`framework agents forget old --execute`" in text
    assert known_in(shop) == {"old"}


def known_in(shop: Shop) -> set[str]:
    return {key[1:].decode() for key in state(shop, b"n")}


async def test_agents_come_and_go_one_at_a_time(shop: Shop) -> None:
    await counted(shop)
    first, _, _ = counter(shop, "old")

    @first.agent(first.topics["names"], name="more")
    def more(name: str) -> None: ...

    await shop.run(first)
    await shop.run(counter(shop, "old")[0])
    await shop.run(counter(shop, "old")[0])
    assert known_in(shop) == {"old", "more"}


async def test_an_agent_of_another_app_is_not_missed(shop: Shop) -> None:
    await counted(shop)
    other = shop.app("other")

    @other.agent(other.topic("names", str), name="look")
    def look(name: str) -> None: ...

    await shop.run(other)
    await shop.run(counter(shop, "old")[0])


async def test_an_agent_that_has_left_nothing_is_forgotten(shop: Shop) -> None:
    await counted(shop)
    database = Database(shop.data / "state" / "0")
    known = known_names_of(database)["old"]
    database.write([(rows.name_key("never"), known.change()[1])])
    database.close()
    app, _, _ = counter(shop, "old")

    @app.agent(app.topics["names"], name="more")
    def more(name: str) -> None: ...

    await shop.run(app)
    assert known_in(shop) == {"old", "more"}


def known_names_of(database: Database) -> Any:
    class Home:
        def __init__(self) -> None:
            self.database = database

    home: Any = Home()
    return known_names(home)


async def test_a_renamed_agent_goes_on(shop: Shop) -> None:
    await counted(shop)
    before = state(shop, b"s")
    with renaming(shop, "old") as found:
        assert (found.kind, str(found.traces)) == ("agent", "9 committed offsets, table 'counts'")
        found.rename("new")
    app, names, counts = counter(shop, "new")
    shop.send(names, NAMES[:2])
    worker = await shop.run(app)
    assert worker.progress.records == 2
    assert shop.rows(counts) == dict.fromkeys(NAMES, 1) | dict.fromkeys(NAMES[:2], 2)
    assert state(shop, b"s") == before
    assert known_in(shop) == {"new"}
    assert set(state(shop, b"w").values()) == {b"new"}


async def test_a_forgotten_agent_begins_anew_without_its_rows(shop: Shop) -> None:
    await counted(shop)
    with renaming(shop, "old") as found:
        found.forget(drop_tables=True)
    assert not state(shop, b"o") | state(shop, b"w") | state(shop, b"t") | state(shop, b"n")
    app, _, counts = counter(shop, "new")
    await shop.run(app)
    assert shop.rows(counts) == dict.fromkeys(NAMES, 1)


async def test_a_forgotten_agents_rows_stay_for_who_writes_next(shop: Shop) -> None:
    await counted(shop)
    rows_before = state(shop, b"t")
    with renaming(shop, "old") as found:
        found.forget(drop_tables=False)
    assert state(shop, b"t") == rows_before
    app, _, counts = counter(shop, "new")
    await shop.run(app)
    assert shop.rows(counts) == dict.fromkeys(NAMES, 2)


class Killed(BaseException):
    """Stands for the end of the process."""


def dying_after(writes: int) -> Any:
    """A database whose process is killed after so many writes, of all databases."""
    left = [writes]

    class Dying(Database):
        def write(self, changes: Any) -> None:
            if not left[0]:
                raise Killed
            left[0] -= 1
            super().write(changes)

    return Dying


@pytest.mark.parametrize("verb", ["rename", "forget", "forget --tables"])
async def test_a_kill_in_the_middle_is_finished_by_doing_it_again(shop: Shop, verb: str) -> None:
    """At every write; in between no worker starts, whatever it declares."""
    await counted(shop)

    def do(found: Renaming) -> None:
        if verb == "rename":
            found.rename("new")
        else:
            found.forget(drop_tables=verb.endswith("tables"))

    halves = 0
    for _ in range(30):
        try:
            # It gets one write further each time: what was done before is not done again.
            with renaming(shop, "old", dying_after(1)) as found:
                do(found)
            break
        except Killed:
            halves += 1
        for declared in ("old", "new"):
            app, _, _ = counter(shop, declared)
            with pytest.raises(IdentityUnclear, match=f"finish it with `framework agents {verb.split()[0]} old"):
                await shop.run(app)
    assert halves == {"rename": 8, "forget": 8, "forget --tables": 16}[verb]
    if verb == "rename":
        assert (known_in(shop), set(state(shop, b"w").values())) == ({"new"}, {b"new"})
        assert {rows.split_offset_key(key)[0] for key in state(shop, b"o")} == {"new"}
    else:
        assert not state(shop, b"o") | state(shop, b"w") | state(shop, b"n")
        assert bool(state(shop, b"t")) == (verb == "forget")


async def test_what_is_begun_is_finished_before_anything_else(shop: Shop) -> None:
    await counted(shop)
    with pytest.raises(Killed), renaming(shop, "old", dying_after(2)) as found:
        found.rename("new")
    with renaming(shop, "old") as found:
        with pytest.raises(IdentityUnclear, match="finish it with `framework agents rename old new --execute`"):
            found.rename("other")
        with pytest.raises(IdentityUnclear, match="finish it with `framework agents rename old new --execute`"):
            found.forget(drop_tables=False)


async def test_names_that_are_unknown_or_taken_are_refused(shop: Shop) -> None:
    await counted(shop)
    app, _, _ = counter(shop, "old")

    @app.agent(app.topics["names"], name="more")
    def more(name: str) -> None: ...

    await shop.run(app)
    with renaming(shop, "old") as found, pytest.raises(Conflict, match="knows 'more', too: forget it first"):
        found.rename("more")
    with pytest.raises(NotFound, match="knows no agent or job 'odd'; it knows more, old"), renaming(shop, "odd"):
        pass


async def test_jobs_are_renamed_with_their_history(shop: Shop) -> None:
    def app_with(job: str) -> App:
        app = shop.app()

        @app.job(app.topic("names", str), schedule="@daily", name=job)
        def look(batch: Batch[str]) -> None:
            list(batch)

        return app

    first = app_with("nightly")
    shop.send(first.topics["names"], NAMES)
    await shop.run(first)
    run_job(app_with("nightly"), "nightly")
    with pytest.raises(IdentityUnclear, match="knows job 'nightly' of topic 'names'"):
        await shop.run(app_with("daily"))
    with renaming(shop, "nightly") as found:
        assert found.kind == "job"
        found.rename("daily")
    renamed = app_with("daily")
    assert [row.records for row in run_job(renamed, "daily")] == [len(NAMES), 0]
    await shop.run(renamed)
    with renaming(shop, "daily") as found:
        found.forget(drop_tables=False)
    again = app_with("weekly")
    assert [row.records for row in run_job(again, "weekly")] == [len(NAMES)]
    await shop.run(again)


def run_job(app: App, name: str) -> Any:
    """Run a job once, and its history then."""
    with app.opened():
        shards = Shards(app.log)
        shards.own_jobs()
        runner, job = JobRunner(app, shards.of_jobs()), app.jobs[name]
        thread = threading.Thread(target=lambda: asyncio.run(_run(runner, job)))
        thread.start()
        thread.join()
        history = runner.history(job)
        shards.close()
        return history


async def _run(runner: Any, job: Any) -> None:
    await runner.run(job, runner._now(), trigger="manual")


async def test_an_agent_says_when_its_topic_was_made_anew(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    await counted(shop)
    app, names, _ = counter(shop, "old")
    with app.opened():
        app.log.delete_topic("names")
        names.send("one")
    with caplog.at_level(logging.INFO, "framework.worker"):
        await shop.run(app)
    [said] = [text for text in caplog.messages if "made again" in text]
    assert said.startswith("agent 'old': topic 'names' was deleted and made again, so it begins as if it were new")
