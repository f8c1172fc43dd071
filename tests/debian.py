"""Debian's packages without installing them: downloaded, and unpacked into a folder of the project.

No service starts, nobody need be root, and `make clean` takes them away. Needs nothing but Python.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


class Failed(Exception):
    """A command did not do what it should; its last words."""


def unpack(package: str, place: Path) -> None:
    """Put *package*, and what it needs that this system does not have, into *place*.

    Raises:
        Failed: There is no apt here, or it does not have the package.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise Failed(f"{tool} is not here: the package is taken from Debian's archive")
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "partial").mkdir()
        # It only downloads, into a directory of ours: it needs neither rights nor the lock of the system's packages.
        options = ["Debug::NoLocking=1", f"Dir::Cache::archives={directory}", "APT::Sandbox::User="]
        apt = ["apt-get", *(f"-o{option}" for option in options), "--yes", "--no-install-recommends"]
        download = [*apt, "--reinstall", "--download-only", "install", package]
        try:
            run(download)
        except Failed:
            # The lists of packages are old, or a system has none as it comes.
            run(["apt-get", "update"])
            run(download)
        place.mkdir(parents=True, exist_ok=True)
        for archive in Path(directory).glob("*.deb"):
            run(["dpkg-deb", "--extract", str(archive), str(place)])


def run(command: Sequence[str]) -> None:
    """Run *command*, quietly.

    Raises:
        Failed: It ended with an error.
    """
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        lines = done.stdout.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise Failed(f"{command[0].rpartition('/')[2]}: {lines[-1]}")
