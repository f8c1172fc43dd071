"""The power is cut at every operation of the log, in every way that the disk allows; its promises hold afterwards.

What was acknowledged, and what a reader could have seen, is there at the same offset with the same bytes; nothing is
torn, doubled or out of order; what is sent again is stored once; appends go on. With FRAMEWORK_TORTURE=1 there is more
of the same: every moment three times in each style, four times the kills and recoveries, and more cuts in each.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from framework.log import Log
from tests.faults.crash_files import CrashFiles, Killed, watched_stores
from tests.faults.log_checks import check_files
from tests.faults.log_disk import STYLES, Cut, materialize
from tests.faults.log_history import COMPACTED, SMALL, Expected, append_times
from tests.faults.log_power import TORTURE, Judge, Run, in_memory
from tests.faults.log_runs import RUNS, TABLE, A, copied, put, recovered, resume
from tests.faults.log_stream import Violation

CORNERS = STYLES[:4]
NOTHING = "no sync"
"""Where a run is for its points and sites only: without any sync owed it keeps no moment."""
Moment = tuple[Cut, Expected]

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


def some(moments: list[Moment], count: int, seed: int) -> list[Moment]:
    """So many of the moments, in their order."""
    return [moments[at] for at in sorted(random.Random(seed).sample(range(len(moments)), min(len(moments), count)))]


def run_one(directory: Path, skipped: str | None, name: str) -> Run:
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
    streams = {key: replace(stream, answers=[]) for key, stream in expected.streams.items()}
    marks = {key: marks._replace(visible=0, acknowledged=0) for key, marks in expected.marks.items()}
    promised = Expected(history, expected.topics, streams, marks, expected.ms)
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
    written = (moment for moment in first.moments if A in moment[1].marks and moment[1].marks[A].sent == 3)
    cut, expected = next(moment for moment in written if moment[0].point == "before fdatasync log")
    state, identity = cut.fall(random.Random(0), "everything")
    [path] = [path for path in state if path.endswith(".log")]
    data, sent = bytearray(state[path] or b""), expected.streams[A].sent
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
    judge.judge(one.moments if TORTURE else some(one.moments, 20, seed), STYLES * (3 if TORTURE else 1))
    assert len(one.moments) > 100
    report(f"{name}: {len(one.points)} points, {len(one.moments)} moments, {judge.cases} power cuts")


@pytest.mark.parametrize("name", ["rolls", "killed_writes", "deleted_records", "two_compacting", "topics_deleted"])
def test_a_power_cut_at_every_operation_of_recovery_loses_nothing_more(
    directory: Path, name: str, seed: int, report: Callable[[str], None]
) -> None:
    """From torn states; what the recovered log then acknowledges survives the second cut too."""
    first, rng = run(directory, name), random.Random(seed)
    moments = rng.sample(first.moments, 12 if TORTURE else 3)
    judge, points = Judge(directory / "cases", seed), 0
    for at, (cut, expected) in enumerate(moments):
        with judge.directory() as place:
            second = run_recovery(place / "run", cut, expected, f"{seed} {at}", "any")
            points += len(second.points)
            with judge.directory() as cases:
                inner = Judge(cases, seed)
                inner.judge(
                    some(second.moments, 40 if TORTURE else 20, seed),
                    tuple(rng.sample(STYLES[:6], 2 if TORTURE else 1)),
                )
                judge.cases += inner.cases
    report(f"recovery from {len(moments)} cuts in {name}: {points} points, {judge.cases} power cuts")


def test_a_copy_of_a_directory_in_use_survives_a_power_cut_at_every_operation_of_its_recovery(
    directory: Path, seed: int, report: Callable[[str], None]
) -> None:
    """Its slots are ahead of its segments, and are never believed."""
    one = run_copy(directory)
    judge = Judge(directory / "cases", seed)
    judge.judge(one.moments, STYLES * (3 if TORTURE else 1))
    report(f"copied: {len(one.points)} points, {len(one.moments)} moments, {judge.cases} power cuts")


@pytest.mark.parametrize(
    ("name", "survived"), [*((name, False) for name in RUNS), ("two_logs", True), ("two_compacting", True)]
)
def test_a_power_cut_after_a_kill_at_every_operation_loses_nothing(
    directory: Path, name: str, survived: bool, seed: int, report: Callable[[str], None]
) -> None:
    """A process is killed, another goes on where it stopped; what that one acknowledges survives."""
    points, rng = run(directory / "cases", name, NOTHING).points, random.Random(seed)
    numbers = range(seed % 40, len(points), max(1, len(points) // (100 if TORTURE else 25)))
    renames = [number for number, point in enumerate(points) if point.startswith("after rename")]
    judge, kills = Judge(directory / "cases", seed), 0
    for number in sorted({*numbers, *rng.sample(renames, min(len(renames), 15))}):
        one = killed(directory / str(number), name, number, survived=survived)
        if one is not None:
            judge.judge([one.moments[-1]], CORNERS if TORTURE else CORNERS[:1])
            judge.judge(some(one.moments, 4 if TORTURE else 3, number), CORNERS if TORTURE else ("newest name",))
            kills += 1
    assert kills > 20
    who = "a survivor" if survived else "a new process"
    report(f"{name}: killed at {kills} of {len(points)} points, {who} goes on, {judge.cases} power cuts")


def killed(
    directory: Path, name: str, number: int, skipped: str | None = None, *, survived: bool = False
) -> Run | None:
    """The run *name*, killed at point *number* and taken up by another; None if it was over before.

    By one who opens the log, which is alone then, or who had it open all the time and *survived*.
    """
    directory.mkdir()
    one = Run(directory / "run", skipped, killed_at=number, noting=0)
    one.root.mkdir()
    history = one.begin()
    try:
        RUNS[name](history)
    except Killed:
        history.expected()  # Notes what could be seen by then.
        others = (log for log in history.logs if log is not history.acting)
        history.close(next(others, None) if survived else None)
        one.files.dead = False
    else:
        history.close()
        return None
    one.noting = 60 if TORTURE else 15  # For the most part while the log is opened.
    resume(history, reopen=history.log is None)
    one.noting += 1
    one.end()
    return one


def test_a_directory_made_with_its_parents_survives(directory: Path) -> None:
    """The names of all of them are durable, not only the last one's."""
    files = CrashFiles(directory)
    with Log(directory / "one" / "two" / "data", create=True, files=files) as log:
        log.create_topic("t", 1)
        state, _ = files.cut("").fall(random.Random(0), "nothing unsynced")
    assert "one/two/data/catalogue" in state


