"""Whether what clients were told fits together, and fits what is there in the end: `check` of their histories.

It knows no more than the histories (`client_history`) and the records that the log holds at the end. It complains only
where no order of what happened could explain what was seen: who has no answer may have been served or not, at any time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from tests.faults.client_history import AGAIN, IDEMPOTENT, Key, Operation, Record
from tests.faults.log_stream import Violation

REFUSALS = ("OUT_OF_ORDER", "UNKNOWN_PRODUCER", "OutOfOrder", "UnknownProducer", "INVALID_PRODUCER_EPOCH", "fenced")
"""What an idempotent producer that keeps to its sequence is never told."""
Stored = Mapping[Key, Sequence[Record]]
Way = tuple[str, str, Key]
"""Who reads, in which session, and where."""


def check(operations: Iterable[Operation], there: Stored, *, groups: Iterable[str] = ()) -> Counter[str]:
    """Hold all histories against each other and what is *there*; *groups* have been let read to the end.

    Returns how much was looked at.

    Raises:
        Violation: Something is not as it was promised.
    """
    history = History(operations, there)
    check_known(history)
    check_places(history)
    check_acknowledged(history)
    check_once(history)
    check_order(history)
    check_refusals(history)
    check_sessions(history)
    check_high_watermarks(history)
    check_committed(history)
    check_groups(history, groups)
    counts = Counter(f"{operation.what} {operation.state}" for operation in history.operations)
    return counts + Counter({"records": sum(map(len, there.values())), "seen": len(history.seen)})


class History:
    """Operations by what they are, and what is there in the end."""

    def __init__(self, operations: Iterable[Operation], there: Stored) -> None:
        self.operations = sorted(operations, key=lambda operation: operation.begun_ns)
        self.there = there
        self.kinds = {operation.asked[0]: operation.asked[1] for operation in self.of("producer")}
        self.sends: dict[Record, Operation] = {}
        for operation in self.of("send"):
            self.sends[operation.asked[2], operation.asked[3]] = operation
        self.reads = [operation for operation in self.of("read") if operation.is_ok]
        self.offsets: dict[Record, list[tuple[Key, int]]] = defaultdict(list)
        """Where each record is."""
        for key, records in there.items():
            for offset, record in enumerate(records):
                self.offsets[record].append((key, offset))
        self.seen = list(self._seen())
        self.groups: dict[Way, tuple[str, Operation]] = {}
        """The group that a session was in, and when it was given its partition."""
        for operation in self.of("assigned"):
            group, _, _, session = operation.asked
            self.groups[operation.who, session, operation.key] = group, operation

    def of(self, what: str) -> Iterator[Operation]:
        """The operations of that name, in the order in which they began."""
        return (operation for operation in self.operations if operation.what == what)

    def ways(self) -> dict[Way, list[Operation]]:
        """The reads of each session that saw something, in order."""
        found: dict[Way, list[Operation]] = defaultdict(list)
        for read in self.reads:
            if read.words[1]:
                found[read.who, read.asked[2], read.key].append(read)
        return found

    def _seen(self) -> Iterator[tuple[Operation, int, Record]]:
        for read in self.reads:
            for offset, (name, number) in read.words[1]:
                yield read, offset, (name, number)


def check_known(history: History) -> None:
    """Whatever is there, or was read, is what a producer had begun to send there."""
    for read, offset, record in history.seen:
        _check_sent(history, record, read.key, offset)
        if read.ended_ns < history.sends[record].begun_ns:
            raise Violation("known records", f"{read.who} read {record} at {read.key} {offset} before it was sent")
    for record, places in history.offsets.items():
        for key, offset in places:
            _check_sent(history, record, key, offset)


def _check_sent(history: History, record: Record, key: Key, offset: int) -> None:
    send = history.sends.get(record)
    if send is None or send.key != key:
        where = "nowhere" if send is None else f"to {send.key}"
        raise Violation("known records", f"{key} has {record} at {offset}, which was sent {where}")


def check_places(history: History) -> None:
    """An offset names one record, for all readers and for ever."""
    for read, offset, record in history.seen:
        records = history.there[read.key]
        now = records[offset] if offset < len(records) else None
        if now != record:
            raise Violation("one record an offset", f"{read.key} {offset}: {read.who} read {record}, now it is {now}")


def check_acknowledged(history: History) -> None:
    """What was acknowledged is there, where it was said to be; two are never said to be at one place."""
    named: dict[tuple[Key, int], Record] = {}
    for record, send in history.sends.items():
        if send.state == "fail" and record in history.offsets:
            raise Violation("refused records", f"{record} was refused, and is at {history.offsets[record]}")
        if not send.is_ok:
            continue
        [offset] = send.words
        places = history.offsets.get(record, [])
        if not places:
            raise Violation("acknowledged records", f"{record} is nowhere, was said to be at {send.key} {offset}")
        if offset is None:
            continue
        other = named.setdefault((send.key, offset), record)
        if other != record:
            raise Violation("one record an offset", f"{send.key} {offset} was told to {other} and to {record}")
        if (send.key, offset) not in places:
            raise Violation("acknowledged records", f"{record} is at {places}, was said to be at {offset}")


def check_once(history: History) -> None:
    """What never sends a record again, or says that it does, has it there once at most."""
    for record, places in history.offsets.items():
        if len(places) > 1 and history.kinds[record[0]] != AGAIN:
            raise Violation("no duplicates", f"{record} of a producer that is {history.kinds[record[0]]}: {places}")


def check_order(history: History) -> None:
    """The records of a producer are in the order in which it sent them; what was sent again comes behind."""
    for key, records in history.there.items():
        last: dict[str, int] = {}
        sent = set[Record]()
        for offset, record in enumerate(records):
            name, number = record
            if record in sent:
                continue
            sent.add(record)
            if number <= last.get(name, -1):
                raise Violation("producer order", f"{key}: {record} at {offset} comes after number {last[name]}")
            last[name] = number


def check_refusals(history: History) -> None:
    """No idempotent producer is told that its sequence is not the next one."""
    for (name, number), send in history.sends.items():
        reason = str(send.answer[0]) if send.answer and not send.is_ok else ""
        if history.kinds[name] == IDEMPOTENT and any(word in reason for word in REFUSALS):
            raise Violation("producers", f"{name} was told at its record {number}: {reason}")


def check_sessions(history: History) -> None:
    """Readers see one offset after the other, none of them above the high watermark that they are told."""
    for (who, session, key), reads in history.ways().items():
        expected = None
        for read in reads:
            high_watermark, records = read.words
            for offset, _ in records:
                if offset != (offset if expected is None else expected):
                    raise Violation("prefixes", f"{who} in {session} read {key} {offset}, not {expected}")
                expected = offset + 1
            if high_watermark is not None and expected is not None and expected > high_watermark:
                raise Violation("prefixes", f"{who} read {key} up to {expected}, beyond {high_watermark}")


def check_high_watermarks(history: History) -> None:
    """They never go back, are above all that was acknowledged or read before, and not above what is there."""
    reached: dict[Key, list[tuple[int, int]]] = defaultdict(list)
    told: dict[Key, list[tuple[Operation, int]]] = defaultdict(list)
    for operation in [*history.reads, *(end for end in history.of("end") if end.is_ok)]:
        if (value := operation.words[0]) is not None:
            told[operation.key].append((operation, value))
            reached[operation.key].append((operation.ended_ns, value))
    for read, offset, _ in history.seen:
        reached[read.key].append((read.ended_ns, offset + 1))
    for record, send in history.sends.items():
        if send.is_ok:
            offset = send.words[0]
            if offset is None:  # The first of several, if it was sent again.
                offset = history.offsets[record][0][1]
            reached[send.key].append((send.ended_ns, offset + 1))
    for key, values in told.items():
        ordered = sorted(reached[key])
        ends, highest = [ns for ns, _ in ordered], list(accumulate((value for _, value in ordered), max))
        for operation, value in values:
            before = bisect_left(ends, operation.begun_ns)
            least, most = highest[before - 1] if before else 0, len(history.there[key])
            if not least <= value <= most:
                what = f"{operation.who} was told {value} for {key}, it was {least} before and is {most}"
                raise Violation("high watermarks", what)


def check_committed(history: History) -> None:
    """What a group is told that it has committed is its last acknowledged commit, or a later one.

    A session that begins is told so too, by where it begins.
    """
    commits: dict[tuple[str, Key], list[Operation]] = defaultdict(list)
    for commit in history.of("commit"):
        if commit.state != "fail":
            commits[commit.asked[0], commit.key].append(commit)
    for who, group, key, begun_ns, ended_ns, offset in _told(history):
        mine = commits[group, key]
        # Of those that were surely there, the one that was surely the last.
        settled = [commit for commit in mine if commit.is_ok and commit.ended_ns < begun_ns]
        last = max(settled, key=lambda commit: commit.begun_ns, default=None)
        if last is None and offset <= 0:
            continue
        since_ns = -1 if last is None else last.begun_ns
        # One without an answer may have been made at any time since.
        if not any(
            commit.asked[4] == offset
            and commit.begun_ns < ended_ns
            and (not commit.is_ok or commit.ended_ns >= since_ns)
            for commit in mine
        ):
            known = "nothing" if last is None else f"{last.asked[4]}, by {last.who}"
            raise Violation(
                "committed offsets", f"{who} found {offset} of {group} in {key}, committed before was {known}"
            )


def _told(history: History) -> Iterator[tuple[str, str, Key, int, int, int]]:
    for found in history.of("committed"):
        if found.is_ok:
            yield found.who, found.asked[0], found.key, found.begun_ns, found.ended_ns, found.words[0]
    for way, [first, *_] in history.ways().items():
        if way in history.groups:
            group, assigned = history.groups[way]
            yield way[0], group, way[2], assigned.begun_ns, first.ended_ns, first.words[1][0][0]


def check_groups(history: History, whole: Iterable[str]) -> None:
    """A group is given every record: no session begins behind one that none has seen, none commits what it has not.

    Those of *whole* have come to the end.
    """
    reached: dict[tuple[str, Key], int] = defaultdict(int)
    steps = sorted(
        [(read.ended_ns, read) for read in history.reads if read.words[1]]
        + [(commit.begun_ns, commit) for commit in history.of("commit")],
        key=lambda step: step[0],
    )
    for _, step in steps:
        if step.what == "commit":
            group, *_, offset = step.asked
            if offset > reached[group, step.key]:
                seen = reached[group, step.key]
                raise Violation("at least once", f"{step.who} commits {offset} in {step.key}, seen is {seen}")
            continue
        way = step.who, step.asked[2], step.key
        if way in history.groups:
            place = history.groups[way][0], step.key
            first, last = step.words[1][0][0], step.words[1][-1][0]
            if first > reached[place]:
                raise Violation("at least once", f"{place[0]} has not seen {reached[place]} of {step.key}, but {first}")
            reached[place] = max(reached[place], last + 1)
    for group in whole:
        for key, records in history.there.items():
            if any(place == (group, key) for place in reached) and reached[group, key] < len(records):
                raise Violation("at least once", f"{group} came to {reached[group, key]} of {len(records)} in {key}")
