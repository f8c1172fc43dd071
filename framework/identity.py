"""Who the state belongs to: agents and jobs are known by name, and compared with what the app declares at each start.

    name row = {"version": 1, "app", "topic", "topic_id", "partitions", "pending"}
    pending  = {} or what has been begun and is not yet done in all shards:
               {"rename": new name} or {"forget": [tables], "drop": whether their rows go too}

The row of an agent is in shard 0, that of a job in the jobs' database. `Renaming` changes the other shards first and
shard 0 last, each in one step, and says in the row what it is about to do: killed in between it can be done again, and
until it is, no worker starts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from framework.errors import IdentityUnclear
from framework.log import Log, TopicInfo
from framework.log.errors import NewerFormat
from framework.schema import schema_changes
from framework.state import rows
from framework.state.rows import Change
from framework.state.shards import SHARDS, Shards
from framework.state.store import Commit, Store

if TYPE_CHECKING:
    from framework.app import App

VERSION = 1
logger = logging.getLogger("framework.worker")


@dataclass(frozen=True, slots=True)
class Known:
    """What the state remembers of an agent or job."""

    name: str
    app: str
    topic: str
    topic_id: str
    partitions: int
    pending: dict[str, Any] = field(default_factory=dict)

    def change(self) -> Change:
        """The row as a commit writes it."""
        row = {"version": VERSION, **asdict(self)}
        del row["name"]
        return rows.name_key(self.name), orjson.dumps(row)

    @classmethod
    def load(cls, key: bytes, value: bytes) -> Known:
        """The row that was stored.

        Raises:
            NewerFormat: A newer version did.
        """
        name, row = key[1:].decode(), orjson.loads(value)
        if row.pop("version") > VERSION:
            raise NewerFormat(f"what is known of {name!r} has a newer format: upgrade framework-streams")
        return cls(name, **row)


@dataclass(frozen=True, slots=True)
class Traces:
    """What the state holds under a name."""

    offsets: int
    tables: list[str]

    def __str__(self) -> str:
        offsets = f"{self.offsets} committed offset{'s' * (self.offsets != 1)}"
        tables = f", table{'s' * (len(self.tables) != 1)} {', '.join(map(repr, self.tables))}"
        return offsets + tables * bool(self.tables)


def settle(app: App, shards: Shards, accepted_schemas: Iterable[str] = ()) -> None:
    """Compare what *app* declares with what the state knows, and remember what is new; all shards are owned.

    Writes nothing, and so syncs nothing, when nothing is.

    Raises:
        IdentityUnclear: An agent or job may have been renamed; or a topic has other partitions than rows of tables.
        SchemaChanged: What is stored cannot be read as what is declared.
    """
    log, home = app.log, shards.of_partition(0)

    def stores() -> list[Store]:
        return agent_stores(log, shards)

    changes = {home: schema_changes(app, home, lambda: [*stores(), *job_stores(log, shards)], accepted_schemas)}
    if app.agents:
        sources = {agent.name: app.topic_info(agent.source) for agent in app.agents.values()}
        changes[home] += _Names(app.name, "agent", home, stores).changes(sources)
    if app.jobs:
        jobs = shards.of_jobs()
        sources = {job.name: app.topic_info(job.source) for job in app.jobs.values()}
        changes[jobs] = _Names(app.name, "job", jobs, lambda: [jobs]).changes(sources)
    for store, found in changes.items():
        if found:
            store.commit(Commit(found))


class _Names:
    """The names of one kind at a start."""

    def __init__(self, app_name: str, kind: str, home: Store, stores: Callable[[], list[Store]]) -> None:
        """*home* has the rows; *stores* is asked only when it matters what a name stands for."""
        self._app_name, self._kind, self._home, self._stores = app_name, kind, home, stores
        self._known = known_names(home)

    def changes(self, declared: Mapping[str, TopicInfo]) -> list[Change]:
        """What to remember of the *declared* names and their topics.

        Raises:
            IdentityUnclear: One may have been renamed, or has rows that lie elsewhere now.
        """
        for known in self._known.values():
            if known.pending:
                raise IdentityUnclear(
                    f"{self._kind} {known.name!r} is half {'renamed' if 'rename' in known.pending else 'forgotten'} in "
                    f"{self._home.path.parent}: finish it with `{finishing(known)}`"
                )
        gone = [row for row in self._known.values() if row.app == self._app_name and row.name not in declared]
        new = {name: info for name, info in declared.items() if name not in self._known}
        changes = self._forgotten(gone, new) if gone and new else []
        for name, info in declared.items():
            before = self._known.get(name)
            wanted = Known(name, self._app_name, info.name, info.id, info.partitions)
            if before is not None and before != wanted:
                self._compare(before, wanted)
            if before != wanted:
                changes.append(wanted.change())
        return changes

    def _forgotten(self, gone: list[Known], new: Mapping[str, TopicInfo]) -> list[Change]:
        """The rows of those that are *gone* and have left nothing behind.

        Raises:
            IdentityUnclear: One has, which may be meant for one that is *new*.
        """
        traces = {row.name: traces_of(row.name, self._stores()) for row in gone}
        left = [row for row in gone if traces[row.name].offsets or traces[row.name].tables]
        if not left:
            return [(rows.name_key(row.name), None) for row in gone]
        texts = []
        for row in left:
            alike = [name for name, info in new.items() if info.name == row.topic]
            renames = " or ".join(f"`{command('rename', row.name, name)}`" for name in alike or new)
            texts.append(
                f"the state in {self._home.path.parent} knows {self._kind} {row.name!r} of topic {row.topic!r} "
                f"({traces[row.name]}), which app {self._app_name!r} does not declare any more, while "
                f"{', '.join(map(repr, new))} {'is' if len(new) == 1 else 'are'} new. If it was renamed: {renames}. "
                f"If it is gone: `{command('forget', row.name)}`"
            )
        raise IdentityUnclear("\n".join(texts))

    def _compare(self, before: Known, now: Known) -> None:
        if before.partitions != now.partitions and self._kind == "agent":
            stores = self._stores()
            tables = [
                name
                for name in traces_of(now.name, stores).tables
                if any(next(store.database.scan(rows.all_table_prefix(name)), None) for store in stores)
            ]
            if tables:
                raise IdentityUnclear(
                    f"topic {now.topic!r} has {now.partitions} partitions, and agent {now.name!r} made the rows of "
                    f"table {', '.join(map(repr, tables))} when its topic {before.topic!r} had {before.partitions}: "
                    f"keys have moved, and rows have not. Let a job send the records to a new topic, let "
                    f"{now.name!r} read that, and build its tables anew: `{command('forget', now.name)} --tables`"
                )
        if before.topic_id != now.topic_id:
            what = (
                f"topic {now.topic!r} was deleted and made again" if before.topic == now.topic else "its topic changed"
            )
            logger.info("%s %r: %s, so it begins as if it were new; its tables stay", self._kind, now.name, what)


def known_names(home: Store) -> dict[str, Known]:
    """What *home* remembers, by name."""
    found = [Known.load(key, value) for key, value in home.database.scan(b"n")]
    return {known.name: known for known in found}


def traces_of(name: str, stores: Iterable[Store]) -> Traces:
    """What *stores* hold under *name*."""
    offsets, tables = 0, set[str]()
    for store in stores:
        offsets += sum(1 for _ in store.database.scan(rows.offset_prefix(name)))
        tables |= {key[1:].decode() for key, owner in store.database.scan(b"w") if owner == name.encode()}
    return Traces(offsets, sorted(tables))


def agent_stores(log: Log, shards: Shards) -> list[Store]:
    """The stores of all shards there are, shard 0, which is made if need be, last."""
    there = [number for number in range(1, SHARDS) if (log.path / "state" / str(number) / "CURRENT").exists()]
    return [shards.of_partition(number) for number in [*there, 0]]


def job_stores(log: Log, shards: Shards) -> list[Store]:
    """The store of the jobs, if there is one."""
    return [shards.of_jobs()] if (log.path / "state" / "jobs" / "CURRENT").exists() else []


def command(verb: str, *names: str) -> str:
    """How *verb* is done."""
    return f"framework agents {verb} {' '.join(names)} --execute"


def finishing(known: Known) -> str:
    """The command that finishes what is pending."""
    if "rename" in known.pending:
        return command("rename", known.name, known.pending["rename"])
    return command("forget", known.name) + " --tables" * bool(known.pending["drop"])
