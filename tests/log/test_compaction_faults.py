"""Compaction that is killed, refused by the disk or meets damage: nothing is lost, and nothing stays behind."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from framework.log import Log, Partition, TopicSettings
from framework.log.appended import ENTRY_BYTES, pack_entry
from framework.log.errors import Damaged, UnknownTopic
from tests.log.compacted_log import (
    COMPACT,
    TORTURE,
    Plain,
    fill,
    findings,
    keyed,
    make,
    names_in,
    names_that_should_be,
    offsets_of,
    open_quiet,
    put,
    records_of,
    scratch,
)
from tests.log.conftest import FaultyFiles, ManualClock

DISK_REFUSES = OSError(errno.EIO, "Input/output error")


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where the data directory of a test is, in memory if that can be: no disk is under test."""
    with scratch() as path:
        yield path


class Killed(BaseException):
    """The process ends here, as by a signal."""


def prepared(log: Log) -> tuple[Partition, list[Plain]]:
    """Six closed segments, of which two groups become one each, with tombstones; what was written."""
    partition = make(log)
    fill(log, partition, 8)
    put(log, partition, keyed(b"k0", None), keyed(b"other", bytes(500)))
    fill(log, partition, 17, keys=7)
    return partition, records_of(log)


def check_nothing_is_lost(log: Log, written: list[Plain], active: int) -> None:
    """The last record of each key, and all of the active segment, are there; nothing is that was not written."""
    found, last = records_of(log), {record[1]: record for record in written if record[0] < active}
    assert [record for record in found if record not in written] == []
    assert [record for record in last.values() if record not in found] == []
    assert [record[0] for record in found] == sorted({record[0] for record in found})
    assert [record for record in found if record[0] >= active] == [r for r in written if r[0] >= active]


def operations(path: Path) -> list[tuple[str, Path]]:
    """Every operation on files of a compaction that nothing stops."""
    files = FaultyFiles()
    with open_quiet(path, files=files) as log:
        prepared(log)
        files.calls.clear()
        log.compact("t")
        return list(files.calls)


