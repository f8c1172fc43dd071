"""The ways in which processes that share a log lose records, one test each; test_scenarios.py lists them all."""

from __future__ import annotations

import os
import random
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from framework.log import Files, Log, TopicSettings
from framework.log.errors import Conflict, OffsetOutOfRange, PartitionBusy, PartitionFailed
from framework.log.locks import PARTITION_LOCK
from tests.faults.log_power import TORTURE
from tests.faults.one_partition import append, batch, read_all, the
from tests.log.conftest import Child, readable

pytestmark = pytest.mark.slow
LIMIT_S = 30
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


def test_f05_a_failed_sync_is_known_to_all_and_is_not_tried_again(tmp_path: Path, start: Any) -> None:
    """The kernel has marked the pages clean: another sync would say yes, and the record would be nowhere."""

    class Refusing(Files):
        def fdatasync(self, fd: int) -> None:
            if os.readlink(f"/proc/self/fd/{fd}").endswith(".log") and refused:
                raise OSError(5, "Input/output error")

    refused: list[bool] = []
    script = """
    log = Log(sys.argv[1])
    partition = log.partition(log.topic("t"), 0)
    try:
        log.append(partition, batches(b"other")).result(60)
    except PartitionFailed:
        say("failed", partition.high_watermark)
    os._exit(0)
    """
    with Log(tmp_path / "data", create=True, files=Refusing()) as log:
        log.create_topic("t", 1)
        append(log, b"durable")
        refused.append(True)
        with pytest.raises(OSError, match="Input/output error"):
            append(log, b"lost?")
        refused.clear()
        other = start(script, log.path)
        assert other.hear() == "failed 1"
        other.finish()
        with pytest.raises(PartitionFailed):
            append(log, b"mine")
        assert read_all(log) == [b"durable"]
        old = the(log).segments()[-1].path
    with Log(tmp_path / "data") as log:
        assert the(log).segments()[-1].path != old, "what was not durable is copied, and synced there"
        assert read_all(log) == [b"durable", b"lost?"]
        assert append(log, b"mine") == 2


def test_f09_a_topic_that_is_made_anew_gets_nothing_of_those_who_have_the_old_one_open(log: Log, start: Any) -> None:
    script = (
        HELD
        + """
reader = log.reader(partition, 0)
reader.read()
say(partition.topic.id)
hear()
for use in (lambda: log.append(partition, batches(b"stale")).result(60), log.reader(partition, 0).read):
    try:
        say(use())
    except UnknownTopic:
        say("unknown")
say(log.topic("t").id)
hear()
"""
    )
    other = start(script, log.path)
    old = other.hear()
    log.delete_topic("t")
    log.create_topic("t", 1)
    append(log, b"new")
    other.say()
    assert [other.hear(), other.hear()] == ["unknown", "unknown"]
    assert other.hear() == log.topic("t").id != old
    assert read_all(log) == [b"new"]


def test_f10_who_knows_an_old_list_of_segments_takes_a_removed_one_for_removed_and_not_for_damaged(
    tmp_path: Path, start: Any
) -> None:
    """Readers and writers of another process go on where the log begins now."""
    script = """
    log = Log(sys.argv[1])
    partition = log.partition(log.topic("t"), 0)
    readers = [log.reader(partition, offset) for offset in (0, 1, 4)]
    for reader in readers:
        reader.read(1)
    say(len(partition.segments()))
    hear()
    for reader in [*readers, log.reader(partition, 0), log.reader(partition, 3)]:
        reader.close()
        try:
            reader.read(1)
        except OffsetOutOfRange as error:
            say(error)
        else:
            say("read", reader.offset - 1)
    say(len(partition.segments()), log.append(partition, batches(b"mine" * 800)).result(60))
    hear()
    """
    with Log(tmp_path / "data", create=True) as log:
        log.create_topic("t", 1, SMALL)
        for number in range(6):
            append(log, b"%d" % number * 3000)
        other = start(script, log.path)
        assert other.hear() == "6"
        assert the(log).delete_records(4) == 4
        other.say()
        said = [other.hear() for _ in range(6)]
        assert [text.partition(": ")[0] for text in said[:2]] == ["t-0 has no offset 1", "t-0 has no offset 2"]
        assert said[2] == "read 5"
        assert [text.partition(": ")[2] for text in said[3:5]] == ["log start is 4, log end is 6"] * 2
        assert said[5] == "2 6"
        assert read_all(log, 4) == [b"4" * 3000, b"5" * 3000, b"mine" * 800]
        with pytest.raises(OffsetOutOfRange):
            read_all(log, 3)


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


def test_f14_who_waits_is_woken_by_another_process_and_misses_no_ring(log: Log, start: Any) -> None:
    """One that rang before the wait counts; while nobody writes it is still."""
    bell = log.doorbell()
    child = start(HELD + 'hear()\nlog.append(partition, batches(b"again")).result(60)\nhear()', log.path)
    while the(log).high_watermark < 1:
        assert bell.polls or readable(bell.fd, LIMIT_S), "it never rang"
        bell.wait(LIMIT_S)
    bell.drain()
    assert bell.polls or not readable(bell.fd, 0)
    child.say()
    while the(log).high_watermark < 2:
        assert bell.polls or readable(bell.fd, LIMIT_S), "it never rang"
        bell.wait(LIMIT_S)
    bell.close()
    assert read_all(log) == [b"child", b"again"]


def test_f15_a_directory_that_is_open_under_another_kernel_is_refused(
    log: Log, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Marks and locks of two machines know nothing of each other; the one that was there first goes on."""
    path = log.path
    child = start(HELD + "say('open')\nhear()\nsay(log.append(partition, batches(b'more')).result(60))", path)
    assert child.hear() == "open"
    log.close()
    monkeypatch.setattr("framework.log.log.boot_id", lambda: uuid.uuid4().bytes)
    with pytest.raises(Conflict, match="open under another boot id"):
        Log(path)
    child.say()
    assert child.hear() == "1"
