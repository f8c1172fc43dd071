"""The ways in which logs have lost records, one test each; numbered as where they were first written down.

    F1   a kill inside a write                       here
    F2   stale bytes behind a cut come back          here; tests/log/test_recovery.py, "sound batches behind a torn one"
    F3   a duplicate acknowledged before the first   tests/log/test_committer.py, "a duplicate is acknowledged only"
    F4   locks of the dead, kept by their children   here; tests/log/test_log.py, "after a fork"
    F5   a failed sync that only one knows of        tests/log/test_committer.py; test_power_cut.py, `failed_sync`
    F6   who moves the high watermark, how far       tests/log/test_shared.py, "never goes back"; test_partition.py,
                                                     "a roll syncs"; test_kill.py, "is brought to disk by others"
    F7   one mark for three things                   here; tests/log/test_recovery.py, "damage below the recovery point"
    F8   append times                                here; tests/log/test_partition.py, "append times"
    F9   a topic deleted under another process       tests/log/test_retention.py, "a deleted topic takes no appends"
    F11  recovery while others write                 here; tests/log/test_recovery.py, "a second opener waits"
    F12  a holder that is stopped                    here
    F14  waking up                                   tests/log/test_doorbell.py; test_log.py, "is woken and misses"
    F15  two kernels on one directory                tests/log/test_shared.py, "open under another boot is refused"
    F17  producers that outlive their state          tests/log/test_producers.py; tests/state/test_store_and_log.py
    F18  more than five batches, 2^31 sequences      tests/log/test_producers.py, "ten batches", "behind two to the 31"

F10 and F16 are about what the log does not have yet, F13 is a measurement: compaction, transactions, preallocation.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from framework.log import Log, NewRecord, Partition, TopicSettings, decode, encode
from framework.log.errors import PartitionBusy
from framework.log.segment import APPENDED_MAGIC, ENTRY
from framework.log.shared import PARTITION_LOCK
from tests.faults.crash_files import CrashFiles, watched_stores
from tests.faults.log_disk import State, materialize
from tests.faults.log_history import DirectLog, SteppingClock
from tests.faults.log_power import TORTURE
from tests.log.conftest import Child

pytestmark = pytest.mark.slow
SMALL = TopicSettings(segment_bytes=4096)
HELD = """
log = Log(sys.argv[1])
partition = log.partition(log.topic("t"), 0)
log.append(partition, batches(b"child")).result(60)
"""


@pytest.fixture
def start() -> Iterator[Callable[..., Child]]:
    """Starts child processes; none outlives the test."""
    started: list[Child] = []

    def start_it(script: str, *arguments: object) -> Child:
        started.append(Child(script, *arguments))
        return started[-1]

    yield start_it
    for one in started:
        one.close()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """A log with a topic `t`, whose directory others open too."""
    with Log(tmp_path / "data", create=True) as log:
        log.create_topic("t", 1, TopicSettings(segment_bytes=1 << 30))
        yield log


def the(log: Log) -> Partition:
    """The one partition."""
    return log.partition(log.topic("t"), 0)


def batch(value: bytes, **options: Any) -> bytearray:
    """*value* as one batch."""
    [one] = encode([NewRecord(None, value, 0)], max_batch_bytes=1 << 23, **options)
    return one


def append(log: Log, *values: bytes) -> int:
    """Append a batch of each value; the first offset, once it is durable."""
    return log.append(the(log), [batch(value) for value in values]).result(60)


def read_all(log: Log) -> list[bytes]:
    """Every value; offsets must be dense from 0."""
    reader, records = log.reader(the(log), 0), []
    while batches := reader.read(1 << 23).batches:
        records += [record for _, batch in batches for record in decode(batch)]
    reader.close()
    assert [record.offset for record in records] == list(range(len(records)))
    return [record.value or b"" for record in records]


def after_cut(files: CrashFiles, root: Path, style: str, keep: str = "") -> State:
    """A directory as a power cut leaves it; the file named *keep* has lost nothing."""
    cut = files.cut("")
    state, identity = cut.fall(random.Random(0), style)
    whole, _ = cut.fall(random.Random(0), "everything")
    state |= {path: data for path, data in whole.items() if path == keep}
    root.mkdir()
    materialize(state, identity, root)
    return state


def test_f01_a_kill_inside_an_unaligned_write_of_any_size_leaves_nothing_torn_behind(
    log: Log, start: Any, seed: int, report: Callable[[str], None]
) -> None:
    """This process has the log open all the while, appends behind each torn write, and never sees any of it."""
    script = """
    import random
    chance, log = random.Random(int(sys.argv[2])), Log(sys.argv[1])
    partition = log.partition(log.topic("t"), 0)
    record = lambda size: encode([NewRecord(None, bytes([65 + size % 26]) * size, 0)], max_batch_bytes=1 << 23)[0]
    while True:
        ready = [record(chance.randrange(70_000, 2_000_000) | 1) for _ in range(8)]
        hear()
        say("writing")
        log.append(partition, ready).result(60)
    """
    chance, torn, kills = random.Random(seed), 0, 100 if TORTURE else 12
    append(log, b"mine")
    path = the(log).segments()[0].path
    for kill in range(kills):
        victim = start(script, log.path, chance.getrandbits(32))
        for _ in range(chance.randrange(1, 4)):
            size, offset = path.stat().st_size, the(log).log_end
            victim.say()
            assert victim.hear() == "writing"
        wanted = size + chance.randrange(2_000_000)
        while path.stat().st_size < wanted and the(log).log_end == offset:
            assert victim.process.poll() is None
        victim.kill()
        written = log.shared.written(the(log).slot)
        torn += path.stat().st_size > written.position
        assert append(log, b"mine") == written.offset
        values = read_all(log)
        assert len(values) == written.offset + 1
        assert all(value == b"mine" or value == bytes([65 + len(value) % 26]) * len(value) for value in values)
        assert values.count(b"mine") == kill + 2
    report(f"{kills} kills, {torn} of them inside a write; {len(values)} records")


def test_f02_bytes_behind_a_cut_do_not_come_back_behind_a_batch_of_the_same_size(tmp_path: Path) -> None:
    """Two batches were written by one who was killed; the next one's is as long as the first."""
    root = tmp_path / "disk"
    root.mkdir()
    files = CrashFiles(root)
    producer = {"producer_id": 1 << 62 | 1, "producer_epoch": 0}
    stale = [bytes(batch(b"%d" % at * 20, base_sequence=at, **producer)) for at in range(2)]
    with watched_stores(), DirectLog(root / "data", create=True, files=files) as log:
        log.create_topic("t", 1)
        log.commit(the(log), [batch(b"first")])
        mark = the(log).segments()[-1].path.stat().st_size
        fd = files.open(the(log).segments()[-1].path)
        files.pwritev(fd, [stale[0][:7] + b"\1" + stale[0][8:], stale[1]], mark)
        files.close(fd)
        states = []
        files.on_point = lambda point: states.append(files.cut(point)) if point == "after write log" else None
        log.commit(the(log), [batch(b"x" * 20, base_sequence=0, producer_id=1 << 62 | 2, producer_epoch=0)])
    for number, cut in enumerate(states):
        (tmp_path / str(number)).mkdir()
        materialize(*cut.fall(random.Random(0), "no truncation"), tmp_path / str(number))
        with DirectLog(tmp_path / str(number) / "data") as log:
            log.commit(the(log), stale)
            assert read_all(log) == [b"first", b"x" * 20, b"0" * 20, b"1" * 20]
    assert states


