"""The machine below the log: which start of it this is, what file system a directory is on, how long syncs take."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from framework.log.files import Files

FOREIGN = ("9p", "afs", "beegfs", "ceph", "cifs", "fuse", "gfs2", "lustre", "nfs", "ocfs2", "smb", "virtiofs")
"""How file systems begin that other machines or kernels write to as well: maps and locks do not hold there."""
PASSING = {"tmpfs": "memory", "ramfs": "memory", "overlay": "the container"}
_SYNCS, _SYNC_LIMIT_S, _SMALL, _LARGE, _LARGES = 200, 0.5, bytes(4096), bytes(1 << 20), 16


def boot_id() -> bytes:
    """16 bytes that change with every start of the machine."""
    try:
        return uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).bytes
    except FileNotFoundError:
        boot = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, check=True
        )
        return uuid.UUID(boot.stdout.strip()).bytes


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing about the machine; `advice` is the way out where it is not as it should be."""

    name: str
    value: str
    advice: str | None = None
    numbers: Mapping[str, float | str] = field(default_factory=dict)


def file_system(place: Path) -> Condition:
    """What kind of file system the existing directory *place* is on."""
    kind, mount = mount_of(place.resolve())
    advice = None
    if kind.startswith(FOREIGN):
        advice = "maps and locks do not hold on it: put the data directory on a local disk"
    elif kind in PASSING:
        advice = f"it goes with {PASSING[kind]}: put what must last on a disk"
    elif not kind:
        advice = "cannot be told: be sure that it is a local disk"
    return Condition("file system", f"{kind or 'unknown'} at {mount}", advice, {"type": kind, "mount": str(mount)})


def mount_of(place: Path) -> tuple[str, Path]:
    """(type, mount point) of the last mounted file system that holds *place*."""
    found = ("", Path("/"))
    with suppress(OSError):
        if sys.platform == "linux":
            lines = Path("/proc/self/mountinfo").read_text().splitlines()
            mounts = [(line.partition(" - ")[2].split()[0], line.split()[4]) for line in lines]
        else:
            listed = subprocess.run(["/sbin/mount"], capture_output=True, text=True, check=False).stdout
            mounts = [(kind, at) for at, kind in re.findall(r" on (.+) \((\w+)", listed)]
        for kind, at in mounts:
            mount = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), at))
            if place.is_relative_to(mount) and len(mount.parts) >= len(found[1].parts):
                found = (kind, mount)
    return found


def sync_latency(place: Path) -> list[Condition]:
    """How long a write and `fdatasync` of 4 kB take in *place*, and whether preallocating a file would pay."""
    try:
        growing, filled = (_sync_times(place, filled=filled) for filled in (False, True))
    except OSError as error:
        return [Condition("fdatasync", f"cannot be measured in {place}: {error.strerror}", "make it writable")]
    slow = growing["p99_ms"] > 50
    fast = growing["p50_ms"] < 0.005
    advice = "appends wait so long at times: use a faster or a less busy disk" if slow else None
    advice = "too quick to reach a disk: do not count on what was synced after a power cut" if fast else advice
    pays = preallocation_pays(growing, filled)
    return [
        Condition("fdatasync", _latency(growing), advice, growing),
        Condition("fdatasync, preallocated", f"{_latency(filled)}: {'pays' if pays else 'does not pay'}", None, filled),
    ]


def preallocation_pays(growing: Mapping[str, float], filled: Mapping[str, float]) -> bool:
    """Whether small syncs gain more than a third, and large ones lose less, with the zeros counted."""
    return filled["p50_ms"] < 0.7 * growing["p50_ms"] and filled["mb_s"] > 0.7 * growing["mb_s"]


def _latency(times: Mapping[str, float]) -> str:
    return f"p50 {times['p50_ms']:.2f} ms, p99 {times['p99_ms']:.2f} ms, {times['mb_s']:.0f} MB/s by 1 MB"


def _sync_times(place: Path, *, filled: bool) -> dict[str, float]:
    """Measured in a file without a name, which is gone whatever happens."""
    files, times = Files(), list[float]()
    with tempfile.TemporaryFile(dir=place) as file:
        fd = file.fileno()
        if filled:
            files.pwrite(fd, bytes(_SYNCS * len(_SMALL)), 0)
            files.fdatasync(fd)
        began = time.perf_counter()
        while len(times) < _SYNCS and (len(times) < 10 or time.perf_counter() - began < _SYNC_LIMIT_S):
            start = time.perf_counter()
            files.pwrite(fd, _SMALL, len(times) * len(_SMALL))
            files.fdatasync(fd)
            times.append((time.perf_counter() - start) * 1000)
        end, began = _SYNCS * len(_SMALL), time.perf_counter()
        for at in range(_LARGES):
            # Preallocation writes each byte twice, and its zeros have to be synced as well.
            for _ in range(1 + filled):
                files.pwrite(fd, _LARGE, end + at * len(_LARGE))
                files.fdatasync(fd)
        rate = _LARGES * len(_LARGE) / 1e6 / (time.perf_counter() - began)
    times.sort()
    return {"p50_ms": times[len(times) // 2], "p99_ms": times[len(times) * 99 // 100], "mb_s": rate}
