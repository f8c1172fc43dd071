"""What is done to a log while its power may be cut: some hundred operations each.

Values are small and segments too, so that a few hundred operations do everything.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from tests.faults.crash_files import CrashFiles
from tests.faults.log_checks import check
from tests.faults.log_history import SMALL, History
from tests.faults.log_stream import Key, What

A, B, C = ("a", 0), ("a", 1), ("b", 0)
KEPT, TABLE, UNSYNCED = ("kept", 0), ("table", 0), ("unsynced", 0)


def topics_and_appends(history: History) -> None:
    """Two topics, first appends, one and several batches, with and without a producer."""
    history.open()
    history.send(A, 100)
    history.tick()
    history.send(A, 600, 200, 50)
    history.send(A, 100, 700, producer=1)
    history.tick()
    history.send(B, 10, producer=1)
    history.send(C, 100, 100, producer=2)
    history.send(A, 300, producer=2)


def rolls(history: History) -> None:
    """A segment takes two or three batches."""
    history.open()
    history.send(A, 1500)
    history.tick()
    history.send(A, 1500, 900, 1500, producer=1)
    history.tick()
    history.send(A, *[900] * 9, 20)
    history.send(A, 5000, producer=1)
    history.send(A, 10, producer=2)


def two_logs(history: History) -> None:
    """One writes where the other stopped, and rolls under its feet."""
    first, second = history.open(), history.open()
    for log in (first, second, second, first):
        history.send(A, 1300, log=log)
        history.tick()
        history.send(A, 200, 1300, producer=1, log=log)
        history.send(B, 100, producer=2, log=log)


def killed_writes(history: History) -> None:
    """A writer dies when its batches are written and not published; the next one's have the same size."""
    history.open()
    history.send(A, 100)
    for sizes in ((600, 600), (900, 30)):
        _fail_once(history, lambda kind: kind == "log")
        try:
            history.send(A, *sizes, producer=1)
        except OSError:
            history.close()
            history.open()
        history.send(A, sizes[0], producer=2)
        history.send(A, 50, producer=1)


def failed_sync(history: History) -> None:
    """A sync fails, the partition is reopened and its unsynced batches are copied into a new segment."""
    assert isinstance(history.files, CrashFiles)
    files, skipping = history.files, history.files.before_sync
    history.open()
    history.send(A, 100, producer=1)
    for size, kind in ((600, "log"), (3800, "log"), (50, "appended")):
        history.tick()

        def fail(site: str, kind: str = kind) -> bool:
            files.before_sync = skipping
            if site.startswith(f"fdatasync {kind}"):
                raise OSError(errno.EIO, "Input/output error")
            files.before_sync = fail
            return skipping(site)

        files.before_sync = fail
        try:
            history.send(A, 300, size, producer=1)
        except OSError:
            history.close()
            history.open()
        history.send(A, 200, 50, producer=1)


def _fail_once(history: History, where: Callable[[str], bool]) -> None:
    assert isinstance(history.files, CrashFiles)
    files = history.files

    def fail(kind: str) -> None:
        if where(kind):
            files.after_write = lambda kind: None
            raise OSError(errno.EIO, "killed here")

    files.after_write = fail


def retained(history: History) -> None:
    """Closed segments go by size, by age, and all of them with an early roll."""
    history.open()
    for _ in range(4):
        history.send(KEPT, 1800, producer=1)
        history.tick()
    history.send(KEPT, 1800, 1400, 1800, producer=2)
    history.tick(40)
    history.send(KEPT, 1000)
    history.tick(30)
    history.retain(KEPT)
    history.send(KEPT, 800, 600, producer=1)
    history.tick(100)
    history.retain(KEPT)
    history.send(KEPT, 200, producer=1)
    history.send(KEPT, 3800, 100)


def deleted_records(history: History) -> None:
    """The log start moves inside a batch, over whole segments, and to the end; at level `os` over unsynced records."""
    history.open()
    history.send(A, 900, 900, 900, 1500, producer=1)
    history.delete_records(A, 3)
    history.send(A, 1500, 1500, producer=2)
    history.tick()
    history.delete_records(A, 9)
    history.delete_records(A, 9)
    history.send(A, 300, producer=1)
    history.delete_records(A, 14)
    history.send(A, 700, producer=2)
    history.send(UNSYNCED, 300, 300)
    history.delete_records(UNSYNCED, 4)
    history.send(UNSYNCED, 100)


def put(**sizes: int | None) -> What:
    """A batch with a record for each key."""
    return tuple((key.encode(), size) for key, size in sizes.items())


def compacted(history: History) -> None:
    """Three compactions, with tombstones that are kept, and that may go; a roll behind each."""
    history.open()
    history.send(TABLE, put(a=600, b=600, c=200), put(a=600, d=1400), producer=1)
    history.tick()
    history.send(TABLE, put(b=None, e=600), put(c=None, a=1000), put(f=1800), producer=2)
    history.send(TABLE, put(a=800, g=1800), put(d=None), put(h=2400), producer=1)
    history.compact(TABLE)
    history.send(TABLE, put(d=600), put(i=3800), producer=2)
    history.tick(61)
    history.send(TABLE, put(d=None), put(f=None), put(i=2400))
    history.compact(TABLE)
    history.tick(61)
    history.compact(TABLE)
    history.send(TABLE, put(b=3800), put(a=None), producer=1)


