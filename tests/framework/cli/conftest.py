"""A folder of a user's, in which the command is run the way a shell would run it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
LIMIT_S = 60.0
"""When a process that does not end is killed, which fails its test."""


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So shells start what runs in the background, and what we start would ignore Ctrl-C, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Done:
    """What a command that has ended leaves behind."""

    code: int
    out: str
    err: str

    def json(self) -> list[Any]:
        """The documents on standard output, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]


class Running:
    """A command that still runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """*process* has pipes for output and errors."""
        self.process, self.pid = process, process.pid
        self.seen = ""
        self._killer = threading.Timer(LIMIT_S, process.kill)
        self._killer.start()

    def wait_for(self, text: str) -> str:
        """Read standard error until a line holds *text*, and return that line."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.seen += line
            if text in line:
                return line
        pytest.fail(f"{text!r} never came, but this did:\n{self.seen}")

    def line(self) -> str:
        """The next line of standard output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def send(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self.process.send_signal(number)

    def end(self, number: signal.Signals | None = None) -> Done:
        """Wait until it has ended, after a signal if one is given."""
        if number is not None:
            self.send(number)
        out, err = self.process.communicate()
        self._killer.cancel()
        return Done(self.process.returncode, out, self.seen + err)

    def close(self) -> None:
        """End it, however it stands."""
        self.process.kill()
        self.process.communicate()
        self._killer.cancel()


class Shell:
    """A user's folder and shell."""

    def __init__(self, folder: Path, packages: Path, exits: ExitStack) -> None:
        """*packages* is where `framework` is imported from."""
        self.folder, self._exits = folder, exits
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("FRAMEWORK_")}
        self.environment |= {"PYTHONPATH": str(packages), "TERM": "xterm"}

    def write(self, name: str, text: str) -> Path:
        """Write a file of the user's."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def start(self, *arguments: str | Path, stderr: int = subprocess.PIPE) -> Running:
        """Start the command with *arguments*."""
        process = subprocess.Popen(
            [sys.executable, "-m", "framework", *map(str, arguments)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        running = Running(process)
        self._exits.callback(running.close)
        return running

    def worker(self, *arguments: str | Path) -> Running:
        """Start a worker, and return when it has started."""
        running = self.start("worker", *arguments)
        running.wait_for("SIGTERM or Ctrl-C stops it")
        return running

    def python(self, script: str) -> None:
        """Run a Python file of the user's."""
        subprocess.run([sys.executable, script], cwd=self.folder, env=self.environment, timeout=LIMIT_S, check=True)

    def run(self, *arguments: str | Path, text: str = "") -> Done:
        """Run the command with *arguments*, and *text* as its standard input."""
        done = subprocess.run(
            [sys.executable, "-m", "framework", *map(str, arguments)],
            cwd=self.folder,
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def ok(self, *arguments: str | Path, text: str = "") -> Done:
        """Run the command; it exits with 0."""
        done = self.run(*arguments, text=text)
        assert done.code == 0, f"{arguments} exited with {done.code}:\n{done.out}\n{done.err}"
        return done


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds our package alone, as an installed copy stands; the checkout holds log/ and state/ too."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "framework").symlink_to(ROOT / "framework")
    return folder


@pytest.fixture
def shell(tmp_path: Path, packages: Path) -> Iterator[Shell]:
    """A shell in an empty folder; what a test leaves running is killed."""
    with ExitStack() as exits:
        yield Shell(tmp_path, packages, exits)


WORDS = '''
"""Counts words."""
import sys
from framework import App, Batch, Stream

app = App("words")
lines = app.topic("lines", str)
words = app.topic("words", str, key=lambda word: word, partitions=3)
counts = app.table("counts", int)

@app.agent(lines, start="beginning")
async def split(stream: Stream[str]) -> None:
    async for line in stream:
        for word in line.split():
            words.send(word)

@app.agent(words)
async def count(stream: Stream[str]) -> None:
    async for word in stream:
        counts[word] += 1

@app.job(words, schedule="0 3 * * *", timezone="Europe/Berlin")
def longest(batch: Batch[str]) -> None:
    for chunk in batch.chunks(2):
        print("chunk", chunk.number, max(chunk, key=len), flush=True)
'''


@pytest.fixture
def words(shell: Shell) -> Shell:
    """A shell beside an app.py that splits lines and counts words, with two lines sent."""
    return with_words(shell)


@pytest.fixture(scope="module", params=["beside a worker", "without a worker"])
def counted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, packages: Path
) -> Iterator[Shell]:
    """The same with all words counted, and a worker that still runs, or none; for tests that only read."""
    with ExitStack() as exits:
        shell = with_words(Shell(tmp_path_factory.mktemp("counted"), packages, exits))
        shell.ok("worker", "--until-idle")
        if request.param == "beside a worker":
            shell.worker()
        yield shell


def with_words(shell: Shell) -> Shell:
    """*shell*, with the app and two lines for it."""
    shell.write("app.py", WORDS)
    shell.ok("topics", "send", "lines", "to be or", "not to be")
    return shell
