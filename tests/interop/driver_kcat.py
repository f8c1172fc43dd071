"""kcat: an old librdkafka, driven by its command line; each call is a process, and so is a member."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tests.interop.answering import LIMIT_S, TURN_S, HasNone, Member, Refused, serve
from tests.interop.clients import kcat_environment
from tests.interop.install import KCAT

LARGE = 64 << 20
FORMAT = "%p %o %T %s\\n"
TOO_LARGE = "Broker: Message size too large"
REBALANCED = re.compile(r"% Group .* rebalanced.*?(assign|revoke).*?((?: ?\S+ \[\d+\],?)*)$")


class Driver:
    def __init__(self, address: str) -> None:
        self.address = address
        self.member: Member | None = None

    def _command(self, *arguments: str, **settings: Any) -> list[str]:
        """One command line; `fetch_wait_max_ms` stands for `fetch.wait.max.ms`."""
        options = [part for name, value in settings.items() for part in ("-X", f"{name.replace('_', '.')}={value}")]
        return [str(KCAT / "usr/bin/kcat"), "-b", self.address, *options, *arguments]

    def _run(self, command: Sequence[str], given: str | None = None) -> str:
        done = subprocess.run(
            command,
            input=given,
            env=kcat_environment(),
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        if TOO_LARGE in done.stderr:
            raise Refused(10, done.stderr.strip())
        assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}: {done.stderr}"
        return done.stdout

    def produce(self, topic: str, records: list[Any], codec: str, acks: str, idempotent: bool) -> None:
        """A process for each partition, which is said on its command line."""
        if any(time_ms is not None for _, _, time_ms in records):
            raise HasNone("its records have the time at which they are sent")
        settings = {
            "message_max_bytes": LARGE,
            "acks": acks,
            "linger_ms": 20,
            "enable_idempotence": str(idempotent).lower(),
        }
        for partition in sorted({partition for partition, _, _ in records}):
            values = [value for number, value, _ in records if number == partition]
            command = self._command("-P", "-t", topic, "-p", str(partition), "-z", codec, **settings)
            self._run(command, "\n".join(values) + "\n")

    def read(self, topic: str, partition: int, offset: int, count: int) -> list[Any]:
        return self._read(topic, partition, str(offset), count)

    def read_since(self, topic: str, partition: int, time_ms: int, count: int) -> list[Any]:
        return self._read(topic, partition, f"s@{time_ms}", count)

    def _read(self, topic: str, partition: int, place: str, count: int) -> list[Any]:
        command = self._command(
            "-C", "-q", "-t", topic, "-p", str(partition), "-o", place, "-c", str(count), "-f", FORMAT
        )
        lines = [line.split(" ", 3) for line in self._run(command).splitlines()]
        return [(int(offset), value, int(time_ms)) for _, offset, time_ms, value in lines]

    def join(self, group: str, topic: str, instance: str | None, session_ms: int, cooperative: bool) -> None:
        self.member = Member()
        static = {} if instance is None else {"group_instance_id": instance}
        command = self._command(
            *("-G", group, "-u", "-f", FORMAT),
            topic,
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=200,
            auto_offset_reset="earliest",
            auto_commit_interval_ms=100,
            partition_assignment_strategy="cooperative-sticky" if cooperative else "range,roundrobin",
            **static,
        )
        # What it prints is kept nowhere that somebody would have to clean up.
        self.out, self.said = os.memfd_create("out"), os.memfd_create("said")
        self.process = subprocess.Popen(
            command, env=kcat_environment(), stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.said
        )

    def state(self) -> dict[str, Any]:
        assert self.member is not None
        member = self.member = Member()
        for line in text_of(self.said).splitlines():
            if found := REBALANCED.match(line):
                changed = {int(number) for number in re.findall(r"\[(\d+)\]", found[2])}
                have = set(member.assigned)
                member.assign(list(have - changed if found[1] == "revoke" else have | changed))
        for line in text_of(self.out).splitlines():
            partition, offset, _, value = line.split(" ", 3)
            member.records.append((int(partition), int(offset), value))
        return member.state()

    def turn(self) -> None:
        """It reads by itself."""
        try:
            self.process.wait(TURN_S)
        except subprocess.TimeoutExpired:
            return
        raise SystemExit(f"kcat ended: {text_of(self.said)}")

    def commit(self) -> None:
        """It commits by itself, every tenth of a second."""

    def leave(self) -> None:
        if self.member is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(LIMIT_S)
            os.close(self.out)
            os.close(self.said)
            self.member = None

    def topics(self) -> list[str]:
        return re.findall(r'topic "(.*)" with', self._run(self._command("-L")))

    def partitions(self, topic: str) -> int:
        return len(re.findall(r"    partition \d+, leader", self._run(self._command("-L", "-t", topic))))

    def ends(self, topic: str, partition: int) -> list[int]:
        found = [self._run(self._command("-Q", "-t", f"{topic}:{partition}:{at}")) for at in (-2, -1)]
        return [int(text.rpartition(" offset ")[2]) for text in found]

    def __getattr__(self, call: str) -> Any:
        raise HasNone("it administers nothing")


def text_of(descriptor: int) -> str:
    """What has been written to a file so far."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode()


if __name__ == "__main__":
    serve(Driver(sys.argv[1]), lambda _: None)
