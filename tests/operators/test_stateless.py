"""The stateless operators against plain Python: the same values in the same order, and no value taken too early."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.operators.stateless import Step, filtered, flattened, fused, mapped

Kind = tuple[str, Callable[[int], Any]]
KINDS: list[Kind] = [
    ("map", lambda n: n * 3 + 1),
    ("map", lambda n: -n),
    ("filter", lambda n: n % 2),
    ("filter", lambda n: n > 3),
    ("flat_map", lambda n: range(abs(n) % 4)),
    ("flat_map", lambda n: (n, n)),
    ("flat_map", lambda n: iter([n])),
]
STEPS: dict[str, Callable[[Callable[[int], Any]], Step]] = {
    "map": mapped,
    "filter": filtered,
    "flat_map": flattened,
}


def plainly(kinds: Iterable[Kind], values: list[int]) -> list[int]:
    """What the steps make of *values*, a list at a time."""
    for kind, function in kinds:
        if kind == "map":
            values = [function(value) for value in values]
        elif kind == "filter":
            values = [value for value in values if function(value)]
        else:
            values = [part for value in values for part in function(value)]
    return values


@given(st.lists(st.sampled_from(KINDS), max_size=6), st.lists(st.integers(-20, 20), max_size=20))
def test_fused_steps_give_what_plain_python_gives(kinds: list[Kind], values: list[int]) -> None:
    run = fused([STEPS[kind](function) for kind, function in kinds])
    assert list(run(iter(values))) == plainly(kinds, values)


@given(st.lists(st.sampled_from(KINDS), max_size=6), st.lists(st.integers(-20, 20), max_size=20), st.integers(0, 20))
def test_it_does_not_matter_where_the_input_is_cut(kinds: list[Kind], values: list[int], at: int) -> None:
    """A task hands out its records in slices, and a description is used again for each."""
    run = fused([STEPS[kind](function) for kind, function in kinds])
    assert [*run(iter(values[:at])), *run(iter(values[at:]))] == plainly(kinds, values)


def test_a_record_is_taken_only_when_the_one_before_is_handled() -> None:
    """Which record an exception belongs to follows from how many were taken."""
    taken: list[int] = []

    def values() -> Iterator[int]:
        for number in range(4):
            taken.append(number)
            yield number

    steps = [filtered(lambda n: n != 1), flattened(lambda n: [n, n]), mapped(str)]
    seen = [(value, list(taken)) for value in fused(steps)(values())]
    assert seen == [
        *(("0", [0]), ("0", [0])),
        *(("2", [0, 1, 2]), ("2", [0, 1, 2])),
        *(("3", [0, 1, 2, 3]), ("3", [0, 1, 2, 3])),
    ]


def test_an_exception_comes_out_where_it_is_raised_and_ends_the_slice() -> None:
    run = fused([mapped(lambda n: 1 // n), mapped(str)])(iter([1, 0, 1]))
    assert next(run) == "1"
    with pytest.raises(ZeroDivisionError):
        next(run)


def test_no_steps_change_nothing() -> None:
    values = iter([1, 2])
    assert fused([])(values) is values
