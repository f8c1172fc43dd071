"""What clients of a broker did and what came of it, written down by each of them as it happened.

    file      = line*                                     of one process; whoever is killed leaves half of a line
    line      = "[" state "," number "," ns ["," words] "]"
    state     = "invoke"                                  words: what was asked for; it is going to be sent
              | "ok" | "fail" | "unknown"                 words: the answer, or the reason

What has no second line is unknown too. `fail` says that it was not done and never will be. The times are the machine's
monotonic clock, which all processes share: of two operations, one may be known to have ended before the other began.

    what       asked for                                  answer
    begun      kind of client                             -
    producer   name kind                                  -
    send       topic partition name number                offset, null if it was not told
    read       topic partition session                    high watermark or null, [[offset, record], ...]
    assigned   group topic partition session              -
    commit     group topic partition session offset       -
    committed  group topic partition                      offset, -1 if there is none
    end        topic partition                            the high watermark

A producer's kind is `idempotent`, `once` if it never sends a record again, or `again` if it does. A session is one
reader's way through one partition, from wherever it began; with an `assigned` it began where the group had committed.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from framework.log import Log
from tests.faults.log_stream import Violation

Key = tuple[str, int]
"""Topic and partition."""
Record = tuple[str, int]
"""Which producer's record, and its number."""
IDEMPOTENT, ONCE, AGAIN = "idempotent", "once", "again"
NEVER = 1 << 63
LARGE_EVERY, LARGE_BYTES, MOST_SMALL_BYTES = 97, 60_000, 400


class Recorder:
    """Writes the history of one process; a line is in the file when the call returns."""

    def __init__(self, path: str | Path) -> None:
        """Append to *path*."""
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._numbers = count()

    def invoke(self, what: str, *asked: object) -> int:
        """It is going to be asked for; its number."""
        number = next(self._numbers)
        self._write("invoke", number, time.monotonic_ns(), what, *asked)
        return number

    def ok(self, number: int, *answer: object) -> None:
        """It was answered."""
        self._write("ok", number, time.monotonic_ns(), *answer)

    def fail(self, number: int, reason: object) -> None:
        """It was refused, and has not been done."""
        self._write("fail", number, time.monotonic_ns(), str(reason))

    def unknown(self, number: int, reason: object) -> None:
        """Whether it was done is not known."""
        self._write("unknown", number, time.monotonic_ns(), str(reason))

    def note(self, what: str, asked: Sequence[object], answer: Sequence[object] = (), begun_ns: int = 0) -> None:
        """It was asked for at *begun_ns*, or now, and is answered."""
        number = next(self._numbers)
        self._write("invoke", number, begun_ns or time.monotonic_ns(), what, *asked)
        self.ok(number, *answer)

    def _write(self, *words: object) -> None:
        os.write(self._fd, json.dumps(words, separators=(",", ":")).encode() + b"\n")


@dataclass(slots=True)
class Operation:
    """One operation of one process."""

    who: str
    what: str
    asked: list[Any]
    begun_ns: int
    ended_ns: int = NEVER
    state: str = "unknown"
    answer: list[Any] | None = None

    @property
    def key(self) -> Key:
        """The topic and partition that it is about."""
        at = 1 if self.what in ("assigned", "commit", "committed") else 0
        return self.asked[at], self.asked[at + 1]

    @property
    def is_ok(self) -> bool:
        """Whether it was answered, and done."""
        return self.state == "ok"

    @property
    def words(self) -> list[Any]:
        """The answer of one that `is_ok`."""
        assert self.answer is not None
        return self.answer


def parsed(who: str, lines: Iterable[bytes]) -> list[Operation]:
    """The operations in *lines*, in the order in which they began."""
    found: dict[int, Operation] = {}
    for line in lines:
        if not line.endswith(b"\n"):
            break
        state, number, ns, *words = json.loads(line)
        if state == "invoke":
            found[number] = Operation(who, words[0], words[1:], ns)
        else:
            operation = found[number]
            operation.state, operation.ended_ns, operation.answer = state, ns, words
    return list(found.values())


def read_histories(folder: Path) -> list[Operation]:
    """What all processes have written in *folder*."""
    found: list[Operation] = []
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            found += parsed(path.name, file)
    return found


def value_of(name: str, number: int) -> bytes:
    """The value of a record; its length differs, and all of its bytes follow from what it is called."""
    head = f"{name} {number} ".encode()
    check = zlib.crc32(head)
    size = LARGE_BYTES if check % LARGE_EVERY == 0 else check % MOST_SMALL_BYTES
    return head + (b"%08x" % check) * (size // 8)


def named(value: bytes | None) -> list[object]:
    """Which record a value is, as histories have it; what it is instead, if no producer sent that."""
    try:
        name, number, _ = (value or b"").split(b" ", 2)
        record = name.decode(), int(number)
    except ValueError:
        return [repr(value)[:80], -1]
    return list(record) if value == value_of(*record) else [f"not {record[0]}: {value!r}"[:80], record[1]]


def stored(log: Log, topics: Iterable[str]) -> dict[Key, list[Record]]:
    """What is in the log in the end: the records of each partition, whose offsets are their places in the list."""
    there: dict[Key, list[Record]] = {}
    for topic in topics:
        info = log.topic(topic)
        for at in range(info.partitions):
            log.sync(log.partition(info, at)).result(60)
            there[topic, at] = []
        for place, record in log.read(topic):
            records = there[topic, place.number]
            if record.offset != len(records):
                raise Violation("dense offsets", f"{place.name}: {record.offset} comes after {len(records) - 1}")
            name, number = named(record.value)
            records.append((str(name), int(str(number))))
    return there
