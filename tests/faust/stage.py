"""Faust workers as processes, and what the log shows of what they do.

    with Stage(folder) as stage:
        stage.topic("numbers", 4)
        worker = stage.start("forward", "ada")
        stage.send("numbers", range(100))
        copies = stage.watch("copies")
        copies.until("all copies", lambda: len(copies.records) == 100)
        assert worker.stop() == 0

They run in the environment that has Faust, on this checkout; we look at the same directory from this one.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson
import pytest

from framework.log import Log, TopicSettings
from framework.log.broker.offsets import Place
from framework.log.codec import StoredRecord
from framework.log.locks import BROKER_LOCK
from framework.state.groups import GroupsView
from tests.log.conftest import ROOT

HERE = Path(__file__).parent
PYTHON = Path(os.environ.get("FRAMEWORK_FAUST_PYTHON", ROOT / ".venv" / "faust" / "bin" / "python"))
"""With Faust and this project installed."""
LIMIT_S = 60.0
MOST_SAID = 6_000
LOOK_S = 0.05
"""Between two looks at what rings nobody: the death of a process, and a commit in the state."""
SETTINGS = {
    "TOPIC_PARTITIONS": "4",
    "BROKER_COMMIT_INTERVAL": "0.2",
    "BROKER_SESSION_TIMEOUT": "6",
    "BROKER_HEARTBEAT_INTERVAL": "0.5",
}
"""Faust's own settings, of the environment: members that died are found out sooner than after a minute."""
_ports = itertools.count(20_000)


def unless_missing() -> None:
    """Skip the test if that is not there; where CI says that it is CI, fail it: nobody would miss it."""
    if not PYTHON.exists():
        missing = f"{PYTHON} is not there: `make .venv/faust.stamp`, or say FRAMEWORK_FAUST_PYTHON=..."
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)


