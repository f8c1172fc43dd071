"""Every byte flipped, every file cut short or gone: what is read is what was written, or an error names the file.

The partition is as small as one with two closed segments can be, so that each of its bytes can be tried, both in the
boot that wrote it and after another start of the machine. Then something is appended, which makes nothing worse.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from framework.log import Files, Log, NewRecord, Partition, TopicSettings, decode, encode
from framework.log.errors import Damaged, Error
from framework.log.header import walk
from framework.log.machine import boot_id
from framework.log.manifest import Manifest
from framework.log.shared import PAGE_BYTES, SLOT_BYTES
from framework.log.verify import Verification
from tests.faults.log_history import DirectLog, SteppingClock
from tests.faults.log_power import TORTURE, in_memory
from tests.log.conftest import Child

pytestmark = pytest.mark.slow
LIMIT_S = 10.0
TASK = 1 << 62 | 5
FILES = ["catalogue", "shared", "manifest", ".log", ".index", ".appended", ".producers"]
CHECKED = {"catalogue", "manifest", ".log", ".index", ".producers"}
"""The files in which no byte can change without a checksum or an offset that says so."""

CUTS = {"catalogue": 8, "manifest": 8, ".log": 3, ".index": 4, ".appended": 1, ".producers": 8, "shared": 3}
"""One length in how many is tried, where not all are."""
Outcome = NewRecord | Error | None


class Hangs(BaseException):
    """It took so long that it would never end."""


class Quick(Files):
    """Files that need not survive a power cut."""

    def fdatasync(self, fd: int) -> None:
        pass

    def sync_directory(self, path: Path) -> None:
        pass


@dataclass
class Tiny:
    """A closed data directory of one partition, how it was, and every record that was appended to it."""

    directory: Path
    clock: SteppingClock = field(default_factory=SteppingClock)
    records: list[NewRecord] = field(default_factory=list)
    whole: dict[Path, bytes] = field(default_factory=dict)
    believed: bool = True
    """Whether the slots are, because no other start of the machine lies between."""

    @property
    def aside(self) -> Path:
        """Where a file is while it is gone: renamed, so that it comes back as the same file."""
        return self.directory.with_name("aside")

    def fill(self) -> None:
        """Two closed segments and an active one, two batches in each, in a second of their own."""
        with self.opened(create=True) as log:
            partition = log.partition(log.create_topic("t", 1, TopicSettings(segment_ms=1000, retention_ms=-1)), 0)
            for _ in range(3):
                for count in (2, 1):
                    log.commit(partition, self.more(count))
                self.clock.ms += 1000
        self.whole = {path: path.read_bytes() for path in sorted(self.directory.rglob("*")) if path.is_file()}

    def more(self, count: int) -> list[bytearray]:
        """The next *count* records, as one batch."""
        at = len(self.records)
        self.records += [
            NewRecord(b"key %d" % number, b"value %d" % number, self.clock.ms + number, [("h", b"%d" % number)])
            for number in range(at, at + count)
        ]
        options: dict[str, Any] = {"producer_id": TASK, "producer_epoch": 0, "base_sequence": at}
        return encode(self.records[at:], max_batch_bytes=1 << 20, **options)

    def opened(self, *, create: bool = False) -> DirectLog:
        """The log, in this thread alone."""
        return DirectLog(self.directory, create=create, files=Quick(), clock=self.clock)

    def files(self, kind: str) -> list[Path]:
        """The files of one kind."""
        return [path for path in self.whole if path.name.endswith(kind)]

    def restore(self) -> None:
        """Make it as it was."""
        for path in self.directory.rglob("*"):
            if path.is_file() and path not in self.whole:
                path.unlink()
        for path, data in self.whole.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if self.aside.exists() and not path.exists():
                self.aside.rename(path)
            if not path.exists() or path.read_bytes() != data:
                path.write_bytes(data)
        if self.aside.exists():  # Something new had taken its place.
            self.aside.unlink()


@dataclass(frozen=True)
class Damage:
    """What is done to one file: its new bytes, or None where it is gone."""

    path: Path
    label: str
    data: bytes | None

    @property
    def kind(self) -> str:
        """Which of `FILES` it is."""
        return self.path.suffix or self.path.name

    def apply(self, tiny: Tiny) -> None:
        """Do it."""
        tiny.restore()
        if self.data is None:
            self.path.rename(tiny.aside)
        else:
            self.path.write_bytes(self.data)


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Tiny]:
    """A small data directory, in memory where there is a place for that."""
    root = Path(tempfile.mkdtemp(dir=in_memory()))
    made = Tiny(root / "data")
    made.fill()
    assert len(Manifest.read(made.files("manifest")[0].parent).segments) == 3
    yield made
    shutil.rmtree(root)


@pytest.fixture(params=["the same boot", "another boot"])
def boot(request: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[Tiny], None]:
    """Called with a directory: whoever opens it from then on does so in the boot that wrote it, or in another one."""

    def start(tiny: Tiny) -> None:
        tiny.believed = request.param == "the same boot"
        boot = boot_id() if tiny.believed else uuid.uuid4().bytes
        for module in ("log", "outside", "repair"):
            monkeypatch.setattr(f"framework.log.{module}.boot_id", lambda: boot)

    return start


@contextmanager
def bounded() -> Iterator[None]:
    """Whatever goes on for longer is taken to go on for ever."""

    def give_up(number: int, frame: FrameType | None) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def the(log: Log) -> Partition:
    """The one partition."""
    return log.partition(log.topic("t"), 0)


def places(tiny: Tiny, path: Path) -> list[int]:
    """The bytes that are worth a try: all, and of the shared file the page's words and the slot."""
    if path.name == "shared":
        return [*range(56), *range(PAGE_BYTES, PAGE_BYTES + SLOT_BYTES)]
    return list(range(len(tiny.whole[path])))


