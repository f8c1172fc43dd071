"""Kafka's clients do with the broker what the matrix says that they do; each is a process of its own, and so is it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.clients import CLIENTS
from tests.interop.matrix import PLACE, read
from tests.interop.running import outcomes
from tests.interop.stage import Served, serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One broker for all clients; topics and groups are named after client and scenario."""
    with serving(tmp_path_factory.mktemp("served")) as broker:
        yield broker


@pytest.mark.parametrize("name", CLIENTS)
async def test_a_client_does_what_the_matrix_says(name: str, served: Served) -> None:
    client = CLIENTS[name]
    if reason := client.missing():
        pytest.skip(reason)
    found = await outcomes(client, served)
    failed = [f"{scenario}: {outcome.why}" for scenario, outcome in found.items() if outcome.word == "failed"]
    assert not failed, "\n".join(failed)
    expected = read(PLACE)[name]
    assert {scenario: outcome.word for scenario, outcome in found.items()} == expected, (
        f"{PLACE.name} says otherwise; `python -m tests.interop.matrix` writes it anew"
    )