def compacted_and_deleted(history: History) -> None:
    """The log start lies in what is compacted, before and after."""
    history.open()
    for number in range(4):
        history.send(TABLE, put(a=1000, b=1000 if number else None), put(**{f"x{number}": 900}), producer=1)
        history.tick()
    history.delete_records(TABLE, 2)
    history.compact(TABLE)
    history.send(TABLE, put(c=1800), put(x0=None, a=1800), producer=2)
    history.delete_records(TABLE, 7)
    history.tick(61)
    history.send(TABLE, put(c=3000), put(x1=None))
    history.compact(TABLE)
    history.delete_records(TABLE, 11)
    history.send(TABLE, put(d=3600))


def refused_compactions(history: History) -> None:
    """The disk refuses one operation of each compaction; the same log goes on."""
    history.open()
    history.send(TABLE, put(a=1800, b=1800), put(a=1800, b=1800))
    for number in range(1, 40, 3):
        history.send(TABLE, put(a=1200, c=600, b=None if number % 2 else 200), put(c=1600), producer=1)
        history.tick(20)
        _refuse(history, number)
        with suppress(OSError):
            history.compact(TABLE)
        _refuse(history, None)
    history.compact(TABLE)


def two_compacting(history: History) -> None:
    """What one has compacted, retained or deleted, the other appends to, and the other way round."""
    first, second = history.open(), history.open()
    for log, other in ((first, second), (second, first)):
        history.send(TABLE, put(a=1800, b=None), put(a=1600), put(c=1600), producer=1, log=log)
        history.compact(TABLE, log=other)
        history.send(TABLE, put(c=None, b=200), producer=2, log=other)
        history.tick(61)
        history.send(KEPT, 1800, 1800, 1800, log=log)
        history.retain(KEPT, log=other)
        history.compact(TABLE, log=log)
        history.send(TABLE, put(d=3000), producer=2, log=log)
        history.delete_records(KEPT, history.partition(KEPT).log_end - 1, log=other)
    history.compact(TABLE)


def topics_deleted(history: History) -> None:
    """Topics are deleted, made again under their names, and altered; by another process too."""
    history.open()
    history.send(A, 100, 1300, 3000, producer=1)
    history.send(B, 100)
    history.send(C, 100, producer=1)
    history.delete_topic("a")
    history.send(A, 200, 1500, producer=1)
    history.alter("b", replace(SMALL, segment_bytes=8192), 3)
    history.send(("b", 2), 100, producer=1)
    history.send(C, 1500, 900, producer=1)
    history.delete_topic("a")
    history.delete_topic("b")
    history.send(C, 300, 2500, producer=2)
    history.send(A, 10)


def _refuse(history: History, number: int | None) -> None:
    """The operation *number* from now is refused by the disk; None: no more."""
    assert isinstance(history.files, CrashFiles)
    left = -1 if number is None else number

    def refuse(name: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(errno.EIO, f"Input/output error: {name}")

    history.files.before_change = refuse


RUNS: dict[str, Callable[[History], None]] = {
    run.__name__: run
    for run in (
        *(topics_and_appends, rolls, two_logs, killed_writes, failed_sync),
        *(retained, deleted_records, compacted, compacted_and_deleted, refused_compactions, two_compacting),
        topics_deleted,
    )
}


def copied(history: History) -> None:
    """A copy whose slots are ahead of its segments, as one of a directory in use may be, is opened and goes on."""
    history.open()
    history.send(A, 100, 400, producer=1)
    history.tick()
    history.send(A, 600, 3000, producer=2)


def recovered(history: History) -> None:
    """After a crash: others write where torn batches were cut off, before what was lost is sent again."""
    assert history.before is not None
    check(history, history.before, random.Random(0))
    for key, stream in list(history.streams.items()):
        lost = [stream.sent[places[0]] for places in stream.outbox.values() if places]
        history.tick()
        history.send(key, lost[0].what if lost else _some(key, 100), producer=9)
        for producer in sorted(stream.outbox):
            history.send(key, producer=producer)
        _keep_in_bounds(history, key)
    history.send(A, 1500, 1500, producer=1)


def resume(history: History, *, reopen: bool = True) -> None:
    """What another process does after the first was killed: one that opens the log, or one that had it open."""
    if reopen:
        history.open()
    for name in sorted(history.deleting):  # It is used, or deleted again.
        if history._made % 2:
            history.delete_topic(name)
    for key in sorted({A, C, *history.streams}):
        history.partition((key[0], 0))
        if key not in (A, C, *history.streams):
            continue  # It was deleted.
        stream = history.streams.get(key)
        for producer in sorted(stream.outbox) if stream else ():
            history.send(key, producer=producer)
        if stream:
            _keep_in_bounds(history, key)
        history.send(key, _some(key, 700))
        history.send(key, _some(key, 300), producer=3)


def _some(key: Key, size: int) -> What:
    return put(a=size, e=None) if key[0] == "table" else size


def _keep_in_bounds(history: History, key: Key) -> None:
    """Retention, deletion and compaction go on where somebody was killed at them."""
    stream = history.streams[key]
    if stream.moving and stream.asked is not None:
        history.delete_records(key, stream.asked)
    elif stream.moving:
        history.retain(key)
    if key[0] == "table":
        history.compact(key)
        history.tick(61)
        history.compact(key)