def flips(tiny: Tiny, kind: str, draw: random.Random, *, every: bool = TORTURE) -> Iterator[Damage]:
    """Each byte changed in turn, in one bit or in each; in each too where an offset or a mark is counted in it."""
    for path in tiny.files(kind):
        counted = {at + 7 for at, _, _ in walk(tiny.whole[path])} if kind == ".log" else set[int]()
        for at in places(tiny, path):
            whole = every or at in counted or (kind == "shared" and at % 8 < 2)
            for mask in [*(1 << bit for bit in range(8)), 255] if whole else [1 << draw.randrange(8)]:
                broken = bytearray(tiny.whole[path])
                broken[at] ^= mask
                yield Damage(path, f"{path.name}: byte {at} ^ {mask:#x}", bytes(broken))


def cuts(tiny: Tiny, kind: str, draw: random.Random, share: int) -> Iterator[Damage]:
    """Shorter than it was: at each length, or at some; and gone."""
    for path in tiny.files(kind):
        data = tiny.whole[path]
        lengths = [*places(tiny, path), *range(PAGE_BYTES, len(data), 1000)]
        kept = lengths if TORTURE else [length for length in lengths if draw.randrange(share) == 0]
        for length in {0, len(data) - 1, *kept}:
            yield Damage(path, f"{path.name}: cut to {length} bytes", data[:length])
        yield Damage(path, f"{path.name}: gone", None)


def look(tiny: Tiny, log: DirectLog) -> list[Outcome]:
    """What is found at each offset, by a reader that begins there; None where there is nothing, and no error."""
    return [find(log, offset) for offset in range(len(tiny.records))]


def find(log: DirectLog, offset: int) -> Outcome:
    """The record at *offset*."""
    reader = log.reader(the(log), offset)
    try:
        batches = reader.read(1 << 16).batches
    except Error as error:
        return error
    finally:
        reader.close()
    found = [record for _, batch in batches for record in decode(batch) if record.offset == offset]
    assert len(found) < 2, f"offset {offset} is there twice"
    return NewRecord(found[0].key, found[0].value, found[0].timestamp, list(found[0].headers)) if found else None


