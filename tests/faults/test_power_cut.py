"""The power is cut at every operation of the log, in every way that the disk allows; its promises hold afterwards.

What was acknowledged, and what a reader could have seen, is there at the same offset with the same bytes; nothing is
torn, doubled or out of order; what is sent again is stored once; appends go on. With FRAMEWORK_TORTURE=1 there is more
of the same: all of it eight times over, and cuts at more moments after every kill.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from framework.log import Log
from tests.faults.crash_files import CrashFiles, Killed, watched_stores
from tests.faults.log_disk import STYLES, Cut, materialize
from tests.faults.log_history import Expected, Violation
from tests.faults.log_power import RUNS, TORTURE, A, Judge, Run, copied, in_memory, recovered, resume

CORNERS = STYLES[:4]

pytestmark = pytest.mark.slow


@pytest.fixture
def directory() -> Iterator[Path]:
    """In memory where there is such a place: the power of the real disk stays on."""
    with tempfile.TemporaryDirectory(prefix="framework-power-", dir=in_memory()) as path, watched_stores():
        (Path(path) / "cases").mkdir()
        yield Path(path)


def run(directory: Path, name: str, skipped: str | None = None, before: Expected | None = None) -> Run:
    """The run *name*, from beginning to end, in an own directory or the one of *before*."""
    one = Run(directory / name, skipped)
    if before is None:
        one.root.mkdir()
    history = one.begin(before)
    {**RUNS, "recovered": recovered, "copied": copied}[name](history)
    one.end()
    return one


def run_one(name: str, directory: Path, skipped: str | None) -> Run:
    """The run *name* with one sync left out."""
    return run(directory, name, skipped)


def run_copy(directory: Path, skipped: str | None = None) -> Run:
    """A directory whose log is copied while it is written to: the slots are from later than the segments."""
    source = Run(directory / "original")
    source.root.mkdir()
    history = source.begin()
    history.open()
    for size in (100, 300):
        history.send(("a", 0), size, producer=1)
        history.send(("a", 0), size, producer=2)
    source.end()
    state, _ = source.moments[-1][0].fall(random.Random(0), "everything")
    [path] = [path for path in state if path.endswith(".log")]
    state[path] = (state[path] or b"")[:-300]
    (directory / "copied").mkdir()
    materialize(state, (0, 0), directory / "copied")
    expected = history.expected()
    promised = Expected(history, expected.topics, {}, {}, expected.sent, expected.ms)
    return run(directory, "copied", skipped, promised)


def run_recovery(place: Path, cut: Cut, expected: Expected, seed: str, style: str, skipped: str | None = None) -> Run:
    """Recovery from one cut, and what comes behind it."""
    state, identity = cut.fall(random.Random(seed), style)
    (place / "recovered").mkdir(parents=True)
    materialize(state, identity, place / "recovered")
    return run(place, "recovered", skipped, expected)


def run_torn(place: Path, skipped: str | None = None) -> Run:
    """Recovery where the first of two batches is torn, and the second one is whole."""
    place.mkdir()
    first = run(place, "killed_writes")
    written = (moment for moment in first.moments if moment[1].sent.get(A) == 3)
    cut, expected = next(moment for moment in written if moment[0].point == "before fdatasync log")
    state, identity = cut.fall(random.Random(0), "everything")
    [path] = [path for path in state if path.endswith(".log")]
    data, sent = bytearray(state[path] or b""), expected.history.streams[A].sent
    begin = len(data) - len(sent[1].batch) - len(sent[2].batch)
    data[begin : begin + 100] = bytes(100)
    state[path] = bytes(data)
    [path] = [path for path in state if path.endswith(".appended")]
    state[path] = (state[path] or b"") + bytes(16)  # An entry that never reached the disk.
    (place / "recovered").mkdir()
    materialize(state, identity, place / "recovered")
    return run(place, "recovered", skipped, expected)


@pytest.mark.parametrize("name", RUNS)
def test_what_was_acknowledged_or_seen_survives_a_power_cut_at_every_operation(
    directory: Path, name: str, seed: int, report: Callable[[str], None]
) -> None:
    one = run(directory, name)
    judge = Judge(directory / "cases", seed)
    judge.judge(one.moments, STYLES * (8 if TORTURE else 1))
    assert len(one.moments) > 100
    report(f"{name}: {len(one.points)} points, {len(one.moments)} moments, {judge.cases} power cuts")


@pytest.mark.parametrize("name", ["rolls", "killed_writes"])
def test_a_power_cut_at_every_operation_of_recovery_loses_nothing_more(
    directory: Path, name: str, seed: int, report: Callable[[str], None]
) -> None:
    """From torn states; what the recovered log then acknowledges survives the second cut too."""
    first, rng = run(directory, name), random.Random(seed)
    moments = first.moments if TORTURE else rng.sample(first.moments, 12)
    judge, points = Judge(directory / "cases", seed), 0
    for at, (cut, expected) in enumerate(moments):
        with judge.directory() as place:
            second = run_recovery(place / "run", cut, expected, f"{seed} {at}", "any")
            points += len(second.points)
            with judge.directory() as cases:
                inner = Judge(cases, seed)
                inner.judge(second.moments, tuple(rng.sample(STYLES[:6], 4 if TORTURE else 1)))
                judge.cases += inner.cases
    report(f"recovery from {len(moments)} cuts in {name}: {points} points, {judge.cases} power cuts")


def test_a_copy_of_a_directory_in_use_survives_a_power_cut_at_every_operation_of_its_recovery(
    directory: Path, seed: int, report: Callable[[str], None]
) -> None:
    """Its slots are ahead of its segments, and are never believed."""
    one = run_copy(directory)
    judge = Judge(directory / "cases", seed)
    judge.judge(one.moments, STYLES * (8 if TORTURE else 1))
    report(f"copied: {len(one.points)} points, {len(one.moments)} moments, {judge.cases} power cuts")


@pytest.mark.parametrize("name", RUNS)
def test_a_power_cut_after_a_kill_at_every_operation_loses_nothing(
    directory: Path, name: str, seed: int, report: Callable[[str], None]
) -> None:
    """A process is killed, another goes on where it stopped; what that one acknowledges survives."""
    points = len(run(directory / "cases", name).points)
    cases = kills = 0
    step = 1 if TORTURE else 2
    for number in range(seed % step, points, step):
        one = killed(directory / str(number), name, number)
        if one is None:
            break
        judge = Judge(one.root / "..", seed)
        moments = random.Random(number).sample(one.moments, min(len(one.moments), 10)) if TORTURE else []
        judge.judge([*moments, one.moments[-1]], CORNERS if TORTURE else CORNERS[:1])
        cases, kills = cases + judge.cases, kills + 1
    assert kills > points // step - 3
    report(f"{name}: killed at {kills} of {points} points, {cases} power cuts")


def killed(directory: Path, name: str, number: int, skipped: str | None = None) -> Run | None:
    """The run *name*, killed at point *number* and taken up by another; None if it was over before."""
    directory.mkdir()
    one = Run(directory / "run", skipped, killed_at=number, noting=False)
    one.root.mkdir()
    history = one.begin()
    try:
        RUNS[name](history)
    except Killed:
        history.expected()  # Notes what could be seen by then.
        history.close()
    else:
        history.close()
        return None
    one.noting = TORTURE
    resume(history)
    one.noting = True
    one.end()
    return one


def test_a_directory_made_with_its_parents_survives(directory: Path) -> None:
    """The names of all of them are durable, not only the last one's."""
    files = CrashFiles(directory)
    with Log(directory / "one" / "two" / "data", create=True, files=files) as log:
        log.create_topic("t", 1)
        state, _ = files.cut("").fall(random.Random(0), "nothing unsynced")
    assert "one/two/data/catalogue" in state


