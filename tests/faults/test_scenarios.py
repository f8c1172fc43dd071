"""The ways in which a log loses records on its own disk, one test each; the others are in test_scenarios_processes.py.

Numbered as where they were first written down:

    F1   a kill inside a write                      processes
    F2   stale bytes behind a cut come back         here
    F3   a duplicate acknowledged before the first  here
    F4   locks of the dead, kept by their children  processes
    F5   a failed sync that only one knows of       processes
    F6   who moves the high watermark, how far      here
    F7   one mark for three things                  here
    F8   append times                               here
    F9   a topic deleted under another process      processes
    F10  lists of segments that others know         here, processes
    F11  recovery while others write                processes
    F12  a holder that is stopped                   processes
    F13  preallocation                              here
    F14  waking up                                  processes; test_wakeup.py measures it
    F15  two kernels on one directory               processes
    F16  offsets with gaps, control batches         here
    F17  producers that outlive their state         here
    F18  more than five batches, 2^31 sequences     here
"""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from framework.log import Cursor, Range, TopicSettings, decode
from framework.log.appended import APPENDED_MAGIC, ENTRY_BYTES, append_times
from framework.log.errors import Damaged
from framework.log.header import CONTROL, checksum
from framework.log.producers import TASK_PRODUCER_BIT
from framework.log.verify import Verification
from tests.faults.crash_files import CrashFiles, watched_stores
from tests.faults.log_disk import materialize
from tests.faults.log_history import DirectLog, SteppingClock
from tests.faults.one_partition import after_cut, batch, read_all, the

pytestmark = pytest.mark.slow
SMALL = TopicSettings(segment_bytes=4096)
TASK = {"producer_id": TASK_PRODUCER_BIT | 7, "producer_epoch": 0}


@pytest.fixture
def files(tmp_path: Path) -> CrashFiles:
    """A disk whose power can be cut."""
    (tmp_path / "disk").mkdir()
    return CrashFiles(tmp_path / "disk")


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


def test_f03_a_duplicate_is_acknowledged_only_when_the_first_one_is_durable(files: CrashFiles, tmp_path: Path) -> None:
    """The first one was written by a process that was killed before its sync; its outbox is sent again, and dropped."""
    with watched_stores(), DirectLog(files.root / "data", create=True, files=files) as log:
        log.create_topic("t", 1)
        log.commit(the(log), [batch(b"before")])
        the(log).append([[batch(b"once", base_sequence=0, **TASK)]])
        assert (the(log).log_end, the(log).high_watermark) == (2, 1)
        assert log.commit(the(log), [batch(b"once", base_sequence=0, **TASK)]) == -1
        after_cut(files, tmp_path / "after", "nothing unsynced")
    with DirectLog(tmp_path / "after" / "data") as log:
        assert read_all(log) == [b"before", b"once"]


def test_f06_syncs_that_end_in_another_order_do_not_take_the_high_watermark_back(tmp_path: Path) -> None:
    with DirectLog(tmp_path / "data", create=True) as log:
        log.create_topic("t", 1)
        marks = []
        for _ in range(2):
            the(log).append([[batch(b"written")]])
            marks.append(the(log).sync())
        for mark in reversed(marks):
            the(log).advance(mark)
            assert the(log).high_watermark == 2


def test_f06_who_syncs_the_new_segment_has_not_left_the_old_one_unsynced(files: CrashFiles, tmp_path: Path) -> None:
    """The tail of the old one was written by a process that was killed before its sync."""
    with watched_stores(), DirectLog(files.root / "data", create=True, files=files) as log:
        log.create_topic("t", 1, SMALL)
        the(log).append([[batch(b"a" * 3000)]])
        log.commit(the(log), [batch(b"b" * 3000)])
        assert [segment.base_offset for segment in the(log).segments()] == [0, 1]
        after_cut(files, tmp_path / "after", "nothing unsynced")
    with DirectLog(tmp_path / "after" / "data") as log:
        assert read_all(log) == [b"a" * 3000, b"b" * 3000]


def test_f06_what_a_dead_writer_did_not_sync_is_readable_for_the_next_one_who_opens(tmp_path: Path) -> None:
    with DirectLog(tmp_path / "data", create=True) as log:
        log.create_topic("t", 1)
        the(log).append([[batch(b"written")]])
        assert read_all(log) == []
    with DirectLog(tmp_path / "data") as log:
        assert read_all(log) == [b"written"]


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
        assert append_times(the(log).segments()[-1].appended_path.read_bytes()) == [(late, 1)]


def test_f08_zeros_in_place_of_an_entry_are_no_append_time(tmp_path: Path) -> None:
    """The file was as long as it should be and its data was not there: retention would take 1970 for old."""
    root, clock = tmp_path / "data", SteppingClock()
    with DirectLog(root, create=True, clock=clock) as log:
        log.create_topic("t", 1)
        log.commit(the(log), [batch(b"first")])
        path = the(log).segments()[-1].appended_path
    path.write_bytes(APPENDED_MAGIC + bytes(ENTRY_BYTES))
    page = bytearray((root / "shared").read_bytes())
    page[16:32] = b"an earlier boot!"
    (root / "shared").write_bytes(page)
    with DirectLog(root, clock=clock) as log:
        assert read_all(log) == [b"first"]
        [entry] = append_times(path.read_bytes())
        assert entry == (int(the(log).segments()[-1].path.stat().st_mtime), 0), "the file's last change"


