"""The manifest of a partition: which segment files are the log.

One document, `manifest`, replaced at create, roll, retention and compaction, of which version 1 did not know.
A file that it does not name is garbage; a file it
names is never unlinked before a manifest without it is durable. Generations are never used twice, so a
reader that still knows an old list can tell an old file from a new one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from framework.log.document import read_document, write_document
from framework.log.files import Files

VERSION = 2


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """One segment file; `size_bytes` is None for the active one, which still grows."""

    base_offset: int
    generation: int
    size_bytes: int | None
    compacted: bool = False
    """Whether compaction wrote it: then offsets may be missing in it, at its beginning and at its end too."""

    @property
    def stem(self) -> str:
        """The name of its files without the ending: Kafka's 20 digits and the generation."""
        return f"{self.base_offset:020}.{self.generation}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The segments of one partition, in order; the last one is active."""

    topic_id: str
    partition: int
    log_start: int
    next_generation: int
    segments: tuple[SegmentRow, ...]
    compacted_to: int = 0
    """The offset up to which only the last record of each key was kept, when compaction came by."""

    @classmethod
    def empty(cls, topic_id: str, partition: int) -> Manifest:
        """A new partition with an empty active segment."""
        return cls(topic_id, partition, 0, 2, (SegmentRow(0, 1, None),))

    @property
    def active(self) -> SegmentRow:
        """The segment that is appended to."""
        return self.segments[-1]

    def rolled(self, base_offset: int, size_bytes: int) -> Manifest:
        """With the active segment closed at *size_bytes* and a new one begun at *base_offset*."""
        closed = replace(self.active, size_bytes=size_bytes)
        begun = SegmentRow(base_offset, self.next_generation, None)
        return replace(
            self,
            next_generation=self.next_generation + 1,
            segments=(*self.segments[:-1], closed, begun),
        )

    def reserving(self, generations: int) -> Manifest:
        """With so many generations left out, for files that are made before a manifest names them."""
        return replace(self, next_generation=self.next_generation + generations)

    def with_compacted(self, rows: tuple[SegmentRow, ...], made: SegmentRow) -> Manifest | None:
        """With *made* in the place of *rows*; None if they are no longer there."""
        at = next((at for at, row in enumerate(self.segments) if row == rows[0]), None)
        if at is None or self.segments[at : at + len(rows)] != rows:
            return None
        return replace(self, segments=(*self.segments[:at], made, *self.segments[at + len(rows) :]))

    def with_compacted_to(self, offset: int) -> Manifest:
        """With compaction finished up to *offset*."""
        return replace(self, compacted_to=max(self.compacted_to, offset))

    def started_at(self, log_start: int) -> Manifest:
        """Without what is below *log_start*: whole closed segments only."""
        bases = [row.base_offset for row in self.segments[1:]]
        gone = sum(base <= log_start for base in bases)
        return replace(self, log_start=log_start, segments=self.segments[gone:])

    def write(self, files: Files, directory: Path) -> None:
        """Replace the partition's manifest, durably."""
        rows = [
            {"base": s.base_offset, "generation": s.generation, "size": s.size_bytes, "compacted": s.compacted}
            for s in self.segments
        ]
        body = {
            "topic_id": self.topic_id,
            "partition": self.partition,
            "log_start": self.log_start,
            "next_generation": self.next_generation,
            "compacted_to": self.compacted_to,
            "segments": rows,
        }
        write_document(files, directory / "manifest", "manifest", VERSION, body)

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """The partition's manifest; `FileNotFoundError` before the first append."""
        body = read_document(directory / "manifest", "manifest", VERSION)
        rows = tuple(
            SegmentRow(row["base"], row["generation"], row["size"], row.get("compacted", False))
            for row in body["segments"]
        )
        return cls(
            body["topic_id"],
            body["partition"],
            body["log_start"],
            body["next_generation"],
            rows,
            body.get("compacted_to", 0),
        )