def read_on(tiny: Tiny, log: DirectLog) -> None:
    """From the log start, by one reader as far as it goes: in order, with nothing left out."""
    reader, values = log.reader(the(log), 0), list[bytes | None]()
    with suppress(Error):
        while batches := reader.read(1).batches:
            values += [record.value for _, batch in batches for record in decode(batch)]
    reader.close()
    assert values == [record.value for record in tiny.records[: len(values)]]


def names(error: Error, damage: Damage) -> None:
    """It says which file: the damaged one, or for marks one that they do not fit."""
    text = str(error)
    wanted = r"/(shared|manifest|\d{20}\.\d+\.log)\b" if damage.kind == "shared" else re.escape(damage.path.name)
    assert re.search(wanted, text), f"{damage.label}: {type(error).__name__}: {text}"


def judge(tiny: Tiny, damage: Damage) -> None:
    """Hold what a damaged directory answers against what was written.

    Of marks that are believed less is asked: nothing on the disk says what they were.
    """
    found = [finding for finding in Verification(tiny.directory, deep=True).findings() if finding.severity == "damage"]
    if damage.kind in CHECKED:
        assert [finding.path for finding in found] == [damage.path] * len(found), damage.label
        assert found, "verify is silent"
    try:
        log = tiny.opened()
    except Error as error:
        names(error, damage)
        if not found:
            pytest.fail(f"{error}, and verify is silent")
        return
    with log:
        believed = damage.kind == "shared" and damage.data is not None and tiny.believed
        before = look(tiny, log)
        read_on(tiny, log)
        for offset, outcome in enumerate(before):
            if isinstance(outcome, Error) and not believed:
                names(outcome, damage)
                said = damage.kind != ".log" or damage.data is None or f"offset {offset}" in str(outcome)
                assert said, f"no offset in {outcome}"
            right = isinstance(outcome, Error) or outcome == tiny.records[offset] or (believed and outcome is None)
            assert right, f"offset {offset} is {outcome}"
        all_there = [outcome for outcome in before if isinstance(outcome, NewRecord)] == tiny.records
        appended = append(tiny, log, damage, believed=believed)
        assert found or (all_there and appended), "verify is silent"
        check_no_worse(tiny, before, look(tiny, log))
    if TORTURE or not all_there:
        with tiny.opened() as log:
            check_no_worse(tiny, before, look(tiny, log))


def append(tiny: Tiny, log: DirectLog, damage: Damage, *, believed: bool) -> bool:
    """Behind everything that was there, or an error says why not; what the producer sent is not forgotten."""
    try:
        last = the(log).last_sequence(TASK)
        assert last == len(tiny.records) - 1, f"the producer's last sequence is {last}"
        new = NewRecord(None, b"new", tiny.clock.ms)
        offset = log.commit(the(log), encode([new], max_batch_bytes=99))
    except Error as error:
        if not believed:
            names(error, damage)
        return False
    assert offset >= len(tiny.records), f"offset {offset} is given out again"
    assert believed or find(log, offset) == new
    return True


def check_no_worse(tiny: Tiny, before: list[Outcome], after: list[Outcome]) -> None:
    for offset, (was, now) in enumerate(zip(before, after, strict=True)):
        if isinstance(was, NewRecord) or isinstance(now, NewRecord):
            assert now == tiny.records[offset], f"offset {offset} was {was}; after an append it is {now}"


def judge_all(tiny: Tiny, damages: Iterator[Damage]) -> int:
    """Judge each, on its own; how many there were."""
    count = 0
    for damage in damages:
        count += 1
        damage.apply(tiny)
        try:
            with bounded():
                judge(tiny, damage)
        except (Exception, Hangs) as error:  # Whatever a damaged file makes the log raise is what is looked for.
            raise AssertionError(f"{damage.label}: {type(error).__name__}: {error}") from error
    return count


