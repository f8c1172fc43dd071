"""What a stream reads from, as the stream knows it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from framework.slice import Slice

if TYPE_CHECKING:
    from framework.stream import Stage


class Source(Protocol):
    """Where a stream's values come from: a task."""

    def slices(
        self,
        *,
        as_records: bool,
        deadline: Callable[[], float | None],
        checked: bool = True,
    ) -> AsyncGenerator[Iterator[Any], None]:
        """Iterators over a few values each, empty ones when *deadline* passes.

        Unless *checked* the caller has to look whether each value is of `kind`.
        """

    @property
    def kind(self) -> type | None:
        """The one type that values may be of, None if that takes more than a look."""

    def grouped(self, stages: Sequence[Stage]) -> None:
        """A loop begins over what comes out of the last of *stages*, or if there are none, of the topic."""

    @property
    def taken(self) -> Slice:
        """The slice whose values `slices` gave last."""

    def now(self) -> float:
        """Seconds on the clock that *deadline* is measured by."""

    def hold(self, *, effects: bool) -> bool:
        """Let no commit pass the record being handled; False if a part of it has been handed on already.

        With *effects* there may be some before `release`, so there is no commit at all until then.
        """

    def release(self) -> None:
        """The list that `hold` began has been handled."""

    def skip_undecodable(self) -> bool:
        """Whether it was decoding that failed; the record in hand is then a dead letter, and its slice over."""

    @property
    def isolating(self) -> bool:
        """Whether records come one by one, to find the one that fails."""
