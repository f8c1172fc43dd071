r"""Small files that are replaced as a whole: a checksum line, then one JSON object.

    document = crc32c:8 hex digits "\\n" json
    json     = {"kind": what the file is, "version": its format, ...}

Readers see the old one or the new one, whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastcrc import crc32

from framework.log.errors import Damaged, NewerFormat
from framework.log.files import Files


def write_document(files: Files, path: Path, kind: str, version: int, body: dict[str, object]) -> None:
    """Replace *path* durably, in one step."""
    text = json.dumps({"kind": kind, "version": version, **body}, indent=1).encode() + b"\n"
    files.replace(path, b"%08x\n" % crc32.iscsi(text) + text)


def read_document(path: Path, kind: str, version: int) -> dict[str, Any]:
    """What `write_document` wrote last.

    Raises:
        FileNotFoundError: It was never written.
        NewerFormat: A newer version of this software wrote it.
        Damaged: The checksum or the text is wrong.
    """
    data = path.read_bytes()
    found, _, text = data.partition(b"\n")
    if found != b"%08x" % crc32.iscsi(text):
        raise Damaged(f"{path} is damaged: its checksum line {found[:8]!r} does not fit its {len(text)} bytes")
    body = json.loads(text)
    if not isinstance(body, dict) or body.get("kind") != kind:
        raise Damaged(f"{path} is not a {kind}")
    if body["version"] > version:
        raise NewerFormat(
            f"{path} has format {body['version']}, this version reads up to {version}: upgrade framework-streams"
        )
    return body
