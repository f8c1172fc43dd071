"""Small files that are replaced as a whole: the old one or the new one, never something between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from framework.log import Files
from framework.log.document import read_document, write_document
from framework.log.errors import Damaged, NewerFormat


def test_what_was_written_last_is_read(tmp_path: Path) -> None:
    path = tmp_path / "thing"
    write_document(Files(), path, "thing", 1, {"names": ["ä", "b"], "size": None})
    write_document(Files(), path, "thing", 2, {"names": []})
    assert read_document(path, "thing", 2) == {"kind": "thing", "version": 2, "names": []}
    assert [file.name for file in tmp_path.iterdir()] == ["thing"]


def test_a_document_that_was_never_written_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_document(tmp_path / "thing", "thing", 1)


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "thing"
    write_document(Files(), path, "thing", 1, {"x": 1})
    sound = path.read_bytes()
    for place in range(len(sound)):
        for bit in range(8):
            broken = bytearray(sound)
            broken[place] ^= 1 << bit
            path.write_bytes(broken)
            with pytest.raises(Damaged, match=str(path)):
                read_document(path, "thing", 1)


def test_every_document_cut_short_is_found(tmp_path: Path) -> None:
    path = tmp_path / "thing"
    write_document(Files(), path, "thing", 1, {"x": 1})
    sound = path.read_bytes()
    for length in range(len(sound)):
        path.write_bytes(sound[:length])
        with pytest.raises(Damaged, match=str(path)):
            read_document(path, "thing", 1)


def test_a_document_of_another_kind_is_refused(tmp_path: Path) -> None:
    write_document(Files(), tmp_path / "thing", "other", 1, {})
    with pytest.raises(Damaged, match="is not a thing"):
        read_document(tmp_path / "thing", "thing", 1)


def test_a_newer_document_asks_for_an_upgrade_and_an_older_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "thing"
    write_document(Files(), path, "thing", 3, {})
    with pytest.raises(NewerFormat, match="has format 3, this version reads up to 2: upgrade"):
        read_document(path, "thing", 2)
    assert read_document(path, "thing", 4)["version"] == 3


def test_a_replacement_that_fails_at_any_step_leaves_the_old_or_the_new_one(tmp_path: Path, files: Any) -> None:
    path = tmp_path / "thing"
    write_document(files, path, "thing", 1, {"x": "old"})
    steps = list(files.calls)
    assert len(steps) > 3

    for failing in range(len(steps)):
        write_document(Files(), path, "thing", 1, {"x": "old"})
        files.calls.clear()

        def fail(operation: str, where: Path, failing: int = failing) -> None:
            if len(files.calls) == failing + 1:
                raise OSError(5, "Input/output error")

        files.before = fail
        with pytest.raises(OSError, match="Input/output"):
            write_document(files, path, "thing", 1, {"x": "new"})
        left = read_document(path, "thing", 1)["x"]
        assert left == ("new" if steps[failing][0] == "sync_directory" else "old")


def test_a_name_is_synced_after_the_content_it_stands_for(tmp_path: Path, files: Any) -> None:
    write_document(files, tmp_path / "thing", "thing", 1, {})
    assert files.calls[-4:] == [
        ("pwrite", tmp_path / "thing.tmp"),
        ("fdatasync", tmp_path / "thing.tmp"),
        ("rename", tmp_path / "thing"),
        ("sync_directory", tmp_path),
    ]
