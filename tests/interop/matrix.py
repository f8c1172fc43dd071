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
HEAD = """\
# Kafka's clients and the broker

What each client does with `framework broker`, each in a process of its own. *none*: the client has nothing that does
it, see below the table. Written by `python -m tests.interop.matrix`; `make test` runs the same and compares.
"""


def main(arguments: list[str]) -> int:
    """Run what is asked for; 1 if anything failed, or if the matrix would lack a client."""
    clients = [CLIENTS[name] for name in arguments[:1]] or list(CLIENTS.values())
    names = arguments[1:] or list(SCENARIOS)
    missing = [reason for client in clients if (reason := client.missing())]
    if missing:
        print("\n".join(missing))
        return 1
    found: dict[str, dict[str, Outcome]] = {}
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as served:
        for client in clients:
            start = time.monotonic()
            found[client.name] = asyncio.run(outcomes(client, served, names))
            print(f"{client.name} {client.version()}: {time.monotonic() - start:.0f} s")
            for name, outcome in found[client.name].items():
                print(f"  {name}: {outcome.word} {outcome.why}".rstrip())
    failed = any(outcome.word == "failed" for each in found.values() for outcome in each.values())
    if not arguments:
        PLACE.write_text(written(found))
    return failed


def written(found: dict[str, dict[str, Outcome]]) -> str:
    """The matrix, with a line below it for all that a client has not for one reason."""
    names = list(found)
    lines = [HEAD, f"| | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    lines.append(f"| version | {' | '.join(CLIENTS[name].version() for name in names)} |")
    lines += [f"| {scenario} | {' | '.join(found[name][scenario].word for name in names)} |" for scenario in SCENARIOS]
    lines.append("")
    for name in names:
        gaps: dict[str, list[str]] = {}
        for scenario, outcome in found[name].items():
            if outcome.word == "none":
                gaps.setdefault(outcome.why, []).append(scenario)
        lines += [f"- {name} has none for {'; '.join(each)}: {why}." for why, each in gaps.items()]
    return "\n".join(lines) + "\n"


def read(path: Path) -> dict[str, dict[str, str]]:
    """The words of a matrix that was written: by client, by scenario."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in path.read_text().splitlines()
        if line[:1] == "|"
    ]
    [head, _, _, *scenarios] = rows
    return {name: {row[0]: row[number] for row in scenarios} for number, name in enumerate(head) if name}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
