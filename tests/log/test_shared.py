"""The shared file: marks that are never seen half, and locks that die with their holder."""

from __future__ import annotations

import os
import shutil
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from framework.log import Files, Log
from framework.log.errors import Conflict, Damaged, NewerFormat, PartitionBusy
from framework.log.locks import PARTITION_LOCK, SHARD_LOCK
from framework.log.shared import (
    FAILED,
    IN_USE,
    PAGE_BYTES,
    SLOT_BYTES,
    VERSION,
    Mark,
    Shared,
    close_shared,
    open_shared,
)

BOOT = b"sixteen bytes id"
OPEN = """
from framework.log.locks import *
from framework.log.shared import *
shared, _ = open_shared(Path(sys.argv[1]), Files(), b"sixteen bytes id")
if not shared.trusted:
    shared.adopt(b"sixteen bytes id")
shared.grow(1)
shared.opened()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the shared file of a test is."""
    return tmp_path / "shared"


@pytest.fixture
def open_file(path: Path) -> Iterator[Callable[..., Shared]]:
    """Opens the shared file, with room for slots; closed after the test."""
    opened: list[Shared] = []

    def open_it(where: Path = path, boot_id: bytes = BOOT) -> Shared:
        shared, first = open_shared(where, Files(), boot_id)
        opened.append(shared)
        if first:
            if not shared.trusted:
                shared.adopt(boot_id)
            shared.grow(1)
            shared.opened()
        return shared

    yield open_it
    for shared in opened:
        close_shared(shared)


def mark_at(offset: int) -> Mark:
    """The one mark that tests publish for *offset*."""
    return Mark(offset, 100 * offset + 7, offset // 10)


# Marks.


def test_a_new_slot_is_at_the_beginning(open_file: Any) -> None:
    shared = open_file()
    assert shared.written(0) == shared.durable(0) == Mark(0, 0, 0)
    assert (shared.written_offset(0), shared.durable_offset(0), shared.append_second(0)) == (0, 0, 0)
    assert shared.flags(0) == 0


def test_the_last_published_marks_are_read(open_file: Any) -> None:
    shared = open_file()
    for offset in range(1, 30):
        shared.publish_written(3, mark_at(offset), offset * 2)
        shared.publish_durable(3, mark_at(offset - 1))
        assert shared.written(3) == mark_at(offset)
        assert shared.append_second(3) == offset * 2
        assert shared.durable(3) == (mark_at(offset - 1) if offset > 1 else Mark(0, 0, 0))
        assert (shared.written_offset(3), shared.durable_offset(3)) == (offset, offset - 1)
    assert shared.written(2) == shared.written(4) == Mark(0, 0, 0), "the neighbours"


def test_a_very_large_offset_has_room(open_file: Any) -> None:
    shared, largest = open_file(), Mark((1 << 62) - 1, (1 << 32) - 1, (1 << 62) - 2)
    shared.publish_written(0, largest, 1 << 40)
    shared.publish_durable(0, largest)
    assert shared.written(0) == shared.durable(0) == largest


def test_the_high_watermark_never_goes_back(open_file: Any) -> None:
    """Two processes finish their syncs in any order."""
    shared = open_file()
    shared.publish_durable(0, mark_at(300))
    shared.publish_durable(0, mark_at(200))
    assert shared.durable(0) == mark_at(300)


def test_recovery_may_set_a_mark_back(open_file: Any) -> None:
    shared = open_file()
    shared.publish_written(0, mark_at(300), 5)
    shared.publish_durable(0, mark_at(300))
    shared.set_flags(0, IN_USE | FAILED)
    shared.reset(0, mark_at(200), 4)
    assert shared.written(0) == shared.durable(0) == mark_at(200)
    assert (shared.append_second(0), shared.flags(0)) == (4, IN_USE)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["written", "durable"])
def test_another_thread_never_sees_half_a_mark(open_file: Any, which: str) -> None:
    shared, halves, done = open_file(), [], threading.Event()
    read, before = getattr(shared, which), sys.getswitchinterval()

    def look() -> None:
        last = 0
        while not done.is_set():
            seen = read(0)
            if seen != mark_at(seen.offset) and seen.offset:
                halves.append(seen)
            assert seen.offset >= last
            last = seen.offset

    thread = threading.Thread(target=look)
    sys.setswitchinterval(1e-5)
    try:
        thread.start()
        for offset in range(1, 100_000):
            if which == "written":
                shared.publish_written(0, mark_at(offset), 0)
            else:
                shared.publish_durable(0, mark_at(offset))
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(before)
    assert halves == []


