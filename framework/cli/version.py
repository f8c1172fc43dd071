"""The version of the distribution that runs."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

DISTRIBUTION = "framework-streams"


def version() -> str:
    """The version of the installed distribution; a checkout that was never installed has none."""
    try:
        return version_of(DISTRIBUTION)
    except PackageNotFoundError:
        return "(not installed)"
