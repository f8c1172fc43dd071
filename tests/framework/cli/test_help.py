"""What the command says about itself, and how quickly."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.framework.cli.conftest import Shell

pytestmark = pytest.mark.slow

COMMANDS = {
    "": ["worker", "broker", "topics", "agents", "dlq", "tables", "jobs", "groups", "verify", "doctor"],
    "topics": ["alter", "compact", "create", "delete", "delete-records", "ls", "purge", "send", "show", "tail"],
    "agents": ["checkpoints", "forget", "ls", "rename", "reset", "rewind", "show"],
    "dlq": ["ls", "purge", "retry", "show"],
    "tables": ["get", "ls", "release", "scan"],
    "jobs": ["backfill", "cancel", "drop", "ls", "pause", "resume", "rewind", "run", "runs", "show"],
    "groups": ["delete", "ls", "reset", "show"],
}
READS = [
    *("topics ls", "topics show", "topics tail", "agents ls", "agents show", "agents checkpoints", "dlq ls"),
    *("dlq show", "tables ls", "tables get"),
    *("tables scan", "jobs ls", "jobs show", "jobs runs", "jobs backfill", "jobs rewind", "groups ls", "groups show"),
]


def test_help_lists_commands_and_exit_codes(shell: Shell) -> None:
    out = shell.ok("--help").out
    for code in (0, 1, 2, 3, 4, 5, 6, 130):
        assert re.search(rf"^    {code} +\w", out, re.MULTILINE)


@pytest.mark.parametrize("noun", COMMANDS)
def test_a_noun_alone_shows_its_commands(shell: Shell, noun: str) -> None:
    done = shell.run(*noun.split())
    listed = re.findall(r"^  ([\w-]+)  ", done.err.partition("Commands:")[2], re.MULTILINE)
    assert (done.code, done.out, listed) == (2, "", COMMANDS[noun])


@pytest.mark.parametrize("command", READS)
def test_every_read_has_json_and_says_what_is_in_it(shell: Shell, command: str) -> None:
    out = shell.ok(*command.split(), "--help").out
    assert "--json" in out
    assert "JSON: {" in out


def test_help_imports_nothing_heavy(shell: Shell) -> None:
    """It is shown in under 150 ms, which one such import alone would take."""
    code = (
        "import sys\nfrom framework.cli import main\nsys.argv = ['framework', '--help']\n"
        "try:\n    main()\nfinally:\n    print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=shell.environment, capture_output=True, text=True, check=True
    )
    assert "framework.cli.topics" in done.stderr.split()
    assert not {"aiokafka", "asyncio", "croniter", "orjson", "pydantic", "rocksdict"} & set(done.stderr.split())


def test_version(shell: Shell) -> None:
    assert re.fullmatch(r"framework (\d+\.\d+\S*|\(not installed\))\n", shell.ok("--version").out)