@pytest.mark.slow
def test_another_process_never_sees_half_a_mark(open_file: Any, child: Any, path: Path) -> None:
    shared = open_file()
    writer = child(
        OPEN
        + """
say("ready")
hear()
for offset in range(1, 500_000):
    shared.publish_written(0, Mark(offset, 100 * offset + 7, offset // 10), offset)
say("done")
""",
        path,
    )
    assert writer.hear() == "ready"
    writer.say()
    seen = Mark(0, 0, 0)
    while seen.offset < 499_999:
        last, seen = seen, shared.written(0)
        assert seen.offset >= last.offset
        assert seen == mark_at(seen.offset) or not seen.offset
    assert writer.hear() == "done"


def test_a_process_sees_slots_that_another_made_room_for(open_file: Any, child: Any, path: Path) -> None:
    shared = open_file()
    with pytest.raises(Damaged, match="has no slot 5000"):
        shared.written(5000)
    child(OPEN + "shared.grow(5001); shared.publish_written(5000, Mark(9, 8, 7), 6)", path).finish()
    assert shared.written(5000) == Mark(9, 8, 7)
    assert path.stat().st_size == PAGE_BYTES + SLOT_BYTES * (5001 + -5001 % 256)


def test_growing_keeps_what_is_there(open_file: Any) -> None:
    shared = open_file()
    shared.publish_written(255, mark_at(50), 1)
    shared.grow(257)
    assert shared.written(255) == mark_at(50)
    assert shared.written(256) == Mark(0, 0, 0)


# Locks.


def test_a_lock_names_its_holder_and_is_free_as_soon_as_that_is_killed(open_file: Any, child: Any, path: Path) -> None:
    shared = open_file()
    holder = child(OPEN + "say(shared.try_own(SHARD_LOCK + 2)); hear()", path)
    assert holder.hear() == "None"
    assert shared.holder(SHARD_LOCK + 2) == holder.pid
    assert shared.try_own(SHARD_LOCK + 2) == holder.pid
    with (
        pytest.raises(PartitionBusy, match=f"shard 2 is locked by process {holder.pid}"),
        shared.locked(SHARD_LOCK + 2, "shard 2", timeout=0.01),
    ):
        pass
    assert shared.holder(SHARD_LOCK + 3) is None, "the byte beside it is free"
    holder.kill()
    assert shared.holder(SHARD_LOCK + 2) is None
    assert shared.try_own(SHARD_LOCK + 2) is None
    shared.disown(SHARD_LOCK + 2)


def test_a_lock_taken_here_holds_against_another_process_until_it_is_given_back(
    open_file: Any, child: Any, path: Path
) -> None:
    shared = open_file()
    other = child(OPEN + "while hear(): say(owner := shared.try_own(7)); owner or shared.disown(7)", path)
    with shared.locked(7, "seven"):
        other.say()
        assert int(other.hear()) > 0
    other.say()
    assert other.hear() == "None"


def test_what_this_process_owns_it_does_not_get_twice(open_file: Any) -> None:
    shared = open_file()
    assert shared.try_own(SHARD_LOCK) is None
    assert shared.try_own(SHARD_LOCK) == os.getpid()
    shared.disown(SHARD_LOCK)
    assert shared.try_own(SHARD_LOCK) is None
    shared.disown(SHARD_LOCK)


