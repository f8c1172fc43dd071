"""A broker that is killed, stopped and started again at random, while clients use it: `Round`.

    with Round(folder, seed) as around:
        around.run(seconds)
        around.finish()
        around.judge()

Every client is a process with a history of its own; some are killed too. The broker keeps its port and its directory.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from framework.log import Log, TopicSettings
from tests.faults.client_history import IDEMPOTENT, NEVER, Key, Operation, read_histories, stored
from tests.faults.client_judge import check
from tests.faults.client_readers import GROUP
from tests.faults.client_wire import Wire
from tests.faults.log_stream import Violation
from tests.log.conftest import ROOT, TIMEOUT_S, readable

CALM_S, STOP_S, TOGETHER_S = (0.1, 1.5), (0.05, 0.6), 90.0
"""Between two troubles; how long a broker stands still; how long all may take to come to their end."""
WHILE_STARTING, START_S = 0.2, 0.6
"""How often a broker is killed while it starts, after how long at most."""
PORTS = range(20_000, 32_000)
"""Below those that the system gives to clients: none of them takes that of a broker which is away."""
TOPICS = {"flights": 2, "delays": 1}
KEYS: list[Key] = [(name, at) for name, count in TOPICS.items() for at in range(count)]
SENDERS = ["librdkafka_sender", "aiokafka_sender", "wire_idempotent_sender", "wire_once_sender"]
READERS = ["wire_reader", "librdkafka_static_member", "aiokafka_member"]
MORE = [["log_sender", "log_reader"], ["aiokafka_idempotent_sender", "librdkafka_member"]]
"""Who comes beside them, round by round."""
WORKER = "tests/faults/copying_app.py"
WEIGHTS = {"kill": 7, "stop": 2, "client": 2, "worker": 1}


class Process:
    """A process that writes its standard error into a file."""

    def __init__(self, path: Path, arguments: list[str]) -> None:
        """Start Python with *arguments*."""
        self.path = path
        with path.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL; when this returns it is gone."""
        self._process.kill()
        self._process.wait(TIMEOUT_S)

    def wait(self, timeout_s: float) -> int:
        """How it ended; it is an error that it has not by then."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise Violation("no hang", f"{self.path.name} did not end in {timeout_s:.0f} s: {self.said()}") from None

    def said(self) -> str:
        """The end of what it said."""
        return self.path.read_text(errors="replace")[-2000:]


class Round:
    """One broker, its clients, and what happened."""

    def __init__(self, folder: Path, seed: int, *, broken: str | None = None) -> None:
        """A directory in *folder*; *broken* is what the broker does wrong, by its name in `broken_broker`."""
        self.seed, self._draw, self._broken = seed, random.Random(seed), broken
        self._data, self._histories, self._said = folder / "data", folder / "histories", folder / "said"
        for each in (self._histories, self._said):
            each.mkdir(parents=True)
        self.counts, self._runs = Counter[str](), Counter[str]()
        self._clients: dict[str, Process] = {}
        self._broker: Process | None = None
        self._worker: Process | None = None
        self._has_worker = seed % 2 == 0
        self._nothing = os.pipe()

    def __enter__(self) -> Round:
        """Start everybody."""
        try:
            self._start_all()
        except BaseException:
            self._kill_all()
            raise
        return self

    def _start_all(self) -> None:
        with Log(self._data, create=True) as log:
            for name, count in TOPICS.items():
                log.create_topic(name, count, TopicSettings(segment_bytes=1 << 20))
            if self._has_worker:
                for name in ("asked", "copies"):
                    log.create_topic(name, 1, TopicSettings(segment_bytes=1 << 20))
        self._port = free_port(self._draw)
        self._wire = Wire(f"127.0.0.1:{self._port}")
        self._start_broker()
        for kind in [*SENDERS, *READERS, *MORE[self.seed % len(MORE)]]:
            self._start(kind)
        if self._has_worker:
            self._start("asking_sender")
            self._start_worker()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Leave nothing behind."""
        self._kill_all()
        self._wire.drop()
        for end in self._nothing:
            os.close(end)

    def _kill_all(self) -> None:
        for process in self._all():
            process.kill()

    def run(self, seconds: float) -> None:
        """Trouble for so long, once everybody is at work."""
        self._wait_for_clients()
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._rest(min(left, self._draw.uniform(*CALM_S)))
            [what] = self._draw.choices(list(WEIGHTS), list(WEIGHTS.values()))
            if what == "kill" or (what == "worker" and self._worker is None):
                self.kill_broker()
            elif what == "stop":
                self._stop_broker()
            elif what == "client":
                self._kill_client()
            else:
                self._kill_worker()
            self._check_alive()

    def finish(self) -> None:
        """Senders come to their end, then the worker, then the group; then the broker is killed once more."""
        self._wait_for_clients()
        senders = [name for name in self._clients if "sender" in name]
        self._end(senders)
        if self._worker is not None:
            self._worker.kill()
            self._start_worker("--until-idle")
            if (code := self._worker.wait(TOGETHER_S)) != 0:
                raise Violation("worker", f"it ended with {code}: {self._worker.said()}")
        self._wait_for_group()
        self._end(list(self._clients))
        assert self._broker is not None
        self._broker.kill()

    def judge_now(self) -> None:
        """End everybody, as they are, and judge what there is so far."""
        self._kill_all()
        self.judge(groups=[])

    def judge(self, groups: Iterable[str] = (GROUP,)) -> Counter[str]:
        """Hold the histories against the log; how much there was. *groups* have come to the end."""
        topics = [*TOPICS, *(("asked", "copies") if self._has_worker else ())]
        with Log(self._data) as log:
            there = stored(log, topics)
        operations = read_histories(self._histories)
        if self._has_worker:
            operations += copies(len(there["asked", 0]) if groups else len(there["copies", 0]))
        return check(operations, there, groups=groups) + self.counts

    def kill_broker(self) -> None:
        """SIGKILL, and it comes again."""
        assert self._broker is not None
        self._broker.kill()
        while self._draw.random() < WHILE_STARTING:
            self._broker = self._broker_process()
            self._rest(self._draw.uniform(0, START_S))
            self._broker.kill()
            self.counts["kills of a broker that starts"] += 1
        self._start_broker()
        self.counts["kills of the broker"] += 1

    # How it is done.

    def _broker_process(self) -> Process:
        program = ["framework"] if self._broken is None else ["tests.faults.broken_broker", self._broken]
        listen = ["broker", "--data", str(self._data), "--listen", f"127.0.0.1:{self._port}"]
        return Process(self._said / "broker", ["-m", *program, *listen])

    def _start_broker(self) -> None:
        self._broker = self._broker_process()
        until = time.monotonic() + TIMEOUT_S
        while not self._is_served():
            if time.monotonic() > until or not self._broker.is_alive:
                raise Violation("starts again", self._broker.said())
            self._rest(0.02)

    def _is_served(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), TIMEOUT_S).close()
        except OSError:
            return False
        return True

    def _stop_broker(self) -> None:
        assert self._broker is not None
        self._broker.signal(signal.SIGSTOP)
        self._rest(self._draw.uniform(*STOP_S))
        self._broker.signal(signal.SIGCONT)
        self.counts["stops of the broker"] += 1

    def _start(self, kind: str) -> None:
        who = f"{kind}-{self._runs[kind]}"
        self._runs[kind] += 1
        keys = json.dumps(KEYS)
        words = [kind, who, f"127.0.0.1:{self._port}", str(self._data), str(self._histories), str(self.seed), keys]
        self._clients[kind] = Process(self._said / who, ["-m", "tests.faults.client_apps", *words])

    def _kill_client(self) -> None:
        kind = self._draw.choice(sorted(self._clients))
        self._clients[kind].kill()
        self._start(kind)
        self.counts["kills of clients"] += 1

    def _start_worker(self, *options: str) -> None:
        words = ["-m", "framework", "worker", "-A", WORKER, "--data", str(self._data), *options]
        self._worker = Process(self._said / "worker", words)

    def _kill_worker(self) -> None:
        assert self._worker is not None
        self._worker.kill()
        self._start_worker()
        self.counts["kills of the worker"] += 1

    def _check_alive(self) -> None:
        for process in self._all():
            if not process.is_alive:
                raise Violation("no crash", f"{process.path.name} has ended: {process.said()}")

    def _all(self) -> list[Process]:
        return [*self._clients.values(), *(each for each in (self._broker, self._worker) if each is not None)]

    def _end(self, kinds: list[str]) -> None:
        ending = [self._clients.pop(kind) for kind in kinds]
        with ExitStack() as kills:
            for process in ending:
                kills.callback(process.kill)
                process.signal(signal.SIGTERM)
            for process in ending:
                if (code := process.wait(TOGETHER_S)) != 0:
                    raise Violation("no crash", f"{process.path.name} ended with {code}: {process.said()}")

    def _wait_for_clients(self) -> None:
        """Until each has something in its history."""
        until = time.monotonic() + TOGETHER_S
        while missing := [kind for kind in self._clients if not self._has_begun(kind)]:
            if time.monotonic() > until:
                raise Violation("no hang", f"{missing} did nothing in {TOGETHER_S:.0f} s")
            self._check_alive()
            self._rest(0.02)

    def _has_begun(self, kind: str) -> bool:
        path = self._histories / f"{kind}-{self._runs[kind] - 1}"
        # Some member of a group may have no partition.
        return path.exists() and path.read_bytes().count(b'["ok"') > ("member" not in kind)

    def _wait_for_group(self) -> None:
        """Until the group has committed all that is there."""
        wire, until = self._wire, time.monotonic() + TOGETHER_S
        for key in KEYS:
            while (committed := wire.committed(GROUP, *key)) != (end := wire.end(*key)):
                if time.monotonic() > until:
                    raise Violation("at least once", f"{GROUP} committed {committed} of {end} in {key} and no more")
                self._rest(0.05)

    def _rest(self, seconds: float) -> None:
        """Time goes by."""
        readable(self._nothing[0], seconds)


def copies(count: int) -> list[Operation]:
    """What the agent of `copying_app` sends for so many records that it has read, exactly once each."""
    producer = Operation("worker", "producer", ["copy", IDEMPOTENT], 0, 0, "ok", [])
    sends = [
        Operation("worker", "send", ["copies", 0, "copy", number], 0, NEVER, "ok", [None]) for number in range(count)
    ]
    return [producer, *sends]


def free_port(draw: random.Random) -> int:
    """A port of this machine that nobody listens on."""
    while True:
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port := draw.choice(PORTS)))
            except OSError:
                continue
            return port
