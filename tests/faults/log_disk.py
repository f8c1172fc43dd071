"""What a disk holds when the power goes: a model of files and directories, and the states that a cut can leave.

    synced        a file's bytes up to the last `fdatasync`, a directory's names up to the last `sync_directory`
    pending       what was written, truncated, made, renamed and unlinked since; a cut keeps any part of it
    shared file   stored to through a map, past the seam: every version of every sector since the last sync may be there

`Cut.fall` draws one of the states that the disk could be in. A file whose name is gone is gone; a name without
its data is empty, torn, full of zeros or too long. Names are kept or lost one by one, in order for each name, or as
a journal does it: all up to some moment.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field
from pathlib import Path

SECTOR_BYTES = 512
STYLES = (
    *("nothing unsynced", "names without data", "data without names", "everything", "no truncation", "newest name"),
    *("journal", "any", "any", "any"),
)
"""The corners first, then anything."""
WHOLE = ("everything", "data without names", "no truncation", "newest name")
State = dict[str, bytes | None]
"""The files of a disk by their path; None for a directory."""


@dataclass
class File:
    """One file: what is synced, and the writes (position, data) and truncations (size, None) since."""

    synced: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def sync(self) -> None:
        """All that is pending becomes durable."""
        for change in self.pending:
            self.synced = _applied(self.synced, change)
        self.pending = []

    def frozen(self, memo: dict[int, Node]) -> Node:
        """A copy that no longer changes."""
        return memo.setdefault(id(self), File(self.synced, list(self.pending)))

    def fall(self, rng: random.Random, style: str) -> bytes:
        """What a cut leaves."""
        if style == "any" and rng.random() < 0.4:
            style = rng.choice(STYLES[:6])
        if style in ("nothing unsynced", "names without data"):
            return self.synced
        left = self.synced
        for change in self.pending:
            if style in WHOLE:
                left = left if style == "no truncation" and change[1] is None else _applied(left, change)
            else:
                left = _torn(left, change, rng)
        return left


@dataclass
class Mapped:
    """The shared file: all versions of each sector since the last sync, the newest last."""

    now: bytearray = field(default_factory=bytearray)
    versions: dict[int, list[bytes]] = field(default_factory=dict)
    synced_size: int = 0
    identity: tuple[int, int] = (0, 0)

    def store(self, position: int, data: bytes) -> None:
        """*data* stands at *position* from now on."""
        end = position + len(data)
        self.now += bytes(max(0, end - len(self.now)))
        first, last = position // SECTOR_BYTES, -(-end // SECTOR_BYTES)
        for sector in range(first, last):
            before = bytes(self.now[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES])
            self.versions.setdefault(sector, [before if sector * SECTOR_BYTES < self.synced_size else b""])
        self.now[position:end] = data
        for sector in range(first, last):
            self.versions[sector].append(bytes(self.now[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES]))

    def sync(self) -> None:
        """Only the newest version is left."""
        self.versions, self.synced_size = {}, len(self.now)

    def frozen(self, memo: dict[int, Node]) -> Node:
        """A copy that no longer changes."""
        versions = {sector: list(found) for sector, found in self.versions.items()}
        return memo.setdefault(id(self), Mapped(bytearray(self.now), versions, self.synced_size, self.identity))

    def fall(self, rng: random.Random, style: str) -> bytes:
        """What a cut leaves: each sector as it was at some time since the last sync."""
        size = rng.choice([self.synced_size, len(self.now)])
        if style in ("nothing unsynced", "names without data"):
            size = self.synced_size
        elif style in WHOLE:
            size = len(self.now)
        left = bytearray(self.now[:size])
        for sector, found in self.versions.items():
            at = -1 if size == len(self.now) and style in WHOLE else 0
            if style in ("journal", "any"):
                at = rng.choice([0, -1, rng.randrange(len(found))])
            start = sector * SECTOR_BYTES
            if start < size:
                left[start : start + SECTOR_BYTES] = found[at].ljust(min(SECTOR_BYTES, size - start), b"\0")
        return bytes(left[:size])


@dataclass
class Directory:
    """One directory: its names, those that are synced, and the changes since, each of one or two names at once."""

    names: dict[str, Node] = field(default_factory=dict)
    synced: dict[str, Node] = field(default_factory=dict)
    pending: list[dict[str, Node | None]] = field(default_factory=list)

    def change(self, names: dict[str, Node | None]) -> None:
        """Give names to nodes, or take them away, in one step."""
        _rename(self.names, names)
        self.pending.append(names)

    def sync(self) -> None:
        """The names are durable."""
        self.synced, self.pending = dict(self.names), []

    def frozen(self, memo: dict[int, Node]) -> Node:
        """A copy that no longer changes."""
        if id(self) not in memo:
            copy = memo[id(self)] = Directory()
            copy.synced = {name: node.frozen(memo) for name, node in self.synced.items()}
            copy.pending = [{n: node and node.frozen(memo) for n, node in names.items()} for names in self.pending]
        return memo[id(self)]

    def fall(self, rng: random.Random, style: str) -> dict[str, Node]:
        """The names that a cut leaves."""
        left = dict(self.synced)
        kept = self.pending[: rng.randrange(len(self.pending) + 1)]
        if style in ("nothing unsynced", "data without names"):
            kept = []
        elif style in ("everything", "names without data", "no truncation"):
            kept = self.pending
        elif style == "newest name":
            kept = self.pending[-1:]
        elif style == "any" and rng.random() < 0.6:
            kept = [names for names in self.pending if rng.random() < 0.5]
        for names in kept:
            _rename(left, names)
        return left


Node = File | Mapped | Directory


@dataclass(frozen=True)
class Cut:
    """The disk at one moment, with everything it could have lost if the power went then."""

    point: str
    root: Directory

    def fall(self, rng: random.Random, style: str) -> tuple[State, tuple[int, int]]:
        """One state that the cut could leave, and what the shared file was identified by."""
        state: State = {}
        identity = (0, 0)
        waiting = [("", self.root)]
        while waiting:
            path, directory = waiting.pop()
            for name, node in directory.fall(rng, style).items():
                if isinstance(node, Directory):
                    state[path + name] = None
                    waiting.append((f"{path}{name}/", node))
                else:
                    state[path + name] = node.fall(rng, style)
                    if isinstance(node, Mapped):
                        identity = node.identity
        return state, identity


def materialize(state: State, identity: tuple[int, int], root: Path) -> None:
    """Write *state* into the empty directory *root*, as the machine finds it when it starts again.

    The shared file is the same file still, so what is written in it of its inode is changed to the new one; the boot
    is another.
    """
    for name, data in sorted(state.items()):
        path = root / name
        if data is None:
            path.mkdir()
        else:
            path.write_bytes(data)
            if path.name == "shared" and any(data[:8]):
                _identify(path, bytearray(data), identity)


def _identify(path: Path, page: bytearray, identity: tuple[int, int]) -> None:
    stat = path.stat()
    page[16:32] = b"an earlier boot!"
    if page[32:48] == b"".join(number.to_bytes(8, sys.byteorder) for number in identity):
        page[32:48] = b"".join(number.to_bytes(8, sys.byteorder) for number in (stat.st_ino, stat.st_dev))
    path.write_bytes(page)


def _rename(names: dict[str, Node], changes: dict[str, Node | None]) -> None:
    for name, node in changes.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _applied(data: bytes, change: tuple[int, bytes | None]) -> bytes:
    position, written = change
    if written is None:
        return data[:position].ljust(position, b"\0")
    return data[:position].ljust(position, b"\0") + written + data[position + len(written) :]


def _torn(data: bytes, change: tuple[int, bytes | None], rng: random.Random) -> bytes:
    """*data* after a part of one change has reached the disk."""
    position, written = change
    kept = rng.choice(["all", "all", "none", "bytes", "sectors", "some sectors", "length"])
    if kept == "none" or (written is None and kept != "all"):
        return data
    if written is None or kept == "all":
        return _applied(data, change)
    if kept == "bytes":
        return _applied(data, (position, written[: rng.randrange(len(written) + 1)]))
    # The file is as long as it should be; sectors that did not get there are as they were, or zeros.
    left = bytearray(data.ljust(position + len(written), b"\0"))
    first, end = position // SECTOR_BYTES, -(-(position + len(written)) // SECTOR_BYTES)
    cut = rng.randrange(first, end + 1)
    for sector in range(first, end):
        if sector < cut if kept == "sectors" else kept == "some sectors" and rng.random() < 0.5:
            start, stop = (
                max(position, sector * SECTOR_BYTES),
                min(position + len(written), (sector + 1) * SECTOR_BYTES),
            )
            left[start:stop] = written[start - position : stop - position]
    return bytes(left)
