"""A topic against a list: whatever is appended, read, closed, killed, rebooted and cut off, in any order.

Records are the same at the same offsets, offsets are dense, the high watermark only grows, and a producer's batches
that are sent again are stored once.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from framework.log import Log, NewRecord, Partition, TopicSettings, decode, encode
from framework.log.producers import TASK_PRODUCER_BIT
from tests.faults.crash_files import CrashFiles, Killed, watched_stores
from tests.faults.log_disk import STYLES, materialize
from tests.faults.log_history import DirectLog
from tests.faults.log_power import TORTURE, in_memory

SMALL = TopicSettings(segment_bytes=4096, index_interval_bytes=512)
NUMBERS = st.integers(0, 1)
Row = tuple[bytes | None, bytes | None]


class LogMachine(RuleBasedStateMachine):
    """One topic of two partitions, and of each the list of its records up to the log end."""

    @initialize()
    def begin(self) -> None:
        self.stack = ExitStack()
        self.stack.enter_context(watched_stores())
        self.place = Path(self.stack.enter_context(tempfile.TemporaryDirectory(dir=in_memory())))
        self.boots = 0
        self.root = self.place / "0"
        self.root.mkdir()
        self.files = CrashFiles(self.root)
        self.logs: list[DirectLog] = []
        self.model: list[list[Row]] = [[], []]
        self.visible = [0, 0]
        self.batches: list[list[bytes]] = [[], []]
        """What the task's producer has sent to each partition and had acknowledged."""
        self.sequences = [0, 0]
        self.count = 0
        with Log(self.root / "data", create=True, files=self.files) as log:
            log.create_topic("t", 2, SMALL)

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            self.stop()
            self.stack.close()

    def stop(self) -> None:
        """Close everything; without a committer's thread this writes nothing, as a kill would not."""
        for log in self.logs:
            log.close()
        self.logs = []

    def log(self, which: int = 0) -> DirectLog:
        """One of two logs of the directory, as two processes would have it open."""
        while len(self.logs) <= which:
            self.logs.append(DirectLog(self.root / "data", files=self.files))
        return self.logs[which]

    def partition(self, number: int, which: int = 0) -> Partition:
        log = self.log(which)
        return log.partition(log.topic("t"), number)

    def commit(self, number: int, which: int, batches: list[bytes]) -> int:
        """What the committer's thread does, in this one."""
        return self.log(which).commit(self.partition(number, which), batches)

    def encoded(self, sizes: list[int], number: int, *, idempotent: bool) -> tuple[list[bytes], list[Row]]:
        """A batch for each size, and its rows."""
        batches: list[bytes] = []
        rows: list[Row] = []
        sequence = self.sequences[number]
        for size in sizes:
            self.count += 1
            value = b"%d" % self.count
            both: list[Row] = [(b"k", value.ljust(size, b".")), (None, value)]
            row = both[: 1 + self.count % 2]
            options: dict[str, Any] = {
                "producer_id": 7 | TASK_PRODUCER_BIT,
                "producer_epoch": 0,
                "base_sequence": sequence,
            }
            records = [NewRecord(key, value, self.count) for key, value in row]
            batches += map(bytes, encode(records, max_batch_bytes=1 << 20, **(options if idempotent else {})))
            sequence, rows = sequence + len(row), rows + row
        return batches, rows

    sizes = st.lists(st.sampled_from([1, 40, 700, 1500, 5000]), min_size=1, max_size=3)

    @rule(number=NUMBERS, which=NUMBERS, sizes=sizes, idempotent=st.booleans(), again=st.integers(0, 3))
    def append(self, number: int, which: int, sizes: list[int], idempotent: bool, again: int) -> None:
        """Maybe behind batches that were sent before."""
        batches, rows = self.encoded(sizes, number, idempotent=idempotent)
        before = self.batches[number][-again:] if idempotent and again else []
        assert self.commit(number, which, [*before, *batches]) == len(self.model[number])
        self.remember(number, batches, rows, idempotent=idempotent)

    def remember(self, number: int, batches: list[bytes], rows: list[Row], *, idempotent: bool) -> None:
        self.model[number] += rows
        if idempotent:
            self.batches[number] += batches
            self.sequences[number] += len(rows)

    @rule(number=NUMBERS, which=NUMBERS, count=st.integers(1, 12))
    def send_again(self, number: int, which: int, count: int) -> None:
        """All of it was there."""
        if again := self.batches[number][-count:]:
            assert self.commit(number, which, again) == -1

    @rule(number=NUMBERS, which=NUMBERS, at=st.floats(0, 1), max_bytes=st.sampled_from([1, 100, 3000, 1 << 20]))
    def read(self, number: int, which: int, at: float, max_bytes: int) -> None:
        partition = self.partition(number, which)
        offset = round(at * len(self.model[number]))
        reader, rows = self.log(which).reader(partition, offset), []
        while batches := reader.read(max_bytes).batches:
            assert len(batches) == 1 or sum(header.size for header, _ in batches) <= max_bytes
            rows += [(row.offset, (row.key, row.value)) for _, batch in batches for row in decode(batch)]
        reader.close()
        assert [row for row in rows if row[0] >= offset] == list(enumerate(self.model[number]))[offset:]

    @rule()
    def close(self) -> None:
        self.stop()

    @rule(number=NUMBERS, sizes=sizes, idempotent=st.booleans(), operation=st.integers(0, 60))
    def kill_in_append(self, number: int, sizes: list[int], idempotent: bool, operation: int) -> None:
        """At one of its operations; what is there then is all of it, a part, or nothing."""
        self.partition(number)
        batches, rows = self.encoded(sizes, number, idempotent=idempotent)
        left = iter(range(operation))

        def die(point: str) -> None:
            if next(left, None) is None:
                raise Killed(point)

        self.files.on_point = die
        with suppress(Killed):
            self.commit(number, 0, batches)
        self.files.on_point = lambda point: None
        self.stop()
        self.find(number, batches, rows, idempotent=idempotent)

    def find(self, number: int, batches: list[bytes], rows: list[Row], *, idempotent: bool) -> None:
        """See how much of an append is there; a producer sends the rest of it again."""
        partition = self.partition(number)
        self.commit(number, 0, [])
        there = partition.log_end - len(self.model[number])
        assert 0 <= there <= len(rows)
        if idempotent:
            self.commit(number, 0, batches)
            there = len(rows)
        self.remember(number, batches, rows[:there], idempotent=idempotent)

    @rule(style=st.sampled_from(STYLES), seed=st.integers(0, 1 << 32))
    def cut_power(self, style: str, seed: int) -> None:
        """All was acknowledged."""
        self.stop()
        self.restart(style, seed)

    def restart(self, style: str, seed: int) -> None:
        state, identity = self.files.cut("").fall(random.Random(seed), style)
        shutil.rmtree(self.root)
        self.boots += 1
        self.root = self.place / str(self.boots)
        self.root.mkdir()
        materialize(state, identity, self.root)
        self.files = CrashFiles(self.root)

    @rule(
        number=NUMBERS,
        sizes=sizes,
        idempotent=st.booleans(),
        operation=st.integers(0, 60),
        style=st.sampled_from(STYLES),
        seed=st.integers(0, 1 << 32),
    )
    def cut_power_in_append(
        self, number: int, sizes: list[int], idempotent: bool, operation: int, style: str, seed: int
    ) -> None:
        """What nobody could see may be gone, or a part of it."""
        self.partition(number)
        batches, rows = self.encoded(sizes, number, idempotent=idempotent)
        left = iter(range(operation))

        def die(point: str) -> None:
            if next(left, None) is None:
                raise Killed(point)

        self.files.on_point = die
        with suppress(Killed):
            self.commit(number, 0, batches)
        self.files.on_point = lambda point: None
        self.visible[number] = max(self.visible[number], self.partition(number).high_watermark)
        self.stop()
        self.restart(style, seed)
        self.find(number, batches, rows, idempotent=idempotent)

    @precondition(lambda self: self.logs)
    @invariant()
    def the_high_watermark_is_the_log_end_and_only_grows(self) -> None:
        for number, rows in enumerate(self.model):
            partition = self.partition(number)
            assert self.visible[number] <= partition.high_watermark == partition.log_end == len(rows)
            self.visible[number] = partition.high_watermark


TestLogModel = LogMachine.TestCase
TestLogModel.settings = settings(
    max_examples=2000 if TORTURE else 200,
    stateful_step_count=50 if TORTURE else 25,
    suppress_health_check=list(HealthCheck),
)
