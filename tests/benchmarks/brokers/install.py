"""`make broker-peers`: puts the other servers and all clients into `.venv/broker-peers`, and nothing anywhere else.

Debian's packages are downloaded and unpacked there, not installed: no service starts, nobody need be root, and
`make clean` takes them away. What cannot be had is a line that says why, and no failure. Needs nothing but Python.
"""

from __future__ import annotations

import os
import shutil
import tomllib
import venv
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.debian import Failed, run, unpack

ROOT = Path(__file__).parents[3]
PLACE = Path(os.environ.get("BENCH_BROKER_PEERS", ROOT / ".venv" / "broker-peers"))
"""Everything is here, and nothing elsewhere."""
PYTHON = PLACE / "bin" / "python"
UNPACKED = PLACE / "debian"
DEBIAN = ["redis-server", "rabbitmq-server"]
ERLANG = "/usr/lib/erlang"
"""Where Erlang's start script believes that it lies."""


def main() -> None:
    """Install everything that can be."""
    venv.create(PLACE, symlinks=True, with_pip=True)
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for requirement in wanted["project"]["optional-dependencies"]["broker-peers"]:
        attempt(requirement, partial(from_pypi, requirement))
    shutil.rmtree(UNPACKED, ignore_errors=True)
    for package in DEBIAN:
        attempt(package, partial(from_debian, package))


def attempt(what: str, install: Callable[[], None]) -> None:
    """Install it, and say how that went."""
    try:
        install()
    except Failed as failed:
        print(f"{what}: skipped: {failed}", flush=True)
    else:
        print(f"{what}: installed", flush=True)


def from_pypi(requirement: str) -> None:
    """Each by itself: one that has no wheel for this machine leaves the others alone."""
    run([str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--quiet", "install", requirement])


def from_debian(package: str) -> None:
    """The package, and what it needs that this system does not have.

    Raises:
        Failed: There is no apt here, or it does not have the package.
    """
    unpack(package, UNPACKED)
    start = UNPACKED / ERLANG[1:] / "bin" / "erl"
    if start.exists():
        start.write_text(start.read_text().replace(f"={ERLANG}\n", f"='{UNPACKED}{ERLANG}'\n"))


if __name__ == "__main__":
    main()
