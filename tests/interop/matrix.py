"""The matrix of clients and scenarios: run all of them, print how each went, and write it down.

    python -m tests.interop.matrix                                    all, and write MATRIX.md
    python -m tests.interop.matrix kafkajs                            one client, and print
    python -m tests.interop.matrix kafkajs "static members" ...       and some of the scenarios
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.interop.clients import CLIENTS
from tests.interop.running import Outcome, outcomes
from tests.interop.scenarios import SCENARIOS
from tests.interop.stage import serving

PLACE = Path(__file__).parent / "MATRIX.md"


def main(arguments: list[str]) -> int:
    """Run what is asked for; 1 if anything failed."""
    clients = [CLIENTS[name] for name in arguments[:1]] or list(CLIENTS.values())
    names = arguments[1:] or list(SCENARIOS)
    found: dict[str, dict[str, Outcome]] = {}
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as served:
        for client in clients:
            if reason := client.missing():
                print(reason)
                continue
            start = time.monotonic()
            found[client.name] = asyncio.run(outcomes(client, served, names))
            print(f"{client.name} {client.version()}: {time.monotonic() - start:.0f} s")
            for name, outcome in found[client.name].items():
                print(f"  {name}: {outcome.word} {outcome.why}")
    if not arguments:
        PLACE.write_text(written(found))
    return any(outcome.word == "failed" for each in found.values() for outcome in each.values())


def written(found: dict[str, dict[str, Outcome]]) -> str:
    """The matrix, with a line below it for each thing that a client has not."""
    lines = [
        "# Kafka's clients and the broker",
        "",
        "Written by `python -m tests.interop.matrix`; `make test` runs the same scenarios. *none*: the client has",
        "nothing that does this; below is what. Each client is a process of its own, and so is the broker.",
        "",
        "| | " + " | ".join(f"{name} {CLIENTS[name].version()}" for name in found) + " |",
        "| --- |" + " --- |" * len(found),
    ]
    for scenario in SCENARIOS:
        lines.append(f"| {scenario} | " + " | ".join(each[scenario].word for each in found.values()) + " |")
    gaps = [
        f"- {client}, {scenario}: {outcome.why}"
        for client, each in found.items()
        for scenario, outcome in each.items()
        if outcome.word == "none"
    ]
    return "\n".join([*lines, "", *gaps]) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
