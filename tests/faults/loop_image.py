"""A real file system whose power can be cut: ext4 on a loop device, whose disk is a file in memory.

What the file holds at any moment is what a disk would hold if the power went then: names and bytes that were not
synced are in the page cache of the mounted file system only. A copy of the file, mounted, shows what is left.

A mount lives in a mount namespace of its own, held by a process that ends when its standard input does, and is reached
through `/proc/<pid>/root`. So nothing appears in the mount table of the machine, runs beside each other do not meet,
and the kernel clears everything away even if the test is killed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.faults.log_power import in_memory

IMAGE_MIB = 128
TIMEOUT_S = 60
TOOLS = ("unshare", "mount", "umount", "losetup", "mkfs.ext4", "cp")
ENVIRONMENT = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin", "LC_ALL": "C"}
# A lazy unmount where something is still open; the loop device goes with the last descriptor.
HOLD = 'mount -o "loop,$1" "$2" "$3" && echo mounted && cat; umount "$3" 2>/dev/null || umount -l "$3"'


class Mount:
    """A mounted image; `path` leads into it as long as it is open."""

    def __init__(self, image: Path, options: str = "") -> None:
        """Mount *image* with more *options* than a loop device needs.

        Raises:
            OSError: It cannot be mounted.
        """
        self.image, place = image, image.with_name(f"{image.name}.mounted")
        place.mkdir(exist_ok=True)
        # No journal commit by the clock: what was not synced stays off the disk.
        arguments = [f"commit=300{options and ','}{options}", str(image), str(place)]
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", HOLD, "hold", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"mounted\n":
            _, error = self._holder.communicate(timeout=TIMEOUT_S)
            raise OSError(f"cannot mount {image}: {error.decode(errors='replace').strip()}")
        self.path = Path(f"/proc/{self._holder.pid}/root{place}")

    def __enter__(self) -> Mount:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmount, and let the loop device go."""
        self._holder.communicate(timeout=TIMEOUT_S)
        # The device is cleared with the unmount; this is for a kernel that was in no hurry.
        for line in loop_devices(self.image):
            subprocess.run(["losetup", "-d", line], check=False, capture_output=True, env=ENVIRONMENT)


def loop_devices(image: Path) -> list[str]:
    """The loop devices that *image* is behind."""
    command = ["losetup", "--noheadings", "--output", "NAME", "--associated", str(image)]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=ENVIRONMENT).stdout.split()


def make_image(path: Path, block_bytes: int = 4096) -> Path:
    """An empty file system in the file *path*."""
    with path.open("wb") as file:
        file.truncate(IMAGE_MIB << 20)
    # Nothing is left to be done by the kernel while it is in use, and the journal is never short of room.
    lazy = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    command = ["mkfs.ext4", "-q", "-F", "-b", str(block_bytes), "-E", lazy, "-J", "size=16", str(path)]
    subprocess.run(command, check=True, capture_output=True, env=ENVIRONMENT)
    return path


def copy_image(image: Path, snapshot: Path) -> Path:
    """What the disk holds now."""
    subprocess.run(["cp", "--sparse=always", str(image), str(snapshot)], check=True, env=ENVIRONMENT)
    return snapshot


def why_not() -> str | None:
    """Why there can be no such file system here; None where there can."""
    if os.geteuid() != 0:
        return "needs root and loop devices: this is not root"
    if missing := [tool for tool in TOOLS if shutil.which(tool, path=ENVIRONMENT["PATH"]) is None]:
        return f"needs root and loop devices: there is no {missing[0]}"
    place = in_memory()
    if place is None:
        return "needs root and loop devices: there is no file system in memory to keep the disk in"
    with tempfile.TemporaryDirectory(prefix="framework-loop-", dir=place) as directory:
        try:
            Mount(make_image(Path(directory) / "image")).close()
        except (OSError, subprocess.SubprocessError) as error:
            return f"needs root and loop devices: {error}"
    return None
