"""Whether a log still fits what processes under load have said of it (`log_load`), and those processes."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from framework.log import Log, Partition, decode_values
from framework.log.verify import Verification
from tests.faults.log_history import append_times
from tests.faults.log_load import RECORDS, Producer, who_sent
from tests.faults.log_stream import Key, Violation
from tests.log.conftest import Child, readable

LOAD = """
import sys
from tests.faults.log_load import Load
Load(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), synced=sys.argv[4] == "synced").run()
"""
Batch = tuple[Producer, int]
JUDGE = Producer(1, False, 20, 300)
"""Who sends what comes behind."""


class Talking(Child):
    """A process that can be stopped; every line it said is kept, in the order in which they came."""

    def __init__(self, lines: list[str], script: str, *arguments: object) -> None:
        """Start it; *lines* grows by what is heard."""
        super().__init__(script, *arguments)
        self.lines = lines

    def hear(self) -> str:
        """Its next line."""
        self.lines.append(super().hear())
        return self.lines[-1]

    def stop(self) -> None:
        """SIGSTOP; when this returns none of its threads runs, in the kernel neither, and all it said is heard."""
        os.kill(self.pid, signal.SIGSTOP)
        stopped = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert stopped is not None
        assert stopped.si_code == os.CLD_STOPPED, f"the child ended: {stopped}"
        self.hear_all_said()

    def go_on(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def hear_all_said(self) -> None:
        """Every line that is in the pipe, of a process that says no more."""
        assert self.process.stdout is not None
        while readable(self.process.stdout.fileno(), 0) and (more := self._more()):
            self._heard += more
        whole, _, self._heard = self._heard.rpartition(b"\n")
        self.lines += whole.decode().split("\n") if whole else []


class Loaded(Talking):
    """One that puts a load on a log."""

    def __init__(self, lines: list[str], directory: Path, run: int, seed: int, *, synced: bool = True) -> None:
        """Start it."""
        super().__init__(lines, LOAD, directory, run, seed, "synced" if synced else "unsynced")


@dataclass
class Said:
    """What processes have said of a log."""

    acknowledged: dict[Key, dict[Batch, int]] = field(default_factory=lambda: defaultdict(dict))
    """The offset of each batch that must be there."""
    written: dict[Key, dict[Batch, int]] = field(default_factory=lambda: defaultdict(dict))
    seen: dict[Key, int] = field(default_factory=lambda: defaultdict(int))
    starts: dict[Key, int] = field(default_factory=lambda: defaultdict(int))
    created: set[str] = field(default_factory=set)
    deleting: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, lines: Iterable[str], *, killed: bool = False) -> Said:
        """What *lines* say; of a log whose processes were *killed*, and not the machine, what is written is there."""
        said = cls()
        for line in lines:
            word, *rest = line.split()
            said.note("acknowledged" if killed and word == "written" else word, *rest)
        return said

    def note(self, word: str, topic: str, *rest: str) -> None:
        """One line."""
        if word in ("created", "deleting", "deleted"):
            {"created": self.created, "deleting": self.deleting, "deleted": self.deleted}[word].add(topic)
            return
        key = (topic, int(rest[0]))
        if word in ("seen", "starting", "started"):
            marks = self.seen if word == "seen" else self.starts
            marks[key] = max(marks[key], 0 if word == "starting" else int(rest[1]))
            return
        assert word in ("acknowledged", "written"), word
        producer, first, count, offset = Producer.parse(rest[1]), *map(int, rest[2:])
        batches = self.acknowledged if word == "acknowledged" else self.written
        for at in range(count):
            batches[key][producer, first + at] = offset + RECORDS * at if offset >= 0 else -1

    def producers(self, key: Key) -> list[Producer]:
        """Who had something acknowledged in *key*."""
        return sorted({producer for said in (self.acknowledged, self.written) for producer, _ in said[key]})


@contextmanager
def violations() -> Iterator[None]:
    """Whatever a log raises is a violation too."""
    try:
        yield
    except Violation:
        raise
    except Exception as error:
        raise Violation("opens, reads and appends", repr(error)) from error


def check(log: Log, said: Said) -> int:
    """Hold what is in *log* against what was *said*; the number of acknowledged batches that were looked for.

    Raises:
        Violation: Something is not as it was promised.
    """
    topics = set(log.topics())
    if lost := said.created - said.deleting - topics:
        raise Violation("topics", f"{sorted(lost)} were made")
    if back := said.deleted & topics:
        raise Violation("topics", f"{sorted(back)} were deleted")
    return sum(check_partition(log, (name, at), said) for name in sorted(topics) for at in partitions(log, name))


def partitions(log: Log, name: str) -> range:
    """The numbers of the partitions of a topic."""
    return range(log.topic(name).partitions)


def the(log: Log, key: Key) -> Partition:
    """The partition *key*."""
    return log.partition(log.topic(key[0]), key[1])


def check_partition(log: Log, key: Key, said: Said) -> int:
    """One partition of them."""
    partition = the(log, key)
    start, end = partition.log_start, partition.high_watermark
    there = found(log, key)
    if end != partition.log_end or end < said.seen[key] or start < said.starts[key]:
        marks = f"{key} has {start} to {end} of {partition.log_end}"
        raise Violation("marks", f"{marks}, said were {said.starts[key]} and {said.seen[key]}")
    if partition.topic.settings.retention_bytes < 0 and key not in said.starts and start:
        raise Violation("log start", f"{key} begins at {start}, nothing was removed")
    at = {batch: offset for offset, batch in there.items()}
    for batch, offset in said.acknowledged[key].items():
        kept = batch in at or start > 0 if offset < 0 else offset + RECORDS <= start or there.get(offset) == batch
        if not kept:
            place = f"is at {at[batch]}" if batch in at else f"is missing, the log ends at {end}"
            raise Violation("acknowledged records", f"{key}: {batch} was acknowledged at {offset}, {place}")
    check_order(key, there, whole=start == 0)
    append_times(partition)
    return len(said.acknowledged[key])


def found(log: Log, key: Key) -> dict[int, Batch]:
    """Every batch by its offset; offsets must be dense, and each batch what its producer sent."""
    partition, end = the(log, key), -1
    start, batches = partition.log_start, dict[int, Batch]()
    reader = log.reader(partition, start)
    try:
        while fetched := reader.read(1 << 20).batches:
            for header, data in fetched:
                values = decode_values(data)
                batch = who_sent(values)
                if batch is None or header.producer_id != batch[0].wire_id:
                    raise Violation("known batches", f"{key}: at {header.base_offset} is {values!r:.200}")
                if header.base_offset != end and (batches or not header.base_offset <= start < header.next_offset):
                    raise Violation("dense offsets", f"{key}: {header.base_offset} comes after {end}, start {start}")
                batches[header.base_offset], end = batch, header.next_offset
    finally:
        reader.close()
    if (end if batches else start) != partition.high_watermark:
        raise Violation("log end", f"{key}: read to {end}, the high watermark is {partition.high_watermark}")
    return batches


def check_order(key: Key, there: dict[int, Batch], *, whole: bool) -> None:
    """Each producer's batches are there once, in the order in which they were sent, none left out."""
    numbers: dict[Producer, int] = {}
    for offset, (producer, number) in there.items():
        expected = numbers.get(producer, 0 if whole else number)
        if number != expected:
            raise Violation("producer order", f"{key}: at {offset} is {producer} {number}, not {expected}")
        numbers[producer] = number + 1


