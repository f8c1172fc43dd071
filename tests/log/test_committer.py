"""Groups of appends: acknowledged in order and only when durable; what fails is refused, and nothing hangs."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from framework.log import Log, NewRecord, Partition, TopicSettings, encode
from framework.log.errors import LogClosed, OutOfOrderSequence, PartitionFailed

TIMEOUT_S = 60
PRODUCER = {"producer_id": 1 << 62 | 5, "producer_epoch": 0}


def batches(*values: bytes, **options: Any) -> list[bytearray]:
    """*values* as one batch."""
    return encode([NewRecord(None, value, 0) for value in values], max_batch_bytes=1 << 20, **options)


def values(records: list[Any]) -> list[bytes]:
    """The values of *records*, whose offsets must be dense from 0."""
    assert [record.offset for record in records] == list(range(len(records)))
    return [record.value for record in records]


class Gate:
    """Stops the committer in front of the next `fdatasync` of a segment until it is opened."""

    def __init__(self, files: Any) -> None:
        """Closed."""
        self.reached, self._opened = threading.Event(), threading.Event()
        files.before = self._stop

    def open(self) -> None:
        """Let it through, for good."""
        self._opened.set()

    def _stop(self, operation: str, path: Path) -> None:
        if operation == "fdatasync" and path.name.endswith(".log") and path.stat().st_size:
            self.reached.set()
            assert self._opened.wait(TIMEOUT_S)


def syncs(files: Any) -> list[Path]:
    """The partition directories whose segments were synced, in order."""
    return [path.parent for operation, path in files.calls if operation == "fdatasync" and path.suffix == ".log"]


def test_appends_are_acknowledged_in_the_order_of_the_calls(open_log: Any, read_all: Any) -> None:
    log = open_log()
    partition = log.partition(log.create_topic("t", 1), 0)
    order: list[int] = []
    futures = [log.append(partition, batches(b"%d" % at, b"%d+" % at)) for at in range(50)]
    for at, future in enumerate(futures):
        future.add_done_callback(lambda _, at=at: order.append(at))
    assert [future.result(TIMEOUT_S) for future in futures] == list(range(0, 100, 2))
    log.close()
    assert sorted(order) == list(range(50))
    log = open_log()
    assert values(read_all(log, log.partition(log.topic("t"), 0)))[::2] == [b"%d" % at for at in range(50)]


def test_nothing_is_acknowledged_or_readable_before_it_is_durable(open_log: Any, files: Any, read_all: Any) -> None:
    log = open_log(files=files)
    partition = log.partition(log.create_topic("t", 1), 0)
    gate = Gate(files)
    try:
        future = log.append(partition, batches(b"value"))
        assert gate.reached.wait(TIMEOUT_S)
        assert not future.done()
        assert (partition.log_end, partition.high_watermark) == (1, 0)
        assert read_all(log, partition) == []
    finally:
        gate.open()
    assert future.result(TIMEOUT_S) == 0
    assert partition.high_watermark == 1
    assert values(read_all(log, partition)) == [b"value"]


def test_whatever_arrives_during_a_sync_shares_the_next_one(open_log: Any, files: Any) -> None:
    log = open_log(files=files)
    partition = log.partition(log.create_topic("t", 1), 0)
    gate = Gate(files)
    try:
        first = log.append(partition, batches(b"first"))
        assert gate.reached.wait(TIMEOUT_S)
        files.calls.clear()
        rest = [log.append(partition, batches(b"rest")) for _ in range(20)]
    finally:
        gate.open()
    assert [future.result(TIMEOUT_S) for future in [first, *rest]] == list(range(21))
    assert len(syncs(files)) == 1


def test_a_group_over_many_partitions_syncs_each_of_them_once(open_log: Any, files: Any) -> None:
    log = open_log(files=files)
    topic = log.create_topic("t", 6)
    partitions = [log.partition(topic, number) for number in range(6)]
    for partition in partitions:
        log.sync(partition).result(TIMEOUT_S)
    gate = Gate(files)
    try:
        first = log.append(partitions[0], batches(b"first"))
        assert gate.reached.wait(TIMEOUT_S)
        files.calls.clear()
        rest = [log.append(partition, batches(b"rest")) for partition in partitions * 3]
    finally:
        gate.open()
    assert [future.result(TIMEOUT_S) for future in [first, *rest]][1:7] == [1, 0, 0, 0, 0, 0]
    assert sorted(syncs(files)) == sorted(partition.directory for partition in partitions)


@pytest.fixture
def failed(open_log: Any, files: Any, append: Any) -> tuple[Log, Any]:
    """A log whose partition t-0 holds one record and then failed to sync another."""
    log = open_log(files=files)
    partition = log.partition(log.create_topic("t", 2), 0)
    append(log, partition, b"kept")

    def fail(operation: str, path: Path) -> None:
        if operation == "fdatasync" and path.suffix == ".log":
            files.before = lambda *_: None  # Only once: the kernel, too, forgets the pages and says so once.
            raise OSError(5, "Input/output error")

    files.before = fail
    with pytest.raises(OSError, match="Input/output error"):
        append(log, partition, b"lost")
    return log, partition


def test_after_a_failed_sync_the_partition_takes_no_appends(failed: Any, append: Any, read_all: Any) -> None:
    log, partition = failed
    for _ in range(3):
        with pytest.raises(PartitionFailed, match="t-0 failed to sync"):
            append(log, partition, b"refused")
        with pytest.raises(PartitionFailed):
            log.sync(partition).result(TIMEOUT_S)
    assert partition.high_watermark == 1
    assert values(read_all(log, partition)) == [b"kept"]
    assert append(log, log.partition(log.topic("t"), 1), b"elsewhere") == 0


def test_after_a_failed_sync_other_processes_neither_append_nor_move_the_high_watermark(
    failed: Any, directory: Path, child: Any
) -> None:
    """Their sync would succeed: the kernel has marked the lost pages clean."""
    _, partition = failed
    script = """
    log = Log(sys.argv[1])
    partition = log.partition(log.topic("t"), 0)
    for future in (log.sync(partition), log.append(partition, batches(b"refused"))):
        say(type(future.exception(60)).__name__)
    """
    assert child(script, directory).hear_rest() == ["PartitionFailed"] * 2
    assert partition.high_watermark == 1


def test_a_sync_that_ends_after_another_ones_failure_does_not_move_the_high_watermark(
    open_log: Any, append: Any
) -> None:
    """Both processes had written; one of them was told about the lost pages, the other was not."""
    log = open_log()
    partition = log.partition(log.create_topic("t", 1), 0)
    append(log, partition, b"kept")
    partition.append([batches(b"lost")])
    mark = partition.sync()
    log.shared.set_flags(partition.slot, log.shared.flags(partition.slot) | 2)
    with suppress(PartitionFailed):
        partition.advance(mark)
    assert partition.high_watermark == 1


def test_a_sync_that_fails_while_rolling_fails_the_partition_too(open_log: Any, files: Any, append: Any) -> None:
    """The roll says that everything below the new segment is on disk."""
    log = open_log(files=files)
    partition = log.partition(log.create_topic("t", 1, TopicSettings(segment_bytes=4096)), 0)
    append(log, partition, b"kept")
    partition.append([batches(bytes(3000))])  # Written, not synced: another process's, say.
    failures: list[Path] = []

    def fail(operation: str, path: Path) -> None:
        if operation == "fdatasync" and path.suffix == ".log" and not failures:
            failures.append(path)
            raise OSError(5, "Input/output error")

    files.before = fail
    with pytest.raises(OSError, match="Input/output error"):
        append(log, partition, bytes(3000))
    with pytest.raises(PartitionFailed):
        append(log, partition, bytes(3000))
    assert partition.high_watermark == 1


def test_a_failed_partition_takes_appends_again_once_it_is_reopened(
    failed: Any, open_log: Any, append: Any, read_all: Any
) -> None:
    """As its error says; offset 1 was written and may be there, but was never acknowledged."""
    log, _ = failed
    log.close()
    log = open_log(create=False)
    partition = log.partition(log.topic("t"), 0)
    offset = append(log, partition, b"again")
    found = values(read_all(log, partition))
    assert found[0] == b"kept"
    assert found[offset:] == [b"again"]


@pytest.mark.parametrize("room_bytes", [0, 1, 60, 61, 70, 1000])
def test_a_full_disk_refuses_appends_stays_readable_and_goes_on_when_there_is_room(
    open_log: Any, files: Any, append: Any, read_all: Any, directory: Path, room_bytes: int
) -> None:
    """The first part of the batch may be in the file: it was never appended."""
    log = open_log(files=files)
    partition = log.partition(log.create_topic("t", 1), 0)
    append(log, partition, b"before")
    for _ in range(2):
        files.room_bytes = room_bytes
        with pytest.raises(OSError, match="No space left"):
            append(log, partition, bytes(2000))
        assert values(read_all(log, partition)) == [b"before"]
        assert (partition.log_end, partition.high_watermark) == (1, 1)
    files.room_bytes = None
    assert append(log, partition, b"after") == 1
    assert values(read_all(log, partition)) == [b"before", b"after"]
    path = partition.segments()[-1].path
    assert path.stat().st_size == log.shared.written(partition.slot).position, "nothing torn is left behind the end"


def test_an_idempotent_batch_that_the_full_disk_refused_is_no_duplicate(
    open_log: Any, files: Any, append: Any, read_all: Any
) -> None:
    log = open_log(files=files)
    partition = log.partition(log.create_topic("t", 1), 0)
    assert append(log, partition, b"zero", base_sequence=0, **PRODUCER) == 0
    files.room_bytes = 100
    with pytest.raises(OSError, match="No space left"):
        append(log, partition, bytes(300), base_sequence=1, **PRODUCER)
    files.room_bytes = None
    assert append(log, partition, bytes(300), base_sequence=1, **PRODUCER) == 1
    assert append(log, partition, bytes(300), base_sequence=1, **PRODUCER) == -1
    assert values(read_all(log, partition)) == [b"zero", bytes(300)]


def test_a_disk_that_takes_only_the_first_part_of_a_write_is_a_full_disk(directory: Path, child: Any) -> None:
    """A real short write: the file size limit cuts the batch, then the kernel refuses the rest."""
    script = """
    import resource
    log = Log(sys.argv[1], create=True)
    partition = log.partition(log.create_topic("t", 1), 0)
    log.append(partition, batches(b"before")).result(60)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    say(type(log.append(partition, batches(bytes(300_000))).exception(60)).__name__)
    say(partition.segments()[0].path.stat().st_size)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    say(log.append(partition, batches(b"after")).result(60))
    say([len(decode(batch)[0].value) for _, batch in log.reader(partition, 0).read().batches])
    """
    assert child(script, directory).hear_rest() == ["OSError", "200000", "1", "[6, 5]"]


def test_a_gap_in_the_sequence_fails_its_own_append_only(open_log: Any, files: Any, read_all: Any) -> None:
    log = open_log(files=files)
    partition = log.partition(log.create_topic("t", 1), 0)
    gate = Gate(files)
    try:
        log.append(partition, batches(b"first", base_sequence=0, **PRODUCER))
        assert gate.reached.wait(TIMEOUT_S)
        group = [(1, b"second"), (1, b"second"), (7, b"gap"), (2, b"third")]
        futures = [log.append(partition, batches(v, base_sequence=s, **PRODUCER)) for s, v in group]
    finally:
        gate.open()
    with pytest.raises(OutOfOrderSequence, match="sent sequence 7 after 1"):
        futures.pop(2).result(TIMEOUT_S)
    assert [future.result(TIMEOUT_S) for future in futures] == [1, -1, 2]
    assert values(read_all(log, partition)) == [b"first", b"second", b"third"]


def test_a_duplicate_is_acknowledged_only_when_the_first_one_is_durable(
    directory: Path, open_log: Any, files: Any, child: Any
) -> None:
    """Its writer was killed before the sync; whoever sends it again drops it from the outbox once acknowledged."""
    log = open_log(files=files)
    partition = log.partition(log.create_topic("t", 1), 0)
    script = f"""
    class Deadly(Files):
        def fdatasync(self, fd):
            if os.readlink(f"/proc/self/fd/{{fd}}").endswith(".log") and self.size(fd):
                os.kill(os.getpid(), signal.SIGKILL)
            super().fdatasync(fd)
    log = Log(sys.argv[1], files=Deadly())
    log.append(log.partition(log.topic("t"), 0), batches(b"once", base_sequence=0, **{PRODUCER})).result(60)
    """
    assert child(script, directory).hear_rest() == []
    assert (partition.log_end, partition.high_watermark) == (1, 0)
    gate = Gate(files)
    try:
        future = log.append(partition, batches(b"once", base_sequence=0, **PRODUCER))
        assert gate.reached.wait(TIMEOUT_S)
        assert not future.done()
    finally:
        gate.open()
    assert future.result(TIMEOUT_S) == -1
    assert (partition.log_end, partition.high_watermark) == (1, 1)


def test_an_append_whose_caller_stopped_waiting_does_not_stop_the_committer(open_log: Any, files: Any) -> None:
    """A cancelled task cancels the future it awaits; the record may be stored all the same."""
    log = open_log(files=files)
    partition = log.partition(log.create_topic("t", 1), 0)
    probe = log.partition(log.create_topic("probe", 1), 0)
    gate = Gate(files)
    try:
        abandoned = log.append(partition, batches(b"abandoned"))
        assert gate.reached.wait(TIMEOUT_S)
        abandoned.cancel()
        following = log.append(partition, batches(b"following"))
    finally:
        gate.open()
    committer_lives(log, probe)
    assert following.result(TIMEOUT_S) == 1


def test_bytes_that_are_no_batch_are_refused_and_do_not_stop_the_committer(open_log: Any) -> None:
    log = open_log()
    partition = log.partition(log.create_topic("t", 1), 0)
    probe = log.partition(log.create_topic("probe", 1), 0)
    refused = log.append(partition, [bytearray(b"no batch")])
    following = log.append(partition, batches(b"following"))
    committer_lives(log, probe)
    assert refused.exception(TIMEOUT_S) is not None
    assert following.result(TIMEOUT_S) == 0


def test_a_mark_that_cannot_be_stored_fails_its_append_and_does_not_stop_the_committer(
    open_log: Any, files: Any, read_all: Any
) -> None:
    """On a file system that copies on write, a full disk refuses that too."""
    log = open_log(files=files)
    partition = log.partition(log.create_topic("t", 1), 0)
    probe = log.partition(log.create_topic("probe", 1), 0)
    failures: list[Path] = []

    def fail(operation: str, path: Path) -> None:
        if operation == "pwrite" and path.name == "shared" and not failures:
            failures.append(path)
            raise OSError(28, "No space left on device")

    files.before = fail
    refused = log.append(partition, batches(b"refused"))
    committer_lives(log, probe)
    assert isinstance(refused.exception(TIMEOUT_S), OSError)
    assert log.append(partition, batches(b"following")).result(TIMEOUT_S) == 1
    assert values(read_all(log, partition)) == [b"refused", b"following"]


def committer_lives(log: Log, probe: Partition) -> None:
    """Fail at once where the committer's thread has ended, instead of waiting for an answer that cannot come."""
    future = log.append(probe, batches(b"probe"))
    threads = [one for one in threading.enumerate() if one.name == f"framework-log-{log.path.name}"]
    while not future.done() and any(one.is_alive() for one in threads):
        threads[0].join(0.01)
    assert future.done(), "the committer is gone"


def test_closing_finishes_what_was_submitted_and_refuses_the_rest(open_log: Any, read_all: Any) -> None:
    log = open_log()
    partition = log.partition(log.create_topic("t", 1), 0)
    futures = [log.append(partition, batches(b"%d" % at)) for at in range(30)]
    log.close()
    assert [future.result(0) for future in futures] == list(range(30))
    for call in (lambda: log.append(partition, batches(b"late")), lambda: log.sync(partition), log.topics):
        with pytest.raises(LogClosed):
            call()
    log.close()
    log = open_log()
    assert len(read_all(log, log.partition(log.topic("t"), 0))) == 30


def test_a_log_that_never_appended_starts_no_thread(open_log: Any) -> None:
    before = threading.active_count()
    log = open_log()
    log.create_topic("t", 1)
    assert threading.active_count() == before
    log.close()