def test_f04_a_lock_goes_with_its_process_although_a_forked_child_lives_on(log: Log, start: Any) -> None:
    script = (
        HELD
        + """
reading, writing = os.pipe()
if not os.fork():
    os.close(1)
    sys.stdin.readline()  # Lives on until the test is over.
    os._exit(0)
with log.shared.locked((1 << 41) + partition.slot, "partition"):
    say("holding")
    hear()
"""
    )
    victim = start(script, log.path)
    assert victim.hear() == "holding"
    assert log.shared.holder(PARTITION_LOCK + the(log).slot) == victim.pid
    victim.kill()
    assert append(log, b"mine") == 1
    assert read_all(log) == [b"child", b"mine"]


@pytest.mark.parametrize("durability", ["os", "group"])
def test_f07_marks_that_reached_the_disk_before_the_records_are_no_damage(tmp_path: Path, durability: str) -> None:
    """What was not synced is gone, and all that the marks say is there; what was synced stays."""
    root = tmp_path / "disk"
    root.mkdir()
    files = CrashFiles(root)
    with watched_stores(), DirectLog(root / "data", create=True, files=files) as log:
        log.create_topic("t", 1, TopicSettings(durability=durability))
        log.commit(the(log), [batch(b"synced")])
        log.sync(the(log))
        mark = the(log).sync()
        the(log).advance(mark)
        the(log).append([[batch(b"not synced")]])
        assert the(log).log_end == 2
        after_cut(files, tmp_path / "after", "nothing unsynced", keep="data/shared")
    with DirectLog(tmp_path / "after" / "data") as log:
        assert read_all(log) == [b"synced"]
        assert log.commit(the(log), [batch(b"next")]) == 1
        assert read_all(log) == [b"synced", b"next"]


