"""What is encoded and held, as outputs are until a commit and rows as long as they are cached."""

from __future__ import annotations

import sys
import tracemalloc
from typing import Any

import pytest

from framework.serdes import key_serde_of, serde_of


@pytest.mark.parametrize("serde", [serde_of(dict), serde_of(Any), key_serde_of(dict)], ids=lambda serde: serde.name)
def test_what_is_encoded_takes_no_more_memory_than_it_has_bytes(serde: Any) -> None:
    # Of the compiled encoder each result keeps 4 kB, and a transaction or a table holds many.
    tracemalloc.start()
    try:
        held = [serde.dump({"key": "a", "note": "x" * 40}) for _ in range(1000)]
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 2 * sum(map(sys.getsizeof, held))
