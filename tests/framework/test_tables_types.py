"""What a table's rows may be of: whatever its default is, as long as it can be stored and read again."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.framework.conftest import Shop


@pytest.mark.parametrize(
    ("default", "change"),
    [
        (Counter, lambda value: value.update("aab")),
        (set, lambda value: value.add(1)),
        (deque, lambda value: value.append(1)),
        (lambda: (0, 0), lambda value: None),
    ],
)
async def test_what_is_more_than_json_comes_back_as_it_was(
    shop: Shop, default: Callable[[], Any], change: Callable[[Any], None]
) -> None:
    """A Counter once came back as a dict, which raised for a key that was not counted yet."""
    app = shop.app()
    words = app.topic("words", str, key=lambda word: word)
    kept = app.table("kept", default)

    @app.agent(words)
    def keep(word: str) -> None:
        value = kept[word]
        change(value)
        kept[word] = value

    shop.send(words, "aa")
    await shop.run(app)
    expected = default()
    change(expected)
    change(expected)
    [found] = shop.rows(kept).values()
    assert (type(found), found) == (type(expected), expected)