def test_the_first_append_time_of_a_segment_is_synced_though_its_second_was_before(directory: Path, seed: int) -> None:
    """The segment was synced when it was empty, and the clock went back."""
    one = Run(directory / "run")
    one.root.mkdir()
    history = one.begin()
    log = history.open()
    history.send(A, 100)
    history.tick(SMALL.retention_ms // 1000 + 1)
    history.retain(A)
    log.sync(history.partition(A))
    history.clock.ms = 1_700_000_000_000
    history.send(A, 3000)
    history.send(A, 3000)
    one.end()
    Judge(directory / "cases", seed).judge([one.moments[-1]], CORNERS[:1])


def test_an_append_time_that_a_kill_has_torn_spoils_no_others_in_a_compaction(directory: Path) -> None:
    """A segment that is closed behind it, for its age, is one of those that are copied into one."""
    one = Run(directory / "run", NOTHING)
    one.root.mkdir()
    history = one.begin()
    log = history.open()
    partition = history.partition(TABLE)
    for name in ("a", "b"):
        history.send(TABLE, put(**{name: 100}))
        history.tick()
        with partition.segments()[-1].appended_path.open("ab") as file:
            file.write((history.clock.ms // 1000).to_bytes(8)[:5])  # A write is killed at the end of a page.
        history.tick(COMPACTED.retention_ms // 1000)
        history.retain(TABLE)
        history.tick()
    history.send(TABLE, put(c=100))
    history.look(partition)
    history.compact(TABLE)
    assert len(log.partition(log.topic("table"), 0).segments()) == 2
    assert dict(append_times(partition)) == history.streams[TABLE].times
    history.close()
    check_files(one.root / "data")


# Mutations: without any one of its syncs the log must be found out.

EMPTY = "it is empty; its first batch is synced with it before it is acknowledged"
COPIED = "it is synced again with what is copied into it, before the manifest names it"
NAMED = "the directory is synced again, for the next segment's producers, before a manifest closes this one"
HARMLESS = {
    "fdatasync shared in making room for slots": "after a cut slots say where a scan begins; zeros, at the start",
    "fdatasync appended in cutting append times": "a writer's first sync is of it too; what was cut is cut again",
    "fdatasync log in first append (new)": EMPTY,
    "fdatasync log in roll (new)": EMPTY,
    "fdatasync appended in first append (new)": EMPTY,
    "fdatasync appended in roll (new)": EMPTY,
    "fdatasync log in rebuild (new)": COPIED,
    "fdatasync appended in rebuild (new)": COPIED,
    "sync_directory partition in roll (index)": NAMED,
    "sync_directory partition in rebuild (index)": NAMED,
    "sync_directory partition in reserving generations (manifest)": (
        "they are kept from processes that run, which see them; all that a cut takes back is files nobody names"
    ),
    "sync_directory partition in noting how far it came (manifest)": "the next compaction looks at more than it must",
    "sync_directory topics in removing a topic's files": "no catalogue names them; the next opener removes them",
}


def test_without_any_one_of_its_syncs_a_log_is_found_out(
    directory: Path, seed: int, report: Callable[[str], None]
) -> None:
    """Or else it is said why it can do without."""
    (directory / "whole").mkdir()
    whole = {kind: make(directory / "whole", NOTHING) for kind, make in KINDS.items()}
    table = {}
    for number, site in enumerate(sorted(set().union(*(one.sites for one in whole.values())))):
        (directory / str(number)).mkdir()
        kinds = [kind for kind, one in whole.items() if site in one.sites]
        table[site] = caught(directory / str(number), site, kinds, seed)
    lines = [f"{site:62} {check or 'harmless: ' + HARMLESS.get(site, '?')}" for site, check in table.items()]
    report(f"{'without':62} is found by\n" + "\n".join(lines))
    assert {site for site, check in table.items() if not check} == set(HARMLESS)


def run_killed(directory: Path, skipped: str | None, name: str, site: str) -> Run:
    """Killed when something has its name and the name is not durable: before the sync at *site*."""
    directory = directory / f"killed {name}"
    directory.mkdir()
    number = run(directory, name, NOTHING).sites[site]
    one = killed(directory / "again", name, number, skipped)
    assert one is not None
    return one


KILLS = {
    "topics_and_appends": "sync_directory partition in first append (manifest)",
    "deleted_records": "sync_directory partition in moving the log start (manifest)",
    "compacted": "sync_directory partition in putting a copy in place (manifest)",
    "topics_deleted": "sync_directory data in deleting a topic (catalogue)",
}
KINDS: dict[str, Callable[[Path, str | None], Run]] = {
    "copied": run_copy,
    "recovered": lambda directory, skipped: run_torn(directory / "torn", skipped),
    **{f"killed {name}": partial(run_killed, name=name, site=site) for name, site in KILLS.items()},
    **{name: partial(run_one, name=name) for name in RUNS},
}
"""Every kind of run, in a directory, with one sync left out."""


def caught(directory: Path, site: str, kinds: list[str], seed: int) -> str | None:
    """The check that sees that *site* is missing, and in which run."""
    harmless = site in HARMLESS and not TORTURE
    kinds = random.Random(seed).sample(kinds, min(len(kinds), 2)) if harmless else kinds
    runs: dict[str, Run] = {}
    for count in (3,) if harmless else (10, 1 << 30):  # Most are seen at once.
        for kind in kinds:
            one = runs[kind] = runs.get(kind) or KINDS[kind](directory, site)
            (place := directory / f"cases of {kind}").mkdir(exist_ok=True)
            for style in STYLES:
                try:
                    Judge(place, seed).judge(some(one.moments, count, seed), (style,))
                except Violation as violation:
                    return f"{violation.check}, in {kind}"
    return None
