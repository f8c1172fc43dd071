"""An agent against a fold: sent, handled, failed, killed, rewound, and started with old state, in any order.

Whenever everything has been handled, the table is the fold of the records that did not fail, each of them was sent on
once, in the order of its key, and each that failed is a dead letter: once, and once more for every rewind behind it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from framework import commit
from framework.log import Log
from framework.rewind import Rewind, ToPlace
from framework.state.errors import StateBehind
from framework.state.shards import Shards
from tests.faults.log_power import TORTURE, in_memory
from tests.faults.turns import SCALE, Book
from tests.framework.conftest import Shop

RECORDS = st.lists(
    st.tuples(st.integers(0, SCALE - 1), st.sampled_from(["handled"] * 6 + ["fails once", "fails"])),
    min_size=1,
    max_size=20,
)


class ExactlyOnceMachine(RuleBasedStateMachine):
    """One agent on a data directory, and what has to come out of it."""

    @initialize()
    def begin(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(commit, "COMMIT_INTERVAL_S", 0.001)
        self.patch.setattr(commit, "MAX_COMMIT_INTERVAL_S", 0.001)
        self.place = Path(tempfile.mkdtemp(prefix="framework-exactly-", dir=in_memory()))
        self.book = Book(Shop(self.place / "data"))
        self.state, self.copy, self.newer = (self.place / name for name in ("data/state", "copy", "newer"))
        self.letters: Counter[int] = Counter()
        self.count = 0
        self.has_run = False

    def teardown(self) -> None:
        if hasattr(self, "place"):
            try:
                self.run()
            finally:
                self.patch.undo()
                shutil.rmtree(self.place)

    @rule(records=RECORDS)
    def send(self, records: list[tuple[int, str]]) -> None:
        values = []
        for amount, fate in records:
            value = self.count * SCALE + amount
            values.append(value)
            self.count += 1
            if fate == "fails":
                self.book.failing.add(value)
                self.letters[value] = 1
            elif fate == "fails once":
                self.book.failing_once.add(value)
        self.book.shop.send(self.book.source, values)

    @rule()
    def run(self) -> None:
        self.book.run()
        self.has_run = True
        self.book.check(self.letters)

    @rule(moment=st.integers(20, 100), amount=st.integers(0, SCALE - 31))
    def crash(self, moment: int, amount: int) -> None:
        """With enough to do that the worker is in the middle of it."""
        self.send([(amount + number, "handled") for number in range(30)])
        self.book.run_until((moment, "kill"))

    @precondition(lambda self: self.has_run)
    @rule()
    def rewind(self) -> None:
        """To the beginning, with an empty table; what was sent is not sent again, but letters are."""
        with Log(self.place / "data") as log:
            shards = Shards(log)
            shards.own_all()
            try:
                steps = Rewind(log, "add", ToPlace("beginning", empty=True), "drop").execute(shards)
            finally:
                shards.close()
        committed = {step.partition.number: step.committed for step in steps}
        with self.book.build().opened():
            for record in self.book.source.read().records():
                if record.value in self.book.failing and record.offset < committed[record.partition]:
                    self.letters[record.value] += 1

    @rule()
    def keep_a_copy(self) -> None:
        self.run()
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.state, self.copy)

    @precondition(lambda self: self.copy.exists())
    @rule()
    def restore_the_copy(self) -> None:
        """Refused, as the log has what the old state would send again; with the newer state all is well."""
        self.send([(1, "handled")])
        self.run()
        self.state.rename(self.newer)
        shutil.copytree(self.copy, self.state)
        before = self.sent()
        with pytest.raises(StateBehind):
            self.book.run()
        assert self.sent() == before
        shutil.rmtree(self.state)
        self.newer.rename(self.state)

    def sent(self) -> int:
        """How many records the agent has sent."""
        return len(self.book.shop.values(self.book.out))


TestExactlyOnce = ExactlyOnceMachine.TestCase
TestExactlyOnce.settings = settings(
    max_examples=500 if TORTURE else 12,
    stateful_step_count=30 if TORTURE else 12,
    suppress_health_check=list(HealthCheck),
)