def check_going_on(log: Log, said: Said) -> None:
    """Idempotent producers send again what they do not know to be there, and it is stored once; others go on.

    Raises:
        Violation: It is not.
    """
    for key in [(name, at) for name in sorted(log.topics()) for at in partitions(log, name)]:
        partition, before = the(log, key), found(log, key)
        for producer in said.producers(key):
            if producer.idempotent:
                send_again(log, key, producer, before, said)
        end = partition.log_end
        if (offset := log.append(partition, [JUDGE.batch(0)]).result(60)) != end:
            raise Violation("appends", f"{key} went on at {offset}, not {end}")
        log.sync(partition).result(60)  # Behind the retention that follows an append, which would move the start.
        now, start = found(log, key), partition.log_start
        if any(now.get(offset) != batch for offset, batch in before.items() if offset >= start):
            raise Violation("visible records", f"{key}: what was read before is another now")
        check_order(key, now, whole=start == 0)


def send_again(log: Log, key: Key, producer: Producer, there: dict[int, Batch], said: Said) -> None:
    """All it may have in its outbox, the first batches too, and two more."""
    partition = the(log, key)
    start = partition.log_start
    removed = [batch for batch, offset in said.acknowledged[key].items() if offset < start]
    sent = [number for who, number in (*there.values(), *removed) if who == producer]
    count = max(sent, default=-1) + 1
    # What was removed before it could be said cannot be counted, if it was the last.
    counted = start == 0 or any(who == producer for who, _ in there.values())
    for number in sorted({0, 1, *range(max(0, count - 3), count + 3)}):
        offset = log.append(partition, [producer.batch(number)]).result(60)
        if (offset == -1) != (number < count) and (counted or number < count):
            raise Violation("producers", f"{key}: {producer} {number} of {count} sent again is at {offset}")


def check_files(directory: Path) -> None:
    """What `framework verify` says of the directory of a closed log.

    Raises:
        Violation: Something is damaged.
    """
    if faults := [finding for finding in Verification(directory).findings() if finding.severity != "note"]:
        raise Violation("verify", "\n".join(map(str, faults)))