def test_threads_of_one_process_exclude_each_other(open_file: Any) -> None:
    """Record locks alone would not: they belong to the process."""
    shared, inside, overlaps = open_file(), [], []

    def enter(name: int) -> None:
        for _ in range(50):
            with shared.locked(PARTITION_LOCK, "partition t-0"):
                inside.append(name)
                overlaps.extend(inside[:-1])
                inside.remove(name)

    threads = [threading.Thread(target=enter, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == []
    with (
        shared.locked(PARTITION_LOCK, "partition t-0"),
        pytest.raises(PartitionBusy, match="partition t-0 is locked by another thread"),
        shared.locked(PARTITION_LOCK, "partition t-0", timeout=0.01),
    ):
        pass


def test_a_lock_is_given_back_when_its_block_raises(open_file: Any) -> None:
    shared = open_file()
    with pytest.raises(KeyError), shared.locked(7, "seven"):
        raise KeyError
    assert shared.try_own(7) is None
    shared.disown(7)


# One process, one descriptor.


def test_opening_twice_in_a_process_shares_one_descriptor(open_file: Any, path: Path) -> None:
    """Closing a second descriptor of the file would drop every lock of the first."""
    first = open_file()
    assert open_file() is first


def test_closing_one_of_two_keeps_the_locks_of_the_other(open_file: Any, child: Any, path: Path) -> None:
    shared = open_file()
    other = child(OPEN + "while hear(): say(shared.try_own(7))", path)
    assert shared.try_own(7) is None
    again, first = open_shared(path, Files(), BOOT)
    assert again is shared
    assert not first
    close_shared(again)
    other.say()
    assert int(other.hear()) > 0
    shared.disown(7)
    other.say()
    assert other.hear() == "None"


def test_two_names_of_one_file_are_one_file(open_file: Any, path: Path, tmp_path: Path) -> None:
    first = open_file()
    (tmp_path / "link").symlink_to(path)
    assert open_file(tmp_path / "link") is first


def test_a_file_that_was_closed_opens_anew(path: Path) -> None:
    for round_ in range(3):
        shared, first = open_shared(path, Files(), BOOT)
        assert first
        assert shared.alone
        assert shared.trusted == (round_ > 0)
        if not round_:
            shared.adopt(BOOT)
        shared.opened()
        close_shared(shared)


def test_only_the_first_process_is_alone(open_file: Any, child: Any, path: Path) -> None:
    assert open_file().alone
    other = child(OPEN + "say(shared.alone); hear()", path)
    assert other.hear() == "False"


# Whose slots are true.


def reopened(path: Path, boot_id: bytes = BOOT) -> tuple[bool, bool]:
    """Whether a new opener trusts the slots, and whether it takes the file for the one that was written."""
    shared, first = open_shared(path, Files(), boot_id)
    assert first
    found = shared.trusted, shared.same_file
    close_shared(shared)
    return found


@pytest.fixture
def written(path: Path) -> Path:
    """A closed shared file of this boot."""
    shared = Shared(path, Files(), BOOT)
    shared.adopt(BOOT)
    shared.grow(1)
    shared._close_file()
    return path


def test_slots_are_trusted_in_the_same_boot_and_the_same_file(written: Path) -> None:
    assert reopened(written) == (True, True)


def test_slots_of_an_earlier_boot_are_not_trusted(written: Path) -> None:
    assert reopened(written, b"another boot: id") == (False, True)


def test_slots_of_a_copied_file_are_not_trusted(written: Path, tmp_path: Path) -> None:
    shutil.copy(written, tmp_path / "copy")
    assert reopened(tmp_path / "copy") == (False, False)


def test_a_new_file_is_not_trusted(path: Path) -> None:
    assert reopened(path) == (False, False)


def test_a_newer_file_is_refused_and_left_as_it_is(written: Path) -> None:
    data = bytearray(written.read_bytes())
    data[8:16] = struct.pack("=Q", VERSION + 1)
    written.write_bytes(data)
    with pytest.raises(
        NewerFormat, match=f"shared has format {VERSION + 1}, this version reads up to {VERSION}: upgrade"
    ):
        open_shared(written, Files(), BOOT)
    assert written.read_bytes() == data


def test_a_file_that_begins_otherwise_is_damaged(written: Path) -> None:
    data = bytearray(written.read_bytes())
    data[0] ^= 1
    written.write_bytes(data)
    with pytest.raises(Damaged, match="does not begin as a shared file does"):
        open_shared(written, Files(), BOOT)


def test_a_directory_open_under_another_boot_is_refused(
    directory: Path, open_log: Any, child: Any, reboot: Any
) -> None:
    """Two kernels share it, and neither sees the other's locks and maps; here only the page says so."""
    other = child("log = Log(sys.argv[1], create=True); say('open'); hear()", directory)
    assert other.hear() == "open"
    reboot()
    with pytest.raises(Conflict, match="another boot id"):
        Log(directory)
