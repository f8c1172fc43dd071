"""What judges the histories of a broker's clients has to notice: histories that are sound, and then one thing wrong.

`broken_broker` has the same of real brokers: with FRAMEWORK_TORTURE=1 they run, each broken in one way.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.broker_run import Round
from tests.faults.client_history import AGAIN, IDEMPOTENT, NEVER, ONCE, Key, Operation, Record, named, parsed, value_of
from tests.faults.client_judge import check
from tests.faults.log_power import TORTURE, in_memory
from tests.faults.log_stream import Violation

KEY: Key = ("flights", 0)
THERE: list[Record] = [("p", 0), ("o", 0), ("p", 1), ("a", 0), ("p", 2), ("a", 0)]
"""Of a producer that is idempotent, one that sends nothing twice, and one that does."""


class Story:
    """A sound history, which a test makes unsound; each operation begins and ends later than the one before."""

    def __init__(self) -> None:
        self.there: dict[Key, list[Record]] = {KEY: list(THERE)}
        self.operations: list[Operation] = []
        for name, kind in (("p", IDEMPOTENT), ("o", ONCE), ("a", AGAIN)):
            self.add(name, "producer", [name, kind])
        self.sends = [self.send("p", 0, 0), self.send("o", 0, 1), self.send("p", 1, None), self.send("a", 0, 5)]
        self.sends.append(self.send("p", 2, 4))
        self.lost = self.add("o", "send", [*KEY, "o", 1], state="unknown")
        self.read = self.reading("r", "0", 1, 4, 6)
        self.end = self.add("r", "end", list(KEY), [6])
        self.join("m", "0")
        self.first = self.reading("m", "0", 0, 3)
        self.commit = self.committing("m", "0", 3)
        self.told = self.add("r", "committed", ["g", *KEY], [3])
        self.join("n", "1")
        self.second = self.reading("n", "1", 3, 6)
        self.last = self.committing("n", "1", 6)

    def add(
        self, who: str, what: str, asked: list[Any], answer: list[Any] | None = None, state: str = "ok"
    ) -> Operation:
        """One operation."""
        now = 100 * len(self.operations)
        ended = now + 50 if state != "unknown" else NEVER
        self.operations.append(Operation(who, what, asked, now, ended, state, answer or []))
        return self.operations[-1]

    def send(self, name: str, number: int, offset: int | None) -> Operation:
        return self.add(name, "send", [*KEY, name, number], [offset])

    def reading(self, who: str, session: str, begin: int, end: int, mark: int | None = None) -> Operation:
        records = [[offset, list(self.there[KEY][offset])] for offset in range(begin, end)]
        return self.add(who, "read", [*KEY, session], [mark, records])

    def join(self, who: str, session: str) -> Operation:
        return self.add(who, "assigned", ["g", *KEY, session])

    def committing(self, who: str, session: str, offset: int, state: str = "ok") -> Operation:
        return self.add(who, "commit", ["g", *KEY, session, offset], state=state)

    def check(self) -> None:
        check(self.operations, self.there, groups=["g"])


def test_a_sound_history_is_one() -> None:
    Story().check()


def lose(story: Story) -> None:
    del story.there[KEY][4:]


def lose_the_acknowledged(story: Story) -> None:
    story.operations = [each for each in story.operations if each.what in ("producer", "send")]
    story.there[KEY].remove(("o", 0))


def move(story: Story) -> None:
    story.sends[0].answer = [1]


def tell_one_offset_twice(story: Story) -> None:
    story.add("p", "send", [*KEY, "p", 3], [0])
    story.there[KEY].append(("p", 3))


def double_idempotent(story: Story) -> None:
    story.there[KEY].append(("p", 2))


def double_unknown(story: Story) -> None:
    story.there[KEY] += [("o", 1), ("o", 1)]


def swap(story: Story) -> None:
    story.operations = [each for each in story.operations if each.what == "producer"]
    story.there[KEY] = [("p", 1), ("p", 0)]
    story.add("p", "send", [*KEY, "p", 0], state="unknown")
    story.add("p", "send", [*KEY, "p", 1], state="unknown")


def keep_what_was_refused(story: Story) -> None:
    story.lost.state = "fail"
    story.there[KEY].append(("o", 1))


def invent(story: Story) -> None:
    story.there[KEY].append(("x", 0))


def change_bytes(story: Story) -> None:
    story.there[KEY].append(tuple(named(value_of("p", 2)[:-1] + b"!")))  # type: ignore[arg-type]


def read_before_it_was_sent(story: Story) -> None:
    story.read.begun_ns = story.read.ended_ns = 1


def read_something_else(story: Story) -> None:
    story.read.words[1][0][1] = ["p", 2]


def read_what_is_gone(story: Story) -> None:
    story.add("o", "send", [*KEY, "o", 2], state="unknown")
    story.add("r", "read", [*KEY, "7"], [None, [[6, ["o", 2]]]])


def refuse(story: Story) -> None:
    story.add("p", "send", [*KEY, "p", 3], ["OUT_OF_ORDER_SEQUENCE_NUMBER: ..."], state="unknown")


def leave_out(story: Story) -> None:
    del story.read.words[1][1]


def go_back(story: Story) -> None:
    story.reading("m", "0", 1, 3)


def read_beyond_the_high_watermark(story: Story) -> None:
    story.read.words[0] = 3


def lower_the_high_watermark(story: Story) -> None:
    story.add("r", "end", list(KEY), [5])


def lower_it_below_the_acknowledged(story: Story) -> None:
    story.operations = [each for each in story.operations if each.what in ("producer", "send")]
    story.add("r", "end", list(KEY), [2])


def raise_the_high_watermark(story: Story) -> None:
    story.end.answer = [7]


def forget_a_commit(story: Story) -> None:
    story.add("r", "committed", ["g", *KEY], [-1])


def go_back_to_an_old_commit(story: Story) -> None:
    story.add("r", "committed", ["g", *KEY], [3])


def find_what_nobody_committed(story: Story) -> None:
    story.told.answer = [2]


def begin_before_the_commit(story: Story) -> None:
    story.join("m", "2")
    story.reading("m", "2", 3, 6)


def commit_what_was_not_read(story: Story) -> None:
    story.commit.asked[4] = story.told.words[0] = 4
    del story.second.words[1][0]


def end_too_early(story: Story) -> None:
    del story.second.words[1][-1]
    story.last.asked[4] = 5


WRONG: dict[str, list[Callable[[Story], None]]] = {
    "acknowledged records": [lose_the_acknowledged, move],
    "one record an offset": [lose, tell_one_offset_twice, read_something_else, read_what_is_gone],
    "no duplicates": [double_idempotent, double_unknown],
    "producer order": [swap],
    "refused records": [keep_what_was_refused],
    "known records": [invent, change_bytes, read_before_it_was_sent],
    "producers": [refuse],
    "prefixes": [leave_out, go_back, read_beyond_the_high_watermark],
    "high watermarks": [lower_the_high_watermark, lower_it_below_the_acknowledged, raise_the_high_watermark],
    "committed offsets": [
        forget_a_commit,
        go_back_to_an_old_commit,
        find_what_nobody_committed,
        begin_before_the_commit,
    ],
    "at least once": [commit_what_was_not_read, end_too_early],
}


@pytest.mark.parametrize(("promise", "spoil"), [(promise, spoil) for promise, all_ in WRONG.items() for spoil in all_])
def test_it_notices(promise: str, spoil: Callable[[Story], None]) -> None:
    story = Story()
    spoil(story)
    with pytest.raises(Violation) as noticed:
        story.check()
    assert noticed.value.check == promise, noticed.value


def test_what_may_have_happened_is_no_violation() -> None:
    """Who has no answer may have been served, once, at any time; and a commit without an answer may count."""
    story = Story()
    story.there[KEY].append(("o", 1))
    story.reading("n", "1", 6, 7)
    story.committing("n", "1", 7, "unknown")
    story.add("r", "committed", ["g", *KEY], [6])
    story.add("r", "committed", ["g", *KEY], [7])
    story.check()


def test_half_a_line_of_who_was_killed_is_left_out() -> None:
    lines = [b'["invoke",0,5,"end","t",0]\n', b'["invoke",1,6,"end","t",0]\n', b'["ok",0,7,3]\n', b'["ok",1,8']
    first, second = parsed("r", lines)
    assert (first.state, first.answer, first.ended_ns) == ("ok", [3], 7)
    assert (second.state, second.ended_ns) == ("unknown", NEVER)


@pytest.mark.slow
@pytest.mark.skipif(not TORTURE, reason="each takes a quarter of a minute: FRAMEWORK_TORTURE=1")
@pytest.mark.parametrize(
    ("broken", "promises"),
    [
        ("acknowledge_at_once", {"acknowledged records", "one record an offset", "high watermarks"}),
        ("forget_producers", {"no duplicates"}),
        ("refuse_producers", {"producers", "no crash"}),
        ("commit_late", {"committed offsets"}),
        ("tell_another_offset", {"one record an offset", "acknowledged records"}),
        ("drop_batches", {"acknowledged records", "one record an offset"}),
    ],
)
def test_it_notices_that_a_broker_would(
    broken: str, promises: set[str], seed: int, report: Callable[[str], None]
) -> None:
    """Broken in this way; a kill at the right moment is a matter of chance, so there are some rounds."""
    for number in range(5):
        with tempfile.TemporaryDirectory(prefix="framework-broken-", dir=in_memory()) as folder:
            noticed = violation_of(Path(folder), seed + number, broken)
        if noticed is not None:
            report(f"round {number}: {noticed}"[:200])
            break
    assert noticed is not None, f"nobody noticed: {broken}"
    assert noticed.check in promises, noticed


def violation_of(folder: Path, seed: int, broken: str) -> Violation | None:
    """What is noticed of a broker that is *broken*; clients may give up on it before, and that is told at last."""
    ended = None
    try:
        with Round(folder, seed, broken=broken) as around:
            try:
                around.run(6.0)
            except Violation as gave_up:
                ended = gave_up
            around.judge_now()
    except Violation as noticed:
        return noticed
    return ended