# Mutations: without any one of its syncs the log must be found out.

EMPTY = "it is empty; its first batch is synced with it before it is acknowledged"
COPIED = "it is synced again with what is copied into it, before the manifest names it"
HARMLESS = {
    "fdatasync shared in making room for slots": "after a cut slots say where a scan begins; zeros, at the start",
    "fdatasync index.tmp in roll (index)": "an index that is not whole is not believed: the headers are walked",
    "sync_directory partition in roll (index)": "an index that is missing is made again: the headers are walked",
    "fdatasync appended in cutting append times": "a writer's first sync is of it too; what was cut is cut again",
    "fdatasync log in first append (new)": EMPTY,
    "fdatasync log in roll (new)": EMPTY,
    "fdatasync appended in first append (new)": EMPTY,
    "fdatasync appended in roll (new)": EMPTY,
    "fdatasync index.tmp in rebuild (index)": "an index that is not whole is not believed: the headers are walked",
    "sync_directory partition in rebuild (index)": "an index that is missing is made again: the headers are walked",
    "fdatasync log in rebuild": "nobody reads behind the size that the manifest has",
    "fdatasync log in rebuild (new)": COPIED,
    "fdatasync appended in rebuild (new)": COPIED,
}


def test_without_any_one_of_its_syncs_a_log_is_found_out(
    directory: Path, seed: int, report: Callable[[str], None]
) -> None:
    """Or else it is said why it can do without."""
    (directory / "whole").mkdir()
    whole = {kind: make(directory / "whole", None) for kind, make in KINDS.items()}
    table = {}
    for number, site in enumerate(sorted(set().union(*(one.sites for one in whole.values())))):
        (directory / str(number)).mkdir()
        kinds = [kind for kind, one in whole.items() if site in one.sites]
        table[site] = caught(directory / str(number), site, kinds, seed)
    lines = [f"{site:56} {check or 'harmless: ' + HARMLESS.get(site, '?')}" for site, check in table.items()]
    report("without                                                  is found by\n" + "\n".join(lines))
    assert {site for site, check in table.items() if not check} == set(HARMLESS)


def run_killed(directory: Path, skipped: str | None) -> Run:
    """Killed when the manifest has its name and the name is not durable."""
    directory = directory / "killed"
    directory.mkdir()
    points = run(directory, "topics_and_appends").points
    one = killed(directory / "again", "topics_and_appends", points.index("after rename manifest"), skipped)
    assert one is not None
    return one


KINDS: dict[str, Callable[[Path, str | None], Run]] = {
    "copied": run_copy,
    "recovered": lambda directory, skipped: run_torn(directory / "torn", skipped),
    "killed": run_killed,
    **{name: partial(run_one, name) for name in RUNS},
}
"""Every kind of run, in a directory, with one sync left out."""


def caught(directory: Path, site: str, kinds: list[str], seed: int) -> str | None:
    """The check that sees that *site* is missing, and in which run."""
    rng = random.Random(seed)
    for kind in kinds:
        moments = KINDS[kind](directory, site).moments
        if site in HARMLESS and not TORTURE:
            moments = rng.sample(moments, min(len(moments), 5))
        (directory / f"cases of {kind}").mkdir()
        for style in STYLES:
            try:
                Judge(directory / f"cases of {kind}", seed).judge(moments, (style,))
            except Violation as violation:
                return f"{violation.check}, in {kind}"
    return None
