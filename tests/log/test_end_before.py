"""Which records were appended before a second: asked once, the answer holds, whatever the clock does from then on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from framework.log import Files, Log, NewRecord, Partition, TopicSettings, encode
from framework.log.appended import append_times
from framework.log.shared import RAISED
from framework.log.verify import Verification
from tests.faults.crash_files import CrashFiles, Killed, watched_stores
from tests.faults.log_power import TORTURE, in_memory
from tests.faults.one_partition import after_cut
from tests.log.conftest import Child, ManualClock

NOON = 1_700_000_000
"""What the clock of a test shows at first, in seconds."""
WAITING = """
class Clock:
    ms = int(sys.argv[2]) * 1000
    def now_ms(self):
        if slow and threading.current_thread() is not threading.main_thread():
            say("looked")  # At the clock, under the lock.
            hear()
        return self.ms
    def monotonic(self):
        return 0.0

slow = False
log = Log(Path(sys.argv[1]), clock=Clock())
partition = log.partition(log.topic("t"), 0)
slow = True
log.append(partition, batches(b"slow")).result(60)
say("appended")
"""
ASKING = """
log = Log(Path(sys.argv[1]))
say(log.partition(log.topic("t"), 0).end_before(int(sys.argv[2])))
"""


class Quiet:
    """A log of one partition, and a clock that a test moves."""

    def __init__(self, directory: Path, *, files: Files | None = None, value_bytes: int = 50, **settings: Any) -> None:
        self.directory, self.clock, self.value_bytes = directory, ManualClock(), value_bytes
        self.log = Log(directory, create=True, clock=self.clock, files=files)
        if "t" not in self.log.topics():
            self.log.create_topic("t", 1, TopicSettings(**settings))

    @property
    def partition(self) -> Partition:
        return self.log.partition(self.log.topic("t"), 0)

    def append(self, second: int, count: int = 1) -> None:
        """Append *count* records when the clock shows *second*."""
        self.clock.ms = second * 1000
        self.log.append(self.partition, self.batch(count)).result(60)

    def batch(self, count: int = 1) -> list[bytearray]:
        """*count* records of one key, in one batch."""
        return encode([NewRecord(b"k", bytes(self.value_bytes), 0)] * count, max_batch_bytes=1 << 20)

    def reopen(self, **options: Any) -> None:
        """As a process that begins when this one is gone."""
        self.log.close()
        self.log = Log(self.directory, clock=self.clock, **options)

    @property
    def seconds(self) -> list[tuple[int, int]]:
        """What the files of append times hold."""
        return [entry for segment in self.partition.segments() for entry in append_times(read(segment.appended_path))]

    def damage(self) -> list[str]:
        """What `framework verify` finds."""
        return [f.text for f in Verification(self.directory).findings() if f.severity == "damage"]


def read(path: Path) -> bytes:
    """What is in the file, nothing if there is none."""
    return path.read_bytes() if path.exists() else b""


@pytest.fixture
def quiet(directory: Path) -> Any:
    """A log of two records, appended at noon and ten seconds later."""
    quiet = Quiet(directory)
    quiet.append(NOON)
    quiet.append(NOON + 10)
    yield quiet
    quiet.log.close()


# The answer.


@pytest.mark.parametrize(("second", "end"), [(-5, 0), (0, 0), (1, 1), (10, 1), (11, 2), (500, 2)])
def test_the_end_is_behind_the_last_record_of_an_earlier_second(quiet: Quiet, second: int, end: int) -> None:
    assert quiet.partition.end_before(NOON + second) == end


def test_a_clock_that_is_set_back_appends_nothing_before_a_second_that_was_asked_for(quiet: Quiet) -> None:
    assert quiet.partition.end_before(NOON + 60) == 2
    quiet.append(NOON + 20)
    quiet.append(NOON - 3600)
    assert quiet.partition.append_second == NOON + 60
    assert quiet.partition.end_before(NOON + 60) == 2
    assert quiet.partition.end_before(NOON + 61) == 4
    assert quiet.seconds == [(NOON, 0), (NOON + 10, 1), (NOON + 60, 2)]
    assert quiet.damage() == []


def test_where_nothing_came_behind_a_known_offset_nothing_is_raised(quiet: Quiet) -> None:
    """A thousand jobs over topics that are quiet write nothing."""
    assert quiet.partition.end_before(NOON + 60, known=2) == 2
    assert quiet.partition.append_second == NOON + 10
    assert quiet.partition.end_before(NOON + 60, known=1) == 2
    assert quiet.partition.append_second == NOON + 60


def test_an_empty_partition_ends_where_it_begins(directory: Path) -> None:
    """Also for those who ask again when there is something in it."""
    quiet = Quiet(directory)
    assert quiet.partition.end_before(NOON + 60) == 0
    quiet.append(NOON)
    assert quiet.partition.end_before(NOON + 60) == 0
    assert quiet.seconds == [(NOON + 60, 0)]
    quiet.log.close()
    assert quiet.damage() == []


def test_a_raised_second_is_raised_for_every_process_and_when_the_log_is_opened_again(
    quiet: Quiet, child: Callable[..., Child]
) -> None:
    assert child(ASKING, quiet.directory, NOON + 60).hear() == "2"
    assert quiet.partition.append_second == NOON + 60
    quiet.append(NOON + 20)
    assert quiet.partition.end_before(NOON + 60) == 2
    assert quiet.partition.end_before(NOON + 120) == 3
    quiet.reopen()
    assert quiet.partition.append_second == NOON + 120
    quiet.append(NOON + 30)
    assert [quiet.partition.end_before(NOON + second) for second in (60, 120, 121)] == [2, 3, 4]
    assert quiet.damage() == []


def test_an_appender_that_has_looked_at_the_clock_is_waited_for(quiet: Quiet, child: Callable[..., Child]) -> None:
    """It took the second before under the lock: its record is before the second that is asked for then."""
    appender = child(WAITING, quiet.directory, NOON + 59)
    assert appender.hear() == "looked"
    asker = child(ASKING, quiet.directory, NOON + 60)
    appender.say()
    while (said := appender.hear()) == "looked":
        appender.say()
    assert said == "appended"
    assert asker.hear() in ("2", "3"), "whichever of them had the lock first"
    answer = quiet.partition.end_before(NOON + 60)
    quiet.append(NOON)
    assert quiet.partition.end_before(NOON + 60) == answer


# Segments.


def test_a_raised_second_survives_a_roll_and_compaction(directory: Path) -> None:
    """Compaction puts the entries of many segments into one, and removes the records they speak of."""
    quiet = Quiet(directory, value_bytes=700, segment_bytes=4096, cleanup_policy="compact")
    asked = {}
    for second in range(0, 200, 10):
        quiet.append(NOON + second, count=2)
        asked[second + 5] = quiet.partition.end_before(NOON + second + 5)
        quiet.append(NOON + second + 4)  # The clock was behind, and the second is raised.
    assert list(asked.values()) == [3 * number + 2 for number in range(20)]
    assert quiet.partition.segments()[-1].base_offset > 40, "it has rolled"
    assert {second: quiet.partition.end_before(NOON + second) for second in asked} == asked
    quiet.partition.compact(force=True)  # Unless the cleaner was faster.
    assert any(segment.compacted for segment in quiet.partition.segments())
    assert {second: quiet.partition.end_before(NOON + second) for second in asked} == asked
    quiet.reopen()
    assert {second: quiet.partition.end_before(NOON + second) for second in asked} == asked
    quiet.log.close()
    assert quiet.damage() == []


@pytest.mark.parametrize("lost", ["the entries", "the file"])
def test_where_append_times_are_missing_those_of_the_batches_before_hold(directory: Path, lost: str) -> None:
    """A power cut may have taken them; only records whose time is known to be before are never counted as later."""
    quiet = Quiet(directory, value_bytes=1500, segment_bytes=4096)
    for number in range(12):
        quiet.append(NOON + 10 * number)
    bases = [segment.base_offset for segment in quiet.partition.segments()]
    assert len(bases) > 4
    whole = [quiet.partition.end_before(NOON + second) for second in range(0, 110, 10)]
    assert whole == list(range(11))
    without = quiet.partition.segments()[2]
    if lost == "the file":
        without.appended_path.unlink()
    else:
        without.appended_path.write_bytes(read(without.appended_path)[:8])
    behind = bases[3]
    expected = [number if not bases[2] <= number < behind else behind for number in range(11)]
    assert [quiet.partition.end_before(NOON + second) for second in range(0, 110, 10)] == expected
    quiet.log.close()


# Kills between two stores.


@pytest.mark.parametrize("then", ["the clock went back", "it is later"])
@pytest.mark.parametrize("what", ["raising", "appending", "appending behind it"])
def test_a_process_killed_at_any_store_leaves_answers_that_hold(tmp_path: Path, what: str, then: str) -> None:
    """Between flag and mark, between note and mark, between mark and flag: what is answered next stays."""
    point, met = 0, list[str]()
    while True:
        point += 1
        root = tmp_path / str(point)
        root.mkdir()
        with watched_stores():
            died = killed(root, what, point)
        if died is None:
            break
        met.append(died)
        quiet = Quiet(root / "data")
        assert quiet.damage() == [], died
        first = 1 if then == "it is later" else -7
        asked = {}
        for second in (0, 60, 61, 62, 100):
            quiet.append(NOON + second * first, count=1)
            asked[second] = quiet.partition.end_before(NOON + second)
            assert {again: quiet.partition.end_before(NOON + again) for again in asked} == asked, died
        quiet.append(NOON + 200)
        assert {again: quiet.partition.end_before(NOON + again) for again in asked} == asked, died
        seconds = [second for second, _ in quiet.seconds]
        assert seconds == sorted(seconds), died
        assert not quiet.log.shared.flags(quiet.partition.slot) & RAISED
        assert quiet.damage() == [], died
        quiet.log.close()
    assert sum(each.endswith("store shared") for each in met) >= 6
    assert ("before write appended" in met) == (what != "raising")


def killed(root: Path, what: str, point: int) -> str | None:
    """Die at one of the stores and writes of raising the second, or of the append behind that; at which."""
    files = CrashFiles(root)
    quiet = Quiet(root / "data", files=files)
    quiet.append(NOON)
    if what == "appending behind it":
        quiet.partition.end_before(NOON + 60)
    quiet.clock.ms = (NOON + 61) * 1000
    left, died = iter(range(point - 1)), []

    def die(name: str) -> None:
        if next(left, None) is None:
            died.append(name)
            files.dead = True
            raise Killed(name)

    files.on_point = die
    try:
        if what == "raising":
            quiet.partition.end_before(NOON + 60)
        else:
            quiet.partition.append([quiet.batch()])
    except Killed:
        pass
    files.on_point, files.dead = lambda name: None, False
    quiet.log.close()
    return died[0] if died else None


def test_the_note_of_a_raised_second_is_synced_with_its_batch(tmp_path: Path) -> None:
    """The second was in the mark when the files were synced last, but in none of them: the next sync is not spared."""
    files = CrashFiles(tmp_path)
    quiet = Quiet(tmp_path / "data", files=files)
    quiet.append(NOON)
    assert quiet.partition.end_before(NOON + 60) == 1
    quiet.log.sync(quiet.partition).result(60)
    quiet.append(NOON + 60)
    after_cut(files, tmp_path / "cut", "nothing")
    quiet.log.close()
    quiet = Quiet(tmp_path / "cut" / "data")
    assert quiet.partition.log_end == 2
    assert quiet.seconds == [(NOON, 0), (NOON + 60, 1)]
    assert quiet.partition.end_before(NOON + 60) == 1
    quiet.log.close()


# Against a model.


class Machine(RuleBasedStateMachine):
    """Two openings of one log, a clock that goes as it likes, and the second of every record."""

    @initialize()
    def begin(self) -> None:
        self.place = tempfile.TemporaryDirectory(prefix="framework-before-", dir=in_memory())
        directory = Path(self.place.name) / "data"
        self.quiet = Quiet(directory, value_bytes=800, segment_bytes=4096, cleanup_policy="compact,delete")
        self.other = Log(self.quiet.directory, clock=self.quiet.clock)
        self.seconds = list[int]()
        self.floor, self.asked = 0, dict[int, int]()

    def partition(self, *, other: bool) -> Partition:
        log = self.other if other else self.quiet.log
        return log.partition(log.topic("t"), 0)

    @rule(second=st.integers(0, 40), count=st.integers(1, 3), other=st.booleans())
    def append(self, second: int, count: int, other: bool) -> None:
        self.quiet.clock.ms = (NOON + second) * 1000
        log = self.other if other else self.quiet.log
        log.append(self.partition(other=other), self.quiet.batch(count)).result(60)
        self.floor = max(self.floor, second)
        self.seconds += [self.floor] * count

    @rule(second=st.integers(0, 45), other=st.booleans())
    def ask(self, second: int, other: bool) -> None:
        answer = self.partition(other=other).end_before(NOON + second)
        expected = sum(each < second for each in self.seconds)
        assert answer == max(expected, self.first) or expected == len(self.seconds) == answer
        self.floor = max(self.floor, second)
        self.asked[second] = expected

    @property
    def first(self) -> int:
        """The first offset of which there still is something: below that nobody can say any more when it was."""
        segments = self.partition(other=False).segments()
        return segments[0].base_offset if segments else 0

    @rule()
    def compact(self) -> None:
        self.partition(other=False).compact(force=True)

    @rule(share=st.floats(0, 1))
    def delete(self, share: float) -> None:
        if self.seconds:
            self.partition(other=True).delete_records(int(share * len(self.seconds)))

    @rule()
    def reopen(self) -> None:
        self.quiet.reopen()

    @invariant()
    def every_answer_is_given_again(self) -> None:
        if hasattr(self, "asked"):
            for second, answer in self.asked.items():
                assert self.partition(other=second % 2 == 0).end_before(NOON + second) == max(answer, self.first)

    def teardown(self) -> None:
        if hasattr(self, "place"):
            self.quiet.log.close()
            self.other.close()
            assert self.quiet.damage() == []
            self.place.cleanup()


TestModel = Machine.TestCase
TestModel.settings = settings(
    max_examples=500 if TORTURE else 40,
    stateful_step_count=30 if TORTURE else 15,
    suppress_health_check=list(HealthCheck),
    derandomize=not TORTURE,
)