def test_f10_power_cut_between_two_unlinks_hides_no_segment_that_is_kept(files: CrashFiles, tmp_path: Path) -> None:
    """Whichever of the removed files are back, the manifest says where the log begins."""
    cuts = []
    with watched_stores(), DirectLog(files.root / "data", create=True, files=files) as log:
        log.create_topic("t", 1, SMALL)
        for number in range(6):
            log.commit(the(log), [batch(b"%d" % number * 3000)])
        files.on_point = lambda point: cuts.append(files.cut(point)) if "unlink" in point else None
        assert the(log).delete_records(4) == 4
    assert len(cuts) > 8
    for number, cut in enumerate(cuts):
        root = tmp_path / str(number)
        root.mkdir()
        materialize(*cut.fall(random.Random(number), "torn"), root)
        with DirectLog(root / "data") as log:
            assert the(log).log_start == 4
            assert read_all(log, 4) == [b"4" * 3000, b"5" * 3000]
            stems = {path.name.rpartition(".")[0] for path in the(log).directory.iterdir() if path.name != "manifest"}
            assert len(stems) == 2, "what came back is removed"


def test_f13_segments_grow_and_nothing_is_filled_in_ahead(tmp_path: Path) -> None:
    """A file ends where the last batch does, and takes no more of the disk than that."""
    with DirectLog(tmp_path / "data", create=True) as log:
        log.create_topic("t", 1, TopicSettings(segment_bytes=1 << 20))
        for size in (1, 5000, 300_000, 300_000, 600_000, 20):
            log.commit(the(log), [batch(bytes([7]) * size)])
            mark, status = log.shared.written(the(log).slot), the(log).segments()[-1].path.stat()
            assert status.st_size == mark.position > size
            assert status.st_blocks * 512 < mark.position + (64 << 10)
        assert [segment.path.stat().st_size for segment in the(log).segments()][:-1] == [
            segment.size_bytes for segment in the(log).segments()[:-1]
        ]


def test_f16_offsets_have_gaps_inside_batches_and_between_and_nobody_counts_by_them(tmp_path: Path) -> None:
    """As compaction and transactions leave them: three records at ten offsets, and one offset without any."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for delta in (1, 4, 9):
        builder.append(delta, 0, None, b"%d" % delta, [])
    control = batch(b"commit")
    struct.pack_into(">h", control, 21, CONTROL)
    struct.pack_into(">I", control, 17, checksum(control))
    with DirectLog(tmp_path / "data", create=True) as log:
        log.create_topic("t", 1)
        for one in (builder.build(), control, batch(b"11")):
            log.commit(the(log), [one])
        assert the(log).high_watermark == 12
        for start in range(12):
            cursor = Cursor(log.reader, [Range(the(log), start, 12)])
            expected = [offset for offset in (1, 4, 9, 11) if offset >= start]
            assert cursor.count() == len(expected)
            assert [record.offset for _, record in cursor.records()] == expected
            fetched = log.reader(the(log), start).read()
            assert fetched.next_offset == 12
            assert [int(r.value or b"") for _, b in fetched.batches for r in decode(b) if r.offset >= start] == expected
        assert list(Verification(tmp_path / "data", deep=True).findings()) == []


def test_f17_a_task_is_known_after_its_batches_are_gone(tmp_path: Path) -> None:
    """Stopped on Friday, its outbox comes again after retention and a restart of the machine; and once more."""
    clock = SteppingClock()
    with DirectLog(tmp_path / "data", create=True, clock=clock) as log:
        log.create_topic("t", 1, SMALL)
        log.commit(the(log), [batch(b"friday", base_sequence=0, **TASK)])
        clock.ms += 30 * 24 * 3600 * 1000
        log.retain()
        assert the(log).log_start == the(log).log_end == 1
    with (tmp_path / "data" / "shared").open("r+b") as page:
        page.seek(16)
        page.write(b"an earlier boot!")
    for _ in range(2):
        with DirectLog(tmp_path / "data", clock=clock) as log:
            assert log.commit(the(log), [batch(b"friday", base_sequence=0, **TASK)]) == -1
            assert read_all(log, 1) == []


def test_f17_what_a_log_knew_of_its_producers_is_missed_and_not_made_up(tmp_path: Path) -> None:
    """Without the batches it was made of it could only be made empty, and everything would be taken twice."""
    with DirectLog(tmp_path / "data", create=True) as log:
        log.create_topic("t", 1)
        log.commit(the(log), [batch(b"friday", base_sequence=0, **TASK)])
        path = the(log).segments()[-1].producers_path
    path.unlink()
    with DirectLog(tmp_path / "data") as log:
        with pytest.raises(Damaged, match=path.name):
            log.commit(the(log), [batch(b"friday", base_sequence=0, **TASK)])
        assert read_all(log) == [b"friday"]


@pytest.mark.parametrize("first", [0, (1 << 31) - 5], ids=["from 0", "over 2 to the 31"])
def test_f18_an_outbox_of_more_than_five_batches_sent_again_is_there_once(tmp_path: Path, first: int) -> None:
    outbox = [(b"%d" % at, {"base_sequence": (first + at) % (1 << 31), **TASK}) for at in range(12)]
    with DirectLog(tmp_path / "data", create=True) as log:
        log.create_topic("t", 1)
        for sent in (7, 12, 12):  # Killed between, and after; then nothing was left to do.
            log.commit(the(log), [batch(value, **options) for value, options in outbox[:sent]])
        assert read_all(log) == [value for value, _ in outbox]
        assert the(log).last_sequence(TASK["producer_id"]) == outbox[-1][1]["base_sequence"]
