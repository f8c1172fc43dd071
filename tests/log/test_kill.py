"""Real processes killed with SIGKILL: at random, and at every single step; what was acknowledged is there."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from framework.log import Log, Partition, TopicSettings

DEADLY = """
class Deadly(Files):
    '''Dies in front of operation number `left`, or in the middle of it where that is a write of batches.'''
    left = None
    operation = None

    def step(self, name="pwritev"):
        if name == Deadly.operation:
            return True
        if Deadly.left is not None:
            Deadly.left -= 1
            return Deadly.left < 0
        return False

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def pwritev(self, fd, buffers, position):
        if self.step():
            data = b"".join(buffers)
            os.pwrite(fd, data[: len(data) * 2 // 3], position)
            self.die()
        written = super().pwritev(fd, buffers, position)
        if self.step():
            self.die()
        return written

for name in ("pwrite", "truncate", "fdatasync", "sync_directory", "mkdir", "rename", "unlink"):
    def before(self, *arguments, name=name):
        if self.step(name):
            self.die()
        return getattr(Files, name)(self, *arguments)
    setattr(Deadly, name, before)
"""


def the(log: Log) -> Partition:
    """The one partition."""
    return log.partition(log.topic("t"), 0)


def values(records: list[Any]) -> list[bytes]:
    """The values of *records*, whose offsets must be dense from 0."""
    assert [record.offset for record in records] == list(range(len(records)))
    return [record.value.strip() for record in records]


@pytest.mark.slow
@pytest.mark.parametrize("power_cut", [False, True])
def test_what_a_killed_process_acknowledged_is_there(
    directory: Path, open_log: Any, read_all: Any, append: Any, child: Any, reboot: Any, seed: int, power_cut: bool
) -> None:
    """Small segments, so that many kills hit a roll; afterwards the slots are believed, or everything is scanned."""
    script = """
    log = Log(sys.argv[1], create=True)
    partition = log.partition(log.topic("t"), 0)
    at = partition.log_end
    while True:
        futures = [(at + n, log.append(partition, batches(b"%d" % (at + n) + b" " * 700))) for n in range(5)]
        for number, future in futures:
            assert future.result(60) == number, (future.result(), number)
            say(number)
        at += 5
    """
    chance = random.Random(seed)
    with open_log() as log:
        log.create_topic("t", 1, TopicSettings(segment_bytes=4096, index_interval_bytes=512))
    there: list[bytes] = []
    for _ in range(8):
        victim = child(script, directory)
        last = [victim.hear() for _ in range(chance.randrange(1, 400))][-1]
        victim.kill()
        acknowledged = [int(last), *map(int, victim.hear_rest())][-1]
        if power_cut:
            reboot()
        with open_log() as log:
            log.sync(the(log)).result(60)
            found = values(read_all(log, the(log)))
            assert found == [b"%d" % at for at in range(len(found))]
            assert found[: len(there)] == there
            assert len(found) > acknowledged
            there = found


@pytest.mark.slow
@pytest.mark.parametrize("power_cut", [False, True])
def test_a_process_killed_at_any_step_of_an_append_that_rolls_loses_and_doubles_nothing(
    tmp_path: Path, open_log: Any, read_all: Any, append: Any, child: Any, reboot: Any, power_cut: bool
) -> None:
    """The batch is in the log or not; sent again, as after a crash, it is there once."""
    script = (
        DEADLY
        + """
task = {"producer_id": 1 << 62 | 3, "producer_epoch": 0}
log = Log(sys.argv[1], create=True, files=Deadly())
partition = log.partition(log.create_topic("t", 1, TopicSettings(segment_bytes=4096)), 0)
for at in range(2):
    log.append(partition, batches((b"%d" % at).ljust(3000), base_sequence=at, **task)).result(60)
Deadly.left = int(sys.argv[2])
log.append(partition, batches(b"2".ljust(3000), base_sequence=2, **task)).result(60)
Deadly.left = None
say("acknowledged")
os._exit(0)
"""
    )
    task = {"producer_id": 1 << 62 | 3, "producer_epoch": 0}
    for step in range(60):
        path = tmp_path / str(step)
        said = child(script, path, step).hear_rest()
        if power_cut:
            reboot(path)
        log = open_log(path)
        partition = the(log)
        log.sync(partition).result(60)
        found = values(read_all(log, partition))
        assert found in ([b"0", b"1"], [b"0", b"1", b"2"])
        again = append(log, partition, b"2".ljust(3000), base_sequence=2, **task)
        assert again == (-1 if len(found) == 3 else 2)
        assert append(log, partition, b"3".ljust(3000), base_sequence=3, **task) == 3
        assert values(read_all(log, partition)) == [b"0", b"1", b"2", b"3"]
        if said:
            break
    assert 20 < step < 59, "every step was tried"


@pytest.mark.slow
def test_a_process_killed_at_any_step_of_its_first_append_leaves_a_partition_that_works(
    tmp_path: Path, open_log: Any, read_all: Any, append: Any, child: Any
) -> None:
    script = (
        DEADLY
        + """
log = Log(sys.argv[1], create=True, files=Deadly())
partition = log.partition(log.create_topic("t", 1), 0)
Deadly.left = int(sys.argv[2])
log.append(partition, batches(b"first")).result(60)
Deadly.left = None
say("acknowledged")
os._exit(0)
"""
    )
    for step in range(60):
        path = tmp_path / str(step)
        said = child(script, path, step).hear_rest()
        log = open_log(path)
        partition = the(log)
        append(log, partition, b"second")
        found = values(read_all(log, partition))
        assert found in ([b"second"], [b"first", b"second"])
        if said:
            break
    assert found == [b"first", b"second"]
    assert 10 < step < 59, "every step was tried"


def test_a_roll_that_was_killed_behind_its_manifest_is_finished_by_those_who_have_the_partition_open(
    directory: Path, open_log: Any, read_all: Any, append: Any, child: Any
) -> None:
    """No mark says so: they must see that the manifest is another one."""
    log = open_log()
    partition = log.partition(log.create_topic("t", 1, TopicSettings(segment_bytes=4096)), 0)
    append(log, partition, b"0".ljust(3000))
    script = """
    class Deadly(Files):
        def rename(self, source, target):
            super().rename(source, target)
            if target.name == "manifest":
                os.kill(os.getpid(), signal.SIGKILL)
    log = Log(sys.argv[1], files=Deadly())
    log.append(log.partition(log.topic("t"), 0), batches(b"lost".ljust(3000))).result(60)
    """
    assert child(script, directory).hear_rest() == []
    for at, size in [(1, 10), (2, 3000), (3, 3000)]:
        assert append(log, partition, (b"%d" % at).ljust(size)) == at
    assert values(read_all(log, partition)) == [b"0", b"1", b"2", b"3"]
    assert [segment.base_offset for segment in partition.segments()] == [0, 1, 3]
    for segment in partition.segments()[:-1]:
        assert segment.path.stat().st_size == segment.size_bytes


def test_bytes_that_a_killed_writer_left_behind_the_end_were_never_appended(
    directory: Path, open_log: Any, read_all: Any, append: Any, child: Any
) -> None:
    """They are whole and sound, but `written` does not cover them; those who have the log open see nothing of it."""
    log = open_log()
    partition = log.partition(log.create_topic("t", 1), 0)
    append(log, partition, b"first")
    script = (
        DEADLY
        + """
log = Log(sys.argv[1], files=Deadly())
partition = log.partition(log.topic("t"), 0)
log.sync(partition).result(60)
Deadly.left = 1
log.append(partition, batches(b"much longer than what comes next" * 9)).result(60)
"""
    )
    child(script, directory).hear_rest()
    path = partition.segments()[0].path
    assert path.stat().st_size > log.shared.written(partition.slot).position
    assert values(read_all(log, partition)) == [b"first"]
    assert append(log, partition, b"second") == 1
    assert values(read_all(log, partition)) == [b"first", b"second"]
    assert path.stat().st_size == log.shared.written(partition.slot).position


@pytest.mark.parametrize("attached", [True, False])
def test_what_a_killed_writer_wrote_and_did_not_sync_is_brought_to_disk_by_others(
    directory: Path, open_log: Any, read_all: Any, append: Any, child: Any, attached: bool
) -> None:
    """By the next opener, or by whoever asks for a sync; nobody waits for ever."""
    log = open_log()
    append(log, log.partition(log.create_topic("t", 1), 0), b"first")
    if not attached:
        log.close()
    script = (
        DEADLY
        + """
log = Log(sys.argv[1], files=Deadly())
partition = log.partition(log.topic("t"), 0)
log.sync(partition).result(60)
Deadly.operation = "fdatasync"
log.append(partition, batches(b"second")).result(60)
"""
    )
    child(script, directory).hear_rest()
    if attached:
        assert (the(log).log_end, the(log).high_watermark) == (2, 1)
        log.sync(the(log)).result(60)
    else:
        log = open_log()
        log.close()
        log = open_log()
    assert the(log).high_watermark == 2
    assert values(read_all(log, the(log))) == [b"first", b"second"]
