"""Puts the clients that are no Python packages into `.venv`: kafkajs with npm, kcat from Debian's archive.

    python -m tests.interop.install kafkajs|kcat

Where the tool that has them is missing there is one line that says so, no stamp, and the tests of that client are
skipped. Where CI says that it is CI, that is a failure: tests that are skipped there would be missed by nobody.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.debian import Failed, run, unpack

VENV = Path(__file__).parents[2] / ".venv"
KAFKAJS, KCAT = VENV / "kafkajs", VENV / "kcat"
PACKAGES = ["kafkajs@2.2.4", "kafkajs-snappy@1.1.0"]


def kafkajs() -> None:
    """The client and its snappy, which is plain JavaScript, too.

    Raises:
        Failed: There is no npm or no node, or it could not be had.
    """
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            raise Failed(f"{tool} is not here")
    KAFKAJS.mkdir(parents=True, exist_ok=True)
    run(["npm", "install", "--prefix", str(KAFKAJS), "--no-audit", "--no-fund", "--loglevel=error", *PACKAGES])


def kcat() -> None:
    """The program and the libraries that this system does not have.

    Raises:
        Failed: There is no apt, or it could not be had.
    """
    unpack("kcat", KCAT)


def main(name: str) -> int:
    """Install one, note that it is there, and give the exit code."""
    place = VENV / name
    shutil.rmtree(place, ignore_errors=True)
    try:
        {"kafkajs": kafkajs, "kcat": kcat}[name]()
    except Failed as failed:
        print(f"{name} is not tested: {failed}", flush=True)
        return 1 if os.environ.get("CI") else 0
    place.with_suffix(".stamp").touch()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
