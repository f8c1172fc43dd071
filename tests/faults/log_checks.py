"""Whether a log after a crash fits its history: what must be there, what must not, and whether it can go on."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

from framework.log import Partition
from framework.log.verify import Verification
from tests.faults.log_history import COMPACTED, Expected, History, append_times, read
from tests.faults.log_stream import Found, Key, Marks, Record, Stream, Violation, records_of


def check(history: History, expected: Expected, rng: random.Random) -> None:
    """Open *history*, whose files a crash left, and hold it against *expected*; it can then go on.

    Raises:
        Violation: Something is not as it was promised.
    """
    try:
        log = history.open()
    except Exception as error:
        raise Violation("opens", repr(error)) from error
    infos = log.topics()
    topics = {name: info.id for name, info in infos.items()}
    lost = {name for name, was in expected.topics.items() if topics.get(name) != was}
    if lost - expected.deleting:
        raise Violation("topics", f"{lost} were acknowledged, there are {topics}")
    if back := expected.deleted & set(topics.values()):
        raise Violation("topics", f"{back} were deleted, there are {topics}")
    if left := {path.name for path in (history.data / "topics").glob("*")} - set(topics.values()):
        raise Violation("garbage", f"{left} belong to no topic")
    for name, allowed in expected.settings.items():
        if name in topics and infos[name].settings not in allowed:
            raise Violation("topics", f"{name} has settings that it was never given")
    for key, marks in expected.marks.items():
        if key[0] not in lost and key[0] in topics:
            _guarded(partial(_check_partition, history, key, expected.streams[key], marks, rng))
        elif marks.visible and key[0] not in expected.deleting:
            raise Violation("topics", f"{key} had records, its topic is gone")
        else:
            history.streams.pop(key, None)
            history.visible.pop(key, None)
    for name in lost:
        history.gone(name)


def check_going_on(history: History, expected: Expected) -> None:
    """What was sent is sent again, as after a crash, and stored once; new records come behind it; compaction works."""
    for key in history.streams:
        _guarded(partial(_check_going_on, history, key, expected.marks[key]))


def check_files(data: Path) -> None:
    """Nothing is damaged by what `framework verify` knows; the log must be closed."""
    if found := [finding for finding in Verification(data, deep=True).findings() if finding.severity == "damage"]:
        raise Violation("verify", "; ".join(map(str, found)))


def _guarded(run: Callable[[], None]) -> None:
    """Whatever a log raises is a violation too."""
    try:
        run()
    except Violation:
        raise
    except Exception as error:
        raise Violation("reads and appends", repr(error)) from error


def _check_partition(history: History, key: Key, old: Stream, marks: Marks, rng: random.Random) -> None:
    assert history.log is not None
    part = history.partition(key)
    start, end = part.log_start, part.log_end
    bounds = old.starts[marks.starts - 1 : marks.starts + marks.moving]
    if not bounds[0] <= start <= bounds[-1]:
        raise Violation("log start", f"{key}: {start}, it was asked to be one of {bounds}")
    found = read(history.log, part, start)
    last = found[-1][0].next_offset if found else start
    if not max(marks.visible, last, start) <= end == part.high_watermark:
        raise Violation("log end", f"{key}: {part.high_watermark}, {end}, read from {start} to {last}, {marks.visible}")
    if part.topic.settings.compacts:
        _check_keys(key, old, marks, found, start)
    else:
        _check_batches(key, old, marks, found, (start, end))
    _check_times(part, old, marks.visible)
    if start < last:  # By the index, from the middle.
        middle = rng.randrange(start, last)
        again = read(history.log, part, middle, rng.choice([1, 200, 5000]))
        if again != [row for row in found if row[0].next_offset > middle]:
            raise Violation("visible records", f"{key}: reading from {middle} gives others")


def _check_batches(key: Key, old: Stream, marks: Marks, found: Found, bounds: tuple[int, int]) -> None:
    """Of a topic that is not compacted: every batch from the log start on, byte for byte."""
    start, end = bounds
    bases, ends = [header.base_offset for header, _ in found], [header.next_offset for header, _ in found]
    first = bases[0] if bases else end
    if bases != [first, *ends][: len(found)] or first > start or (ends[-1] if ends else start) != end:
        raise Violation("dense offsets", f"{key}: {bases} from {start} to {end}")
    now = [(header.base_offset, body) for header, body in found]
    final = sorted(old.final.items())
    kept = [row for row in final if first <= row[0] < marks.visible]
    if now[: len(kept)] != kept:
        raise Violation("visible records", f"{key}: of {marks.visible} visible there are {ends[-1:]}, or are others")
    for at, offset in old.answers[: marks.acknowledged]:
        if offset >= marks.visible:
            raise Violation("acknowledged records", f"{key}: {offset} was acknowledged, {marks.visible} was visible")
        if offset >= first and (offset, old.sent[at].body) not in kept:
            raise Violation("acknowledged records", f"{key}: offset {offset} is not what was sent")
    _check_order(key, old, marks.sent, now, first)


def _check_order(key: Key, old: Stream, sent: int, now: list[tuple[int, bytes]], first: int) -> None:
    """Only what was sent, once, in order; nothing of a producer's without what it sent before."""
    place = {one.body: at for at, one in enumerate(old.sent[:sent])}
    bodies = [body for _, body in now]
    if unknown := [body[:80] for body in bodies if body not in place]:
        raise Violation("known batches", f"{key}: {unknown} were never sent")
    places = [place[body] for body in bodies]
    if len(set(places)) < len(places):
        raise Violation("order", f"{key}: batches {places}")
    removed = {body for base, body in old.final.items() if base < first}
    for producer in {old.sent[at].producer for at in places} - {None}:
        of_one = [at for at in range(sent) if old.sent[at].producer == producer]
        of_one = [at for at in of_one if old.sent[at].body not in removed]
        if (there := [at for at in places if old.sent[at].producer == producer]) != of_one[: len(there)]:
            raise Violation("producer order", f"{key}: {there} of {of_one} sent by {producer}")
    final = [body for base, body in sorted(old.final.items()) if base >= first]
    if bodies != final[: len(bodies)]:  # Then what differs was written by one who was killed, and is the last.
        same = next((at for at, pair in enumerate(zip(bodies, final, strict=False)) if pair[0] != pair[1]), len(final))
        if any(after <= before for before, after in pairwise(places[same:])):
            raise Violation("order", f"{key}: batches {places}")


