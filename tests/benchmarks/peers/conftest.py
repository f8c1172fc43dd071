"""What stands here is imported in the peers' own environments, and collected nowhere."""

from __future__ import annotations

collect_ignore_glob = ["*.py"]
