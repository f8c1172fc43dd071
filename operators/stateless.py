"""The stateless operators: each turns an iterator of values into another, one value at a time.

They are Python's own lazy iterators, so a chain of them runs in C and takes a record only when the one before it
has been handled: an exception always belongs to the record that was taken last.

>>> run = fused([filtered(lambda n: n % 2), mapped(lambda n: n * 10), flattened(range)])
>>> list(run(iter([0, 1, 2])))
[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

Step = Callable[[Iterator[Any]], Iterator[Any]]


def mapped(function: Callable[[Any], object]) -> Step:
    """Each value becomes what *function* makes of it.

    >>> list(mapped(str.upper)(iter(["a", "b"])))
    ['A', 'B']
    """
    return lambda values: map(function, values)


def filtered(keep: Callable[[Any], object]) -> Step:
    """Only the values of which *keep* is true.

    >>> list(filtered(str.isdigit)(iter(["1", "x", "2"])))
    ['1', '2']
    """
    return lambda values: filter(keep, values)


def flattened(function: Callable[[Any], Iterable[Any]]) -> Step:
    """Each value becomes the values that *function* makes of it, none or many.

    >>> list(flattened(str.split)(iter(["a b", "", "c"])))
    ['a', 'b', 'c']
    """
    return lambda values: chain.from_iterable(map(function, values))


@dataclass(frozen=True, slots=True)
class Numbered:
    """A step that counts from *start* through all slices of one loop, and anew in the next loop."""

    start: int

    def __call__(self, values: Iterator[Any]) -> Iterator[Any]:
        """Count those of *values* alone."""
        return self.begin()(values)

    def begin(self) -> Step:
        """The step for one loop."""
        numbers = count(self.start)
        # Not `zip`, which would take a number for the value that does not come at the end of a slice.
        return mapped(lambda value: (next(numbers), value))


def numbered(start: int) -> Step:
    """Each value with its number, counted from *start*.

    >>> list(numbered(1)(iter(["a", "b"])))
    [(1, 'a'), (2, 'b')]
    """
    return Numbered(start)


def fused(steps: Sequence[Step]) -> Step:
    """One step that does *steps* in order, for one loop: what counts begins here."""
    begun = [step.begin() if isinstance(step, Numbered) else step for step in steps]

    def run(values: Iterator[Any]) -> Iterator[Any]:
        for step in begun:
            values = step(values)
        return values

    return run
