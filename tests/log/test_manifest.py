"""The manifest names the segments of a partition, under generations that are never used twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.log import Files
from framework.log.document import write_document
from framework.log.errors import NewerFormat
from framework.log.manifest import VERSION, Manifest, SegmentRow


def test_a_new_partition_has_one_active_segment_at_offset_zero() -> None:
    manifest = Manifest.empty("id", 3)
    assert (manifest.topic_id, manifest.partition, manifest.log_start) == ("id", 3, 0)
    assert manifest.segments == (SegmentRow(0, 1, None),)
    assert manifest.active.stem == "00000000000000000000.1"


def test_rolling_closes_the_active_segment_at_its_size_and_begins_another() -> None:
    manifest = Manifest.empty("id", 0).rolled(10, 4000).rolled(25, 4100)
    assert manifest.segments == (SegmentRow(0, 1, 4000), SegmentRow(10, 2, 4100), SegmentRow(25, 3, None))
    assert manifest.active == SegmentRow(25, 3, None)
    assert manifest.next_generation == 4


@given(st.lists(st.tuples(st.integers(1, 1 << 40), st.integers(0, 1 << 30)), max_size=12))
def test_file_names_sort_as_offsets_do_and_generations_only_grow(rolls: list[tuple[int, int]]) -> None:
    manifest = Manifest.empty("id", 0)
    for grown, size in rolls:
        manifest = manifest.rolled(manifest.active.base_offset + grown, size)
    stems = [row.stem for row in manifest.segments]
    generations = [row.generation for row in manifest.segments]
    assert stems == sorted(stems)
    assert len(set(stems)) == len(stems)
    assert generations == sorted(set(generations))
    assert generations[-1] < manifest.next_generation
    assert [row.size_bytes for row in manifest.segments] == [*(size for _, size in rolls), None]


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    manifest = Manifest.empty("id", 7).rolled(10, 4000)
    manifest.write(Files(), tmp_path)
    assert Manifest.read(tmp_path) == manifest


def test_before_the_first_append_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Manifest.read(tmp_path)


def test_a_newer_manifest_is_refused(tmp_path: Path) -> None:
    write_document(Files(), tmp_path / "manifest", "manifest", VERSION + 1, {})
    with pytest.raises(NewerFormat, match=f"manifest has format {VERSION + 1}"):
        Manifest.read(tmp_path)