def test_f08_append_times_do_not_go_back_when_the_clock_is_wrong_after_a_power_cut(tmp_path: Path) -> None:
    """The active segment is empty then, so that the last second is known to the one before it only."""
    root, clock = tmp_path / "disk", SteppingClock()
    root.mkdir()
    files = CrashFiles(root)
    with watched_stores(), DirectLog(root / "data", create=True, files=files, clock=clock) as log:
        log.create_topic("t", 1, SMALL)
        log.commit(the(log), [batch(bytes(3000))])
        cuts = []
        files.on_point = lambda point: cuts.append(files.cut(point)) if point == "before write log" else None
        log.commit(the(log), [batch(bytes(3000))])
    (tmp_path / "after").mkdir()
    materialize(*cuts[-1].fall(random.Random(0), "nothing unsynced"), tmp_path / "after")
    late, clock.ms = clock.ms // 1000, 1_000_000_000_000
    with DirectLog(tmp_path / "after" / "data", clock=clock) as log:
        assert [segment.base_offset for segment in the(log).segments()] == [0, 1]
        log.commit(the(log), [batch(b"next")])
        entries = the(log).segments()[-1].appended_path.read_bytes()[len(APPENDED_MAGIC) :]
        assert list(ENTRY.iter_unpack(entries)) == [(late, 1)]


def test_f08_zeros_in_place_of_an_entry_are_no_append_time(tmp_path: Path) -> None:
    """The file was as long as it should be and its data was not there: retention would take 1970 for old."""
    root, clock = tmp_path / "data", SteppingClock()
    with DirectLog(root, create=True, clock=clock) as log:
        log.create_topic("t", 1)
        log.commit(the(log), [batch(b"first")])
        path = the(log).segments()[-1].appended_path
    path.write_bytes(APPENDED_MAGIC + bytes(ENTRY.size))
    page = bytearray((root / "shared").read_bytes())
    page[16:32] = b"an earlier boot!"
    (root / "shared").write_bytes(page)
    with DirectLog(root, clock=clock) as log:
        assert read_all(log) == [b"first"]
        [entry] = ENTRY.iter_unpack(path.read_bytes()[len(APPENDED_MAGIC) :])
        assert entry == (int(the(log).segments()[-1].path.stat().st_mtime), 0), "the file's last change"


def test_f11_who_opens_while_another_is_inside_a_write_cuts_nothing(log: Log, start: Any) -> None:
    script = (
        HELD
        + """
class Slow(Files):
    def pwritev(self, fd, buffers, position):
        data = b"".join(buffers)
        os.pwrite(fd, data[: len(data) // 2], position)
        say("writing")
        hear()
        os.pwrite(fd, data[len(data) // 2 :], position + len(data) // 2)
        return len(data)
log.close()
log = Log(sys.argv[1], files=Slow())
say(log.append(log.partition(log.topic("t"), 0), batches(b"long" * 1000)).result(60))
"""
    )
    writer = start(script, log.path)
    assert writer.hear() == "writing"
    size = the(log).segments()[-1].path.stat().st_size
    with Log(log.path) as here:
        assert read_all(here) == [b"child"]
    opener = start('log = Log(sys.argv[1])\nsay(log.partition(log.topic("t"), 0).log_end)', log.path)
    assert opener.hear() == "1"
    assert the(log).segments()[-1].path.stat().st_size == size
    writer.say()
    assert writer.hear() == "1"
    assert read_all(log) == [b"child", b"long" * 1000]


def test_f12_a_stopped_holder_is_named_and_stops_others_for_a_bounded_time(log: Log, start: Any) -> None:
    script = (
        HELD
        + """
with log.shared.locked((1 << 41) + partition.slot, "partition"):
    say("holding")
    hear()
say("gone")
hear()
"""
    )
    holder = start(script, log.path)
    assert holder.hear() == "holding"
    os.kill(holder.pid, signal.SIGSTOP)
    with (
        pytest.raises(PartitionBusy, match=f"locked by process {holder.pid} for 0.05 s"),
        log.shared.locked(PARTITION_LOCK + the(log).slot, "partition t-0", 0.05),
    ):
        pass
    os.kill(holder.pid, signal.SIGCONT)
    waiting = log.append(the(log), [batch(b"mine")])
    holder.say()
    assert holder.hear() == "gone"
    assert waiting.result(60) == 1
