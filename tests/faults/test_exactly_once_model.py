"""An agent against a fold: sent, handled, failed, killed, rewound, and started with old state, in any order.

Whenever everything has been handled, the tables are the fold of the records that did not fail, each of them was sent on
once, in the order of its key, and each that failed is skipped, or is a dead letter: once, and once more for every
rewind behind it. Workers run in a loop without threads whose time passes by callbacks, so that the same steps come to
the same end; only the log has a thread, which workers wait for where they stand.
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

from framework import checkpointing, commit
from framework import worker as worker_module
from framework.log import Log
from framework.retry import Then
from framework.rewind import Rewind, Target, ToCheckpoint, ToPlace
from framework.state.checkpoints import Checkpoints
from framework.state.errors import StateBehind
from framework.state.shards import Shards
from tests.faults.log_power import TORTURE, in_memory
from tests.faults.still_loop import CALLBACK_S, InlineExecutor, StillLoop
from tests.faults.turns import PARTITIONS, SCALE, Book
from tests.framework.conftest import Shop

RECORDS = st.lists(
    st.tuples(st.integers(0, SCALE - 1), st.sampled_from(["handled"] * 6 + ["fails once", "fails"])),
    min_size=1,
    max_size=20,
)
NEVER_S = 1e9


class ExactlyOnceMachine(RuleBasedStateMachine):
    """One agent on a data directory, and what has to come out of it."""

    @initialize(callbacks=st.sampled_from([1, 10, 40]), then=st.sampled_from(["dead-letter", "skip"]))
    def begin(self, callbacks: int, then: Then) -> None:
        """With a commit every so many *callbacks*, and no checkpoint but where the machine makes one."""
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(commit, "COMMIT_INTERVAL_S", callbacks * CALLBACK_S)
        self.patch.setattr(commit, "MAX_COMMIT_INTERVAL_S", callbacks * CALLBACK_S)
        self.patch.setattr(checkpointing, "POLL_S", NEVER_S)
        self.patch.setattr(worker_module, "ThreadPoolExecutor", InlineExecutor)
        self.place = Path(tempfile.mkdtemp(prefix="framework-exactly-", dir=in_memory()))
        self.book = Book(Shop(self.place / "data"), StillLoop, then)
        self.state, self.copy, self.newer = (self.place / name for name in ("data/state", "copy", "newer"))
        self.letters: Counter[int] = Counter()
        self.count = 0
        self.has_run = False
        self.checkpoints: list[int] = []

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
                self.letters[value] = int(self.book.then == "dead-letter")
            elif fate == "fails once":
                self.book.failing_once.add(value)
        self.book.shop.send(self.book.source, values)

    @rule()
    def run(self) -> None:
        self.book.run()
        self.has_run = True
        self.book.check(+self.letters)

    @rule(moment=st.integers(1, 200), records=RECORDS)
    def crash_between_two_callbacks(self, moment: int, records: list[tuple[int, str]]) -> None:
        self.send(records)
        self.book.run_until((moment, "kill"))

    @rule(number=st.integers(0, 30), after=st.booleans(), records=RECORDS)
    def crash_in_a_commit(self, number: int, after: bool, records: list[tuple[int, str]]) -> None:
        """Before or after the write, the sync, or the deletion of what was appended, which is behind the append."""
        self.send(records)
        self.book.run_until_write(number, after=after)

    @precondition(lambda self: self.has_run)
    @rule()
    def rewind(self) -> None:
        """To the beginning, with empty tables."""
        self.rewind_to(ToPlace("beginning", empty=True))

    @precondition(lambda self: self.has_run)
    @rule()
    def make_a_checkpoint(self) -> None:
        """Also in the middle of what there is to do."""
        with Log(self.place / "data") as log:
            shards = Shards(log)
            shards.own_all()
            try:
                made = [Checkpoints(log, keep=1000).make(shards.of_partition(n)) for n in range(PARTITIONS)]
            finally:
                shards.close()
        self.checkpoints.append(max(each.time_ms for each in made if each is not None))

    @precondition(lambda self: self.checkpoints)
    @rule(data=st.data())
    def rewind_to_a_checkpoint(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.checkpoints) - 1))
        self.rewind_to(ToCheckpoint(self.checkpoints[number]))

    def rewind_to(self, target: Target) -> None:
        """What was sent is not sent again, but letters are."""
        with Log(self.place / "data") as log:
            shards = Shards(log)
            shards.own_all()
            try:
                steps = Rewind(log, "add", target, "drop").execute(shards)
            finally:
                shards.close()
        again = {step.partition.number: range(step.to, step.committed) for step in steps}
        # A checkpoint may be ahead of where the rewind before this one has put the agent.
        not_again = {step.partition.number: range(step.committed, step.to) for step in steps}
        with self.book.build().opened():
            for record in self.book.source.read().records():
                if record.value in self.book.failing and self.book.then == "dead-letter":
                    self.letters[record.value] += record.offset in again[record.partition]
                    self.letters[record.value] -= record.offset in not_again[record.partition]

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
