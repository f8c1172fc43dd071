"""Renaming and forgetting agents and jobs: what `framework agents rename` and `forget` do.

Every row that hangs on a name is changed: committed offsets, who writes which table, a job's runs. Producer rows are
never touched, or what is sent next would be taken for duplicates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from framework.errors import IdentityUnclear
from framework.identity import Known, Traces, agent_stores, command, finishing, job_stores, known_names, traces_of
from framework.jobs.runs import RunRow
from framework.log import Log
from framework.log.errors import Conflict, NotFound
from framework.state import rows
from framework.state.rows import Change
from framework.state.shards import Shards
from framework.state.store import Commit, Store

DROPPED_AT_ONCE = 10_000
"""How many rows of a table go in one step."""


class Renaming:
    """What the state holds under one name, about to be moved or removed; this process owns all shards.

    Each shard is changed in one step, the one with the name's own row last. That row says first what is going on, so
    that it can be done again after a kill in between.
    """

    def __init__(self, log: Log, shards: Shards, name: str) -> None:
        """Looks *name* up, and changes nothing.

        Raises:
            NotFound: The state knows no agent or job of this name.
        """
        self._log = log
        agents, jobs = agent_stores(log, shards), job_stores(log, shards)
        by_kind = {"agent": agents, "job": jobs}
        names = {kind: _names(stores) for kind, stores in by_kind.items()}
        found = [kind for kind in by_kind if name in names[kind]]
        if not found:
            there = sorted({*names["agent"], *names["job"]})
            raise NotFound(
                f"the state in {log.path} knows no agent or job {name!r}; it knows {', '.join(there) or 'none'}"
            )
        self._taken = {*names["agent"], *names["job"]}
        self.kind = found[0]
        self._stores = by_kind[self.kind]
        self._home = self._stores[-1]
        self.known = names[self.kind][name]
        prefix = f"{self.known.app}.{name}."
        self._between = [topic for topic in log.topics() if topic.startswith(prefix) and topic.endswith(".repartition")]
        """The topics between its stages, if it has a `group_by`."""
        self.traces: Traces = traces_of(name, self._stores)
        """What there is still to be changed."""

    def check_free(self, new: str) -> None:
        """Whether it can be renamed to *new*.

        Raises:
            Conflict: The state knows somebody of that name.
            IdentityUnclear: It is being forgotten, or renamed to another name.
        """
        if self._between:
            raise Conflict(
                f"{self.known.name!r} cannot be renamed: topic {self._between[0]!r} between its stages is named after "
                "it, and may hold records that it has not handled. Give the agent name= with the old name"
            )
        pending = self.known.pending
        if pending and pending != {"rename": new}:
            raise self._pending()
        # What is there under the new name in the middle of renaming is what has been moved.
        if not pending and new in self._taken:
            raise Conflict(
                f"the state in {self._log.path} knows {new!r}, too: forget it first, with `{command('forget', new)}`"
            )

    def rename(self, new: str) -> None:
        """Move everything to the name *new*.

        Raises:
            Conflict, IdentityUnclear: See `check_free`.
            StateFailed: A shard could not be written; do it again.
        """
        self.check_free(new)
        self._begin({"rename": new})
        for store in self._stores:
            changes = list(self._renamed(store, new))
            if store is self._home:
                changes.append((rows.name_key(self.known.name), None))
                if self.known.topic_id:
                    changes.append(replace(self.known, name=new, pending={}).change())
            _commit(store, changes)

    def forget(self, *, drop_tables: bool) -> None:
        """Remove offsets, runs and the ownership of tables; with *drop_tables* their rows, too.

        Raises:
            IdentityUnclear: It is being renamed.
            StateFailed: A shard could not be written; do it again.
        """
        before = self.known.pending
        if "rename" in before:
            raise self._pending()
        # Who wrote which table is not known any more to whoever does this again.
        tables = sorted({*self.traces.tables, *before.get("forget", ())})
        drop_tables = drop_tables or bool(before.get("drop"))
        self._begin({"forget": tables, "drop": drop_tables})
        for store in self._stores:
            for table in tables if drop_tables else ():
                _drop(store, table)
            changes: list[Change] = [(key, None) for key, _ in [*self._hanging(store), *self._of_stages(store)]]
            if store is self._home:
                changes.append((rows.name_key(self.known.name), None))
            _commit(store, changes)
        for topic in self._between:
            self._log.delete_topic(topic)

    def _of_stages(self, store: Store) -> Iterator[tuple[bytes, bytes]]:
        """The rows of *store* that say how far the stages before a `group_by` are."""
        for topic in self._between:
            stage = topic.removeprefix(f"{self.known.app}.").removesuffix(".repartition")
            for prefix in rows.task_rows(stage):
                yield from store.database.scan(prefix)

    def _begin(self, pending: dict[str, Any]) -> None:
        if self.known.pending != pending:
            self.known = replace(self.known, pending=pending)
            self._home.commit(Commit([self.known.change()]))

    def _pending(self) -> IdentityUnclear:
        return IdentityUnclear(
            f"something else has been begun with {self.known.name!r}: finish it with `{finishing(self.known)}`"
        )

    def _hanging(self, store: Store) -> Iterator[tuple[bytes, bytes]]:
        """The rows of *store* that hang on the name."""
        name, database = self.known.name, store.database
        for prefix in rows.task_rows(name):
            yield from database.scan(prefix)
        if database.get(rows.sender_key(name)) is not None:
            yield rows.sender_key(name), b""
        yield from ((key, owner) for key, owner in database.scan(b"w") if owner == name.encode())
        if self.kind == "job":
            yield from database.scan(rows.run_prefix(name))
            fired = database.get(rows.meta_key(f"job {name}"))
            if fired is not None:
                yield rows.meta_key(f"job {name}"), fired

    def _renamed(self, store: Store, new: str) -> Iterator[Change]:
        for key, value in self._hanging(store):
            kind = key[:1]
            if kind == b"w":
                yield key, new.encode()
                continue
            yield key, None
            if kind == b"q":
                yield rows.sender_key(new), value
            elif kind in (b"o", b"p", b"c"):
                yield kind + new.encode() + key[1 + len(self.known.name.encode()) :], value
            elif kind == b"r":
                yield replace(RunRow.load(value), job=new).change()
            else:
                yield rows.meta_key(f"job {new}"), value


def _names(stores: list[Store]) -> dict[str, Known]:
    """Everybody whom *stores* know, the last of which has the names' own rows."""
    if not stores:
        return {}
    found: dict[str, Known] = {}
    for store in stores:
        for key, _ in store.database.scan(b"o"):
            name = rows.split_offset_key(key)[0]
            found.setdefault(name, Known(name, "", "", "", 0))
    return found | known_names(stores[-1])


def _drop(store: Store, table: str) -> None:
    while keys := [key for key, _ in islice(store.database.scan(rows.all_table_prefix(table)), DROPPED_AT_ONCE)]:
        store.commit(Commit([(key, None) for key in keys]))


def _commit(store: Store, changes: list[Change]) -> None:
    if changes:
        store.commit(Commit(changes))
