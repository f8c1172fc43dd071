"""A broker killed with SIGKILL at random, again and again, while real clients of several kinds use it.

Nothing acknowledged is lost, idempotent producers have nothing twice, no offset ever names two records, readers see
prefixes, and groups miss nothing: `client_judge` says so from what each client has written down. With
FRAMEWORK_TORTURE=1 there are many more rounds.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.broker_run import Round
from tests.faults.log_power import TORTURE, in_memory

SECONDS, ROUNDS = (12.0, 20) if TORTURE else (10.0, 1)

pytestmark = pytest.mark.slow


def test_a_broker_that_is_killed_keeps_its_word(seed: int, report: Callable[[str], None]) -> None:
    total = Counter[str]()
    for number in range(ROUNDS):
        with tempfile.TemporaryDirectory(prefix="framework-broker-", dir=in_memory()) as folder:
            print(f"round {number}, seed {seed + number}")
            with Round(Path(folder), seed + number) as around:
                around.run(SECONDS)
                around.finish()
                total += around.judge()
    report(
        f"{ROUNDS} rounds from seed {seed}: " + ", ".join(f"{name}: {count}" for name, count in sorted(total.items()))
    )
    assert total["kills of the broker"] > ROUNDS
