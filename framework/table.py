"""Tables: keyed state that is committed with the offsets that made it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, Generic, cast

from pydantic import BaseModel
from typing_extensions import TypeVar

from framework.effects import Effects, current
from framework.serdes import Serde, key_serde_of, serde_of, upgrading
from framework.view import DELETED, IMMUTABLE, View

if TYPE_CHECKING:
    from framework.app import App
    from framework.committed import CommittedTable

V = TypeVar("V")
K = TypeVar("K", default=str)
effects_of_task = current.get
"""Looked up once, for what each access to a row does."""


class Table(MutableMapping[K, V], Generic[V, K]):
    """A mapping from key to value, a row in the partition its key belongs to.

    Inside an agent it is read and written, and everything counts as of the record being handled; values changed
    in place are noticed. A missing key gives the default, and stores it only if it was changed. Elsewhere it
    shows the committed rows and takes no writes.
    """

    _last: tuple[Effects | None, Any] = (None, None)
    """Who used it last, and its view: one tuple, because a job in a thread may use the table in between."""

    def __init__(
        self,
        app: App,
        name: str,
        default: Callable[[], V],
        key_type: type[Any],
        upgrade: Callable[[Any], Any] | None = None,
    ) -> None:
        """Use `App.table`."""
        self.name, self.default, self._app = name, default, app
        self.ttl_ms = 0
        """How long after it was written a row is there; 0 for ever."""
        sample = default()
        self.serde: Serde[V] = upgrading(serde_of(_stored_type(default, sample)), upgrade, f"table {name!r}")
        self.key_serde: Serde[K] = key_serde_of(key_type)
        self.default_bytes = self.serde.encode(sample)
        self.tracked = type(sample) not in IMMUTABLE

    @property
    def committed(self) -> CommittedTable:
        """The rows as of the last commit, in all partitions."""
        return self._app.committed(self)

    def view(self, effects: Effects) -> View:
        """The rows as the task of *effects* sees them."""
        name = effects.stored_as(self)
        return View(self, effects.store, effects.owner, effects.partition, effects.partitions, name=name)

    @property
    def partitions(self) -> int | None:
        """Over how many partitions the rows are spread; None where only the state knows who writes them."""
        return None

    def partitions_under(self, owner: str) -> int:
        """Over how many partitions the rows are spread when *owner* writes them; 0 if it is a job."""
        agent = self._app.agents.get(owner)
        return self.committed.partitions if agent is None else self._app.topic_info(agent.source).partitions

    def __getitem__(self, key: K, /) -> V:
        effects = effects_of_task()
        if effects is None:
            return cast(V, self.committed.get(key))
        used_by, view = self._last
        if used_by is not effects:
            view = self._view_of(effects)
        value: V = view.touched.get(key, DELETED)
        return cast(V, view.read(key)) if value is DELETED else value

    def __setitem__(self, key: K, value: V, /) -> None:
        effects = effects_of_task()
        if effects is None:
            raise TypeError(f"table {self.name!r} is written by its agent only; send it a record instead")
        used_by, view = self._last
        if used_by is not effects:
            view = self._view_of(effects)
        touched = view.touched
        # A row that has been set since the last commit has been checked.
        if key not in touched or view.tracked:
            view.check_write(key)
        touched[key] = value

    def _view_of(self, effects: Effects) -> View:
        """The view of *effects*, remembered: mostly one task makes many accesses in a row."""
        view = effects.views[self]
        self._last = (effects, view)
        if effects.views.closed:
            self.forget(effects)  # That was a moment ago, in another thread.
        return view

    def forget(self, effects: Effects) -> None:
        """Remember the view of *effects* no longer: they are closed, and refuse from now on."""
        if self._last[0] is effects:
            self._last = (None, None)

    def __delitem__(self, key: K, /) -> None:
        effects = current.get()
        if effects is None:
            raise TypeError(f"table {self.name!r} is written by its agent only; send it a record instead")
        effects.views[self].delete(key)

    def __contains__(self, key: object) -> bool:
        effects = current.get()
        return self.committed.has(key) if effects is None else effects.views[self].has(key)

    def __iter__(self) -> Iterator[K]:
        effects = current.get()
        return self.committed.keys() if effects is None else effects.views[self].keys()

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def range(self, start: K | None = None, end: K | None = None, *, prefix: K | None = None) -> Iterator[tuple[K, V]]:
        """The rows from key *start* on, up to and without *end*, or those whose key begins with *prefix*; sorted.

        The order is that of the keys' bytes: for `str` by code points, for other types that of their JSON, in which
        10 comes before 9. Inside an agent these are the rows of its partition, with what it has
        changed so far; elsewhere the committed ones of all partitions. Rows may be changed meanwhile.

        Raises:
            TypeError: There is a *prefix*, but the keys are neither `str` nor `bytes`, or it comes with a bound.
        """
        low, high = self._bounds(start, end, prefix)
        effects = current.get()
        if effects is None:
            return self.committed.items_between(low, high)
        keys = effects.views[self].keys_between(low, high)
        return ((key, self[key]) for key in keys if key in self)

    def _bounds(self, start: K | None, end: K | None, prefix: K | None) -> tuple[bytes, bytes | None]:
        encode = self.key_serde.encode
        if prefix is None:
            return b"" if start is None else encode(start), None if end is None else encode(end)
        if self.key_serde.name not in ("str", "bytes"):
            raise TypeError(f"table {self.name!r} has keys of type {self.key_serde.name}, which have no prefix")
        if start is not None or end is not None:
            raise TypeError(f"table {self.name!r}: a range has a prefix or bounds, not both")
        low = encode(prefix)
        # The first bytes behind all that begin so: the last byte that can grow, grown.
        head = low.rstrip(b"\xff")
        return low, head[:-1] + bytes([head[-1] + 1]) if head else None

    def get(self, key: K, default: Any = None, /) -> Any:
        """The row of *key* if it is stored, else *default*."""
        return self[key] if key in self else default

    def setdefault(self, key: K, default: Any = None, /) -> Any:
        """The row of *key*; if none is stored, *default* becomes it."""
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: K, /, *default: Any) -> Any:
        """Remove the row of *key* and return it; if none is stored, *default*.

        Raises:
            KeyError: None is stored, and there is no *default*.
        """
        if key not in self and default:
            return default[0]
        value = self[key]
        del self[key]
        return value

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<Table {self.name!r} of {self.serde.name}>"


def _stored_type(default: Callable[[], Any], sample: Any) -> Any:
    """The type by which rows are stored: the default's own, if that says enough."""
    if isinstance(default, type) and issubclass(default, BaseModel):
        return default
    if isinstance(sample, BaseModel):
        return type(sample)
    # What JSON gives back as it was; a Counter or a set would come back as a dict or not at all.
    return Any if type(sample) in (dict, list, int, bool, type(None)) else type(sample)
