"""Repair of what can be rebuilt in a damaged data directory, after a copy."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from framework.log import shared
from framework.log.catalogue import Catalogue
from framework.log.clock import Clock, SystemClock
from framework.log.errors import Conflict, Error
from framework.log.files import Files
from framework.log.locks import ALIVE_LOCK
from framework.log.log import Log
from framework.log.machine import boot_id
from framework.log.manifest import Manifest
from framework.log.outside import Finding, read_soundly
from framework.log.segment import Segment


def repair(directory: Path, findings: Sequence[Finding], clock: Clock | None = None) -> list[str]:
    """Rebuild what can be rebuilt of *findings*, after a copy in `<directory>/repair-<time>`; a line on each.

    Index files are written anew, files that no manifest names are removed, and a missing shared file is made by
    opening the directory, as after a power cut. All else is data.

    Raises:
        Conflict: Somebody else has the directory open.
    """
    files, shared_path = Files(), directory / "shared"
    time_ms = (clock or SystemClock()).now_ms()
    copies = directory / datetime.fromtimestamp(time_ms / 1000, UTC).strftime("repair-%Y%m%dT%H%M%S.%fZ")
    repairable = [finding.path for finding in findings if finding.repairable]
    lines: list[str] = []
    held, first = shared.open_shared(shared_path, files, boot_id())
    try:
        if not first or not held.alone:
            who = f"process {held.holder(ALIVE_LOCK)}" if first else "this process"
            raise Conflict(f"{directory} cannot be repaired while {who} has it open")
        catalogue = Catalogue(directory, held, files)
        for path in repairable:
            if path != shared_path:
                done = read_soundly(None, partial(_repair_file, path, directory, copies, catalogue, files))
                lines.append(f"{path}: {done}")
        if shared_path in repairable:
            for path in sorted({finding.path for finding in findings if finding.path.suffix == ".log"}):
                for there in (path, path.with_suffix(".appended")):
                    _copy(there, copies / there.relative_to(directory), files)
    finally:
        shared.close_shared(held)
    if shared_path in repairable:
        try:
            Log(directory).close()
            lines.append(f"{shared_path}: made anew")
        except Error as error:
            lines.append(f"{shared_path}: left as it is: {error}")
    return lines


def _repair_file(path: Path, directory: Path, copies: Path, catalogue: Catalogue, files: Files) -> str:
    """Rebuild the index at *path*, or remove what no manifest names; what was done."""
    copy = copies / path.relative_to(directory)
    manifest = Manifest.read(path.parent)
    row = next((row for row in manifest.segments if row.stem == path.stem), None)
    if row is None or path.suffix == ".tmp":
        _copy(path, copy, files)
        files.unlink(path)
        return f"removed; a copy is {copy}"
    topic = catalogue.by_id(path.parent.parent.name)
    if topic is None:
        return "left as it is: its topic has been deleted"
    segment = Segment(path.parent, row, topic.settings.index_interval_bytes)
    with segment.path.open("rb") as file:
        segment.walk_to(files, file.fileno(), row.size_bytes or 0)
    if not segment.is_walked:
        return "left as it is: its segment is damaged too"
    copied = _copy(path, copy, files)
    files.replace(path, segment.index_bytes())
    return f"rebuilt; a copy is {copy}" if copied else "rebuilt"


def _copy(path: Path, copy: Path, files: Files) -> bool:
    """Copy *path*, durably, if it is there."""
    if not path.exists():
        return False
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, copy)
    with copy.open("r+b") as file:
        files.fdatasync(file.fileno())
    files.sync_directory(copy.parent)
    return True