def _check_keys(key: Key, old: Stream, marks: Marks, found: Found, start: int) -> None:
    """Of a compacted topic: the last record of each key, and no record of a key behind whose tombstone it is."""
    now, truth = _records(found, start), records_of(old.final)
    stamps = {one.stamp for one in old.sent[: marks.sent]}
    for offset, record in now.items():
        if record != truth.get(offset) and (offset < marks.visible or record.stamp not in stamps):
            raise Violation("visible records", f"{key}: {record} at {offset}, it was {truth.get(offset)}")
    for at, offset in old.answers[: marks.acknowledged]:
        if offset >= marks.visible or (offset >= 0 and offset not in truth):
            raise Violation("acknowledged records", f"{key}: {offset} was acknowledged, of {old.sent[at].what}")
    visible = {offset: record for offset, record in truth.items() if start <= offset < marks.visible}
    last, newest = ({record.key: offset for offset, record in sorted(all_.items())} for all_ in (visible, now))
    for offset, record in visible.items():
        is_last = record.key is None or last[record.key] == offset
        if not is_last or offset in now or newest.get(record.key, -1) > offset:
            continue
        if record.value is not None or offset not in marks.droppable:
            raise Violation("last records", f"{key}: {record} at {offset} is the last of its key, and missing")
        if record.key in newest:
            raise Violation("deleted keys", f"{key}: {record.key!r} is back, {offset} was its tombstone")
    _check_compacted(key, now, min(marks.compacted_to, marks.visible))


def _check_compacted(key: Key, now: dict[int, Record], end: int) -> None:
    keys = [record.key for offset, record in now.items() if offset < end and record.key is not None]
    if len(set(keys)) < len(keys):
        raise Violation("compacted records", f"{key}: below {end} there are keys more than once: {sorted(keys)}")


def _records(found: Found, start: int) -> dict[int, Record]:
    records = records_of({header.base_offset: body for header, body in found})
    return {offset: record for offset, record in records.items() if offset >= start}


def _check_times(part: Partition, old: Stream, visible: int) -> None:
    rows, begin = append_times(part), part.segments()[0].base_offset if part.segments() else 0
    times = sorted(old.times.items())
    for offset in (base for base in old.final if begin <= base < visible):
        before = [second for base, second in times if base <= offset][-1:]
        if (now := [second for base, second in rows if base <= offset][-1:]) != before:
            raise Violation("append times", f"{part.name}: offset {offset} was appended at {before}, now {now}")


def _check_going_on(history: History, key: Key, marks: Marks) -> None:
    assert history.log is not None
    stream, part = history.streams[key], history.partition(key)
    compacts, was_end = part.topic.settings.compacts, part.log_end
    before = {header.max_timestamp for header, _ in read(history.log, part, part.log_start)}
    before |= {one.stamp for one in stream.sent if one.body in set(stream.final.values())}
    for one in stream.sent:
        if one.producer is not None:
            history.log.commit(part, [one.batch])
    end = part.log_end
    what = ((b"new", 300),) if compacts else 300
    if history.log.commit(part, [history.make(stream, what, None).batch]) != end:
        raise Violation("appends", f"{key} did not go on at {end}")
    found = read(history.log, part, part.log_start)
    if not found or found[-1][0].base_offset != end:
        raise Violation("appends", f"{key}: what was appended at {end} cannot be read")
    appended = [header.max_timestamp for header, _ in found if was_end <= header.base_offset < end]
    missing = [one.stamp for one in stream.sent if one.producer is not None and one.stamp not in before]
    if appended != missing:
        raise Violation("producers", f"{key}: {appended} were stored when all was sent again, {missing} were missing")
    if compacts:
        last = {record.key: offset for offset, record in _records(found, 0).items()}
        history.clock.ms += COMPACTED.delete_retention_ms + 1000
        part.compact(force=True)
        closed, now = part.segments()[-1].base_offset, _records(read(history.log, part, part.log_start), 0)
        _check_compacted(key, now, closed)
        for offset, record in _records(found, 0).items():
            if record.value is not None and last[record.key] == offset and now.get(offset) != record:
                raise Violation("last records", f"{key}: {record} at {offset} did not survive a compaction")