@pytest.mark.parametrize("kind", FILES)
def test_a_flipped_byte_is_never_read_as_data(
    tiny: Tiny, boot: Callable[[Tiny], None], kind: str, seed: int, report: Callable[[str], None]
) -> None:
    boot(tiny)
    count = judge_all(tiny, flips(tiny, kind, random.Random(seed)))
    report(f"{count} flipped bytes")


@pytest.mark.parametrize("kind", FILES)
def test_a_file_cut_short_or_gone_is_never_read_as_data(
    tiny: Tiny, boot: Callable[[Tiny], None], kind: str, seed: int, report: Callable[[str], None]
) -> None:
    boot(tiny)
    count = judge_all(tiny, cuts(tiny, kind, random.Random(seed), CUTS[kind]))
    report(f"{count} cuts")


def test_a_flipped_bit_of_append_times_makes_no_segment_old(tiny: Tiny, seed: int) -> None:
    """Retention goes by them, and removes what it takes for old."""
    removed = []
    for damage in flips(tiny, ".appended", random.Random(seed), every=True):
        damage.apply(tiny)
        with tiny.opened() as log:
            log.alter_topic("t", TopicSettings())
            log.retain()
            removed += [damage.label] if the(log).log_start else []
    assert removed == []


@pytest.mark.parametrize("size", [0, 7, 100, PAGE_BYTES, PAGE_BYTES + 64, PAGE_BYTES + SLOT_BYTES, 2 * PAGE_BYTES])
def test_a_process_that_opens_a_shared_file_that_was_cut_does_not_crash(tiny: Tiny, size: int) -> None:
    """One that has it open dies of a SIGBUS when it looks behind the end, so nothing here makes the file shorter."""
    [path] = tiny.files("shared")
    Damage(path, "", tiny.whole[path][:size]).apply(tiny)
    script = """
    try:
        log = Log(sys.argv[1])
        partition = log.partition(log.topic("t"), 0)
        say("read", len(log.reader(partition, 6).read().batches), "of 2")
        say("at", log.append(partition, batches(b"new")).result(10))
    except Error as error:
        say(error)
    os._exit(0)
    """
    child = Child(script, tiny.directory)
    try:
        said = child.hear_rest()
        child.finish()
    finally:
        child.close()
    assert said == ["read 2 of 2", "at 9"] or "/shared " in said[-1] or "/manifest " in said[-1], said


def test_a_damaged_batch_fails_the_append_that_meets_it_and_not_the_committer(tiny: Tiny) -> None:
    """The append of an idempotent producer reads what is there; the next one has a thread to go to as well."""
    path = tiny.files(".log")[-1]
    Damage(path, "", tiny.whole[path][:30]).apply(tiny)
    with Log(tiny.directory) as log:
        other = log.partition(log.create_topic("u", 1), 0)
        [batch] = encode(
            [NewRecord(None, b"", 0)], max_batch_bytes=99, producer_id=TASK, base_sequence=len(tiny.records)
        )
        with pytest.raises(Damaged, match=re.escape(path.name)):
            log.append(the(log), [batch]).result(LIMIT_S)
        assert log.append(other, encode([NewRecord(None, b"", 0)], max_batch_bytes=99)).result(LIMIT_S) == 0


def test_a_catalogue_that_is_gone_takes_no_segment_with_it(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """After another start of the machine directories without a topic are deletions to be finished."""
    Damage(tiny.files("catalogue")[0], "", None).apply(tiny)
    monkeypatch.setattr("framework.log.log.boot_id", lambda: uuid.uuid4().bytes)
    with pytest.raises(Damaged, match="catalogue is missing"):
        tiny.opened()
    assert all(path.read_bytes() == tiny.whole[path] for path in tiny.files(".log"))