class Worker:
    """`faust worker`, or any other of its commands, as a process."""

    def __init__(self, stage: Stage, app: str, name: str, command: Sequence[str], settings: Mapping[str, str]) -> None:
        """Start it; two of one *name* have the same folder of tables, one after the other."""
        self.name, self._said = name, stage.folder / f"{name}.txt"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FRAMEWORK_")}
        environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}", "BROKER_URL": stage.url, "WORKER": name}
        with self._said.open("ab") as said:
            self._process = subprocess.Popen(
                [PYTHON, "-m", "faust", "-A", app, "--datadir", stage.folder / f"tables-{name}", *command],
                cwd=stage.folder,
                env={**environment, **SETTINGS, **settings},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        self.pid = self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def said(self) -> str:
        """The end of what it wrote, and of what those wrote who had its name before."""
        return self._said.read_text(errors="replace")[-MOST_SAID:]

    def count(self, text: str) -> int:
        """How often it said so."""
        return self._said.read_text(errors="replace").count(text)

    def wait(self) -> int:
        """How it ended."""
        try:
            return self._process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {LIMIT_S:.0f} s; it said:\n{self.said()}") from None

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL; when this returns it is gone."""
        self._process.kill()
        self._process.wait(LIMIT_S)


class Watched:
    """What a topic holds, from its beginning, as far as we have looked."""

    def __init__(self, stage: Stage, topic: str) -> None:
        """The topic must be there."""
        self._stage, self._follower = stage, stage.log.follow(topic, "beginning")
        self.records: list[StoredRecord] = []
        self.different = set[bytes | None]()
        """The values, each once."""

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        """Read on until *holds*; an error when a worker that was not stopped ends, or it takes too long."""
        deadline = self._stage.log.clock.monotonic() + LIMIT_S
        while not holds():
            if not self._take():
                self._stage.check(what, f"{len(self.records)} records, the last {self.records[-3:]}", deadline)
                self._follower.doorbell.wait(LOOK_S)

    def now(self) -> None:
        """Read all there is."""
        while self._take():
            pass

    def _take(self) -> bool:
        taken = [record for _, record in self._follower.take_nowait()]
        self.records += taken
        self.different.update(record.value for record in taken)
        return bool(taken)

    def values(self) -> list[Any]:
        """The values, decoded."""
        return [orjson.loads(record.value or b"null") for record in self.records]

    def close(self) -> None:
        """Close its files."""
        self._follower.close()


class Stage:
    """A data directory, the workers on it, and our eyes."""

    def __init__(self, folder: Path) -> None:
        """The data lie in *folder*, and so does what the workers say and keep."""
        self.folder, self.data = folder, folder / "data"
        self.url = f"framework://{self.data}"
        self._exits, self._workers = ExitStack(), list[Worker]()
        """Of the workers those that are not to end by themselves."""

    def __enter__(self) -> Stage:
        self.log = self._exits.enter_context(Log(self.data, create=True))
        self._producer = self._exits.enter_context(self.log.producer())
        self._doorbell = self.log.doorbell()
        self._exits.callback(self._doorbell.close)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._exits.close()

    def topic(self, name: str, partitions: int, settings: TopicSettings | None = None) -> None:
        """Make a topic."""
        self.log.create_topic(name, partitions, settings)

    def watch(self, topic: str) -> Watched:
        """Look at a topic from its beginning."""
        watched = Watched(self, topic)
        self._exits.callback(watched.close)
        return watched

    def start(self, app: str, name: str, *, loop: str = "aio", **settings: str) -> Worker:
        """A worker of the program `app_APP` on such an event loop; *settings* go into its environment."""
        command = ["-L", loop, "worker", "-l", "info", "--without-web", "-p", str(next(_ports))]
        return self.run(app, name, *command, **settings)

    def run(self, app: str, name: str, *command: str, **settings: str) -> Worker:
        """Any command of Faust's, behind options for all of them."""
        worker = Worker(self, f"app_{app}", name, command, settings)
        self._workers.append(worker)
        self._exits.callback(worker.kill)  # However the test ends, and whatever has become of it.
        return worker

    def ended(self, worker: Worker) -> None:
        """Do not mind that this one has ended."""
        self._workers.remove(worker)

    def stop(self, worker: Worker) -> None:
        """SIGTERM, and it ends well."""
        self.ended(worker)
        code = worker.stop()
        assert code == 0, f"{worker.name} ended with {code}; it said:\n{worker.said()}"

    def kill(self, worker: Worker) -> None:
        """SIGKILL."""
        self.ended(worker)
        worker.kill()

    def send(
        self,
        topic: str,
        values: Iterable[Any],
        *,
        key: bytes | None = None,
        timestamp: int | None = None,
        partition: int | None = None,
    ) -> None:
        """Send *values* as JSON; they are durable when this returns."""
        for value in values:
            self._producer.send(topic, orjson.dumps(value), key=key, timestamp=timestamp, partition=partition)
        self._producer.flush()

    def host(self) -> int | None:
        """The process id of whoever serves the group: it may change at any time."""
        return self.log.shared.holder(BROKER_LOCK)

    def until(self, what: str, holds: Callable[[], bool], seen: Callable[[], object] = lambda: "nothing") -> None:
        """Look again and again at what rings nobody."""
        deadline = self.log.clock.monotonic() + LIMIT_S
        while not holds():
            self.check(what, str(seen()), deadline)
            self._doorbell.wait(LOOK_S)

    def check(self, what: str, seen: str, deadline: float) -> None:
        """Fail when a worker has ended, or the time is over."""
        for worker in self._workers:
            assert worker.is_alive, f"{worker.name} has ended while we waited for {what}; it said:\n{worker.said()}"
        late = self.log.clock.monotonic() > deadline
        said = "\n".join(f"{worker.name} said:\n{worker.said()}" for worker in self._workers) if late else ""
        assert not late, f"not within {LIMIT_S:.0f} s: {what}; seen: {seen}\n{said}"

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """The committed offset of each partition, as it stands in the state."""
        view = GroupsView(self.log)
        try:
            found: dict[Place, Any] = view.fetch(group)
        finally:
            view.close()
        return {number: each.offset for (id_, number), each in found.items() if id_ == self.log.topic(topic).id}

    def ends(self, topic: str) -> dict[int, int]:
        """The end of each partition that has records."""
        info = self.log.topic(topic)
        ends = {number: self.log.partition(info, number).high_watermark for number in range(info.partitions)}
        return {number: end for number, end in ends.items() if end}

    def until_committed(self, group: str, topic: str) -> None:
        """Until *group* has committed all there is."""
        self.until(
            f"{group} has committed all of {topic}",
            lambda: self.committed(group, topic) == self.ends(topic),
            lambda: f"{self.committed(group, topic)} of {self.ends(topic)}",
        )

    def framework(self, *arguments: str) -> str:
        """What a command of ours prints, for this directory."""
        done = subprocess.run(
            [sys.executable, "-m", "framework", *arguments, "--data", str(self.data)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