def fail_at(files: FaultyFiles, number: int, error: BaseException, *, for_good: bool) -> None:
    """Raise *error* at the operation *number* from now on, and *for_good* at all that follow."""
    left = [number]

    def before(operation: str, path: Path) -> None:
        left[0] -= 1
        if left[0] == -1 or (for_good and left[0] < 0):
            raise error

    files.before = before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "for_good"),
    [(Killed(), True), (KeyboardInterrupt(), False), (DISK_REFUSES, False), (DISK_REFUSES, True)],
    ids=["killed", "interrupted", "refused once", "refused from then on"],
)
def test_a_compaction_that_ends_at_any_operation_loses_nothing(error: BaseException, for_good: bool, seed: int) -> None:
    """Then and after the next opening, which leaves no file that is not named; the next compaction is whole.

    Every operation with FRAMEWORK_TORTURE=1, otherwise a quarter of them.
    """
    with scratch() as path:
        count = len(operations(path))
    assert count > 40
    for number in range(count) if TORTURE else sorted(random.Random(seed).sample(range(count), count // 4)):
        with scratch() as path:
            files = FaultyFiles()
            with open_quiet(path, files=files) as log:
                partition, written = prepared(log)
                active = partition.segments()[-1].base_offset
                fail_at(files, number, error, for_good=for_good)
                with pytest.raises(type(error)):
                    log.compact("t")
                if not for_good:
                    files.before = lambda operation, path: None
                    check_nothing_is_lost(log, written, active)
                files.before = lambda operation, path: None
            with open_quiet(path) as log:
                partition = log.partition(log.topic("t"), 0)
                assert names_in(partition) == names_that_should_be(partition), number
                check_nothing_is_lost(log, written, active)
                log.compact("t")
                closed = [record[1] for record in records_of(log) if record[0] < active]
                assert len(closed) == len(set(closed)), number
                check_nothing_is_lost(log, written, active)
                assert put(log, partition, keyed(b"k1")) == written[-1][0] + 1
            assert findings(path) == [], number


def test_a_copy_is_durable_with_its_names_before_it_is_the_log_and_the_old_files_go_last() -> None:
    with scratch() as path:
        calls = operations(path)
    places = {(operation, file.name): at for at, (operation, file) in enumerate(calls)}
    copies = {name.removesuffix(".index") for operation, name in places if operation == "rename"} - {"manifest"}
    manifests = [at for at, (operation, file) in enumerate(calls) if (operation, file.name) == ("rename", "manifest")]
    syncs = [at for at, (operation, _) in enumerate(calls) if operation == "sync_directory"]
    assert len(copies) > 1
    for copy in copies:
        named = places["rename", f"{copy}.index"]
        assert all(places["fdatasync", f"{copy}{end}"] < named for end in (".log", ".appended", ".producers"))
        assert places["fdatasync", f"{copy}.index.tmp"] < named
        taken = min(at for at in manifests if at > named)
        assert any(named < at < taken for at in syncs)
        unlinked = [at for at, (operation, _) in enumerate(calls) if operation == "unlink" and at > named]
        assert any(taken < at < min(unlinked) for at in syncs)


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["pwritev", "rename", "unlink", "fdatasync"] if TORTURE else ["rename"])
def test_a_process_that_is_killed_while_it_compacts_loses_nothing(
    directory: Path, child: Callable[..., Any], operation: str
) -> None:
    """A real one, by SIGKILL, at every operation of a kind; others go on without waiting for it."""
    script = """
    kill_at, operation, left = sys.argv[1], sys.argv[2], [int(sys.argv[3])]
    class Dying(Files):
        pass
    def dying(name):
        real = getattr(Files, name)
        def call(self, *arguments):
            if armed and name == operation:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(self, *arguments)
        return call
    armed = False
    setattr(Dying, operation, dying(operation))
    log = Log(Path(kill_at), files=Dying())
    armed = True
    log.compact("t")
    say("whole")
    """
    with open_quiet(directory) as log:
        partition, written = prepared(log)
        active = partition.segments()[-1].base_offset
        for number in range(100):
            process = child(script, directory, operation, number)
            said = process.hear_rest()
            check_nothing_is_lost(log, written, active)
            if said:
                break
        assert number > 1
    with open_quiet(directory) as log:
        partition = log.partition(log.topic("t"), 0)
        assert names_in(partition) == names_that_should_be(partition)
        check_nothing_is_lost(log, written, active)
    assert findings(directory) == []


@pytest.mark.slow
def test_a_full_disk_leaves_the_log_as_it_was_and_no_files(directory: Path) -> None:
    """Whatever room was left; what was compacted before it was full may stay so."""
    with scratch() as path:
        files = FaultyFiles()
        with open_quiet(path, files=files) as log:
            partition, written = prepared(log)
            active = partition.segments()[-1].base_offset
            room = 0
            while True:
                files.room_bytes = room
                try:
                    log.compact("t")
                    break
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                finally:
                    files.room_bytes = None
                check_nothing_is_lost(log, written, active)
                left = {name for name in names_in(partition) if name != "manifest.tmp"}
                assert left == names_that_should_be(partition), room
                room += 97
            assert room > 3000
        assert findings(path) == []


# Damage.


def test_a_damaged_batch_stops_compaction_and_everything_is_left(directory: Path) -> None:
    with open_quiet(directory) as log:
        partition, _ = prepared(log)
        path = partition.segments()[2].path
        data = bytearray(path.read_bytes())
        data[-10] ^= 1
        path.write_bytes(data)
        before = {file: file.read_bytes() for file in partition.directory.iterdir() if file.name != "manifest"}
        with pytest.raises(Damaged, match=rf"{path.name} is damaged at byte \d+, near offset \d+: checksum is 0x"):
            log.compact("t")
        assert {file: file.read_bytes() for file in partition.directory.iterdir() if file.name != "manifest"} == before
        path.write_bytes(data[:-10] + bytes([data[-10] ^ 1]) + data[-9:])
        assert log.compact("t").segments > 0


@pytest.mark.parametrize("cut", [1, 500, 941, 1500, -61, -1, 0])
def test_a_segment_that_became_shorter_stops_compaction_as_damage(directory: Path, cut: int) -> None:
    """In the middle of a batch, at its end, in a header: compaction once read on for ever."""
    stop = StopAfter(1000)
    with open_quiet(directory) as log:
        partition, _ = prepared(log)
        path, size = partition.segments()[1].path, partition.segments()[1].size_bytes or 0
        os.truncate(path, size - cut if cut > 0 else -cut)
        with pytest.raises(Damaged, match=rf"{path.name} .*at byte \d+"):
            partition.compact(force=True, stop=stop)


class StopAfter:
    """Says stop when it was asked too often."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_an_entry_of_append_times_that_a_kill_tore_does_not_displace_those_behind_it(
    directory: Path, clock: ManualClock
) -> None:
    """At the end of a page of the file, which is where a kill can tear it; the next segment's are joined to it."""
    with open_quiet(directory, clock) as log:
        partition = make(log, segment_bytes=40 << 10)
        for _ in range(255):
            clock.ms += 1000
            put(log, partition, keyed(b"same", bytes(50)))
        path = partition.segments()[0].appended_path
        assert path.stat().st_size == 8 + 255 * ENTRY_BYTES
        path.write_bytes(path.read_bytes() + pack_entry(clock.ms // 1000 + 1, 255)[:8])
        while len(partition.segments()) < 3:
            put(log, partition, keyed(b"other", bytes(1000)))
            clock.ms += len(partition.segments()) // 2 * 1000
        assert path.stat().st_size % 512 == 0
        put(log, partition, keyed(b"other", bytes(1000)))
        assert findings(directory) == []
        log.alter_topic("t", TopicSettings(**{**COMPACT, "segment_bytes": 1 << 20}))
        assert log.compact("t").segments == 2
        assert len(partition.segments()) == 2, "they were joined"
        assert findings(directory) == []


# What others do meanwhile.


def test_a_topic_that_is_deleted_while_it_is_compacted_is_gone(directory: Path, files: FaultyFiles) -> None:
    with open_quiet(directory, files=files) as log:
        partition, _ = prepared(log)

        def before(operation: str, path: Path) -> None:
            if operation == "pwritev":
                files.before = lambda operation, path: None
                log.delete_topic("t")

        files.before = before
        with pytest.raises(UnknownTopic, match="topic 't' has been deleted"):
            log.compact("t")
        assert not partition.directory.exists()
        make(log, **COMPACT)


def test_records_that_are_deleted_while_they_are_compacted_stay_deleted(directory: Path, files: FaultyFiles) -> None:
    """The whole first group is gone when its copy is finished, or half of it."""
    for share in (5, 20):
        with scratch() as path, open_quiet(path, files=files) as log:
            partition, written = prepared(log)

            def before(operation: str, path: Path, partition: Partition = partition, share: int = share) -> None:
                if operation == "pwritev":
                    files.before = lambda operation, path: None
                    partition.delete_records(share)

            files.before = before
            log.compact("t")
            assert names_in(partition) == names_that_should_be(partition)
            assert partition.log_start == share
            log.compact("t")
            assert all(at >= share for at in offsets_of(log))
            active = partition.segments()[-1].base_offset
            check_nothing_is_lost(log, [record for record in written if record[0] >= share], active)
