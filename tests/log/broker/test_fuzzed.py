"""Requests of every API, sound and spoiled, over a real socket to a broker in a process of its own.

It ends no process, holds nobody up and takes no memory for good; no handler raises what it should not; and a client
beside it writes and reads as if nothing were. With FRAMEWORK_TORTURE=1 there are many more requests, no two runs send
the same, and if atheris is installed it looks for bytes that lead to code which no others have reached.
"""

from __future__ import annotations

import importlib.util
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from framework.log import Log
from framework.log.broker import APIS, Api
from framework.log.broker.table_records import FetchPartition, FetchRequest, FetchTopic
from framework.log.broker.writing import Target, varint, writer
from tests.faults.client_wire import FETCH_VERSION, PRODUCE_VERSION, Wire
from tests.log.broker.client import batch_of, producing
from tests.log.broker.drawn import of_version, structs
from tests.log.compacted_log import TORTURE
from tests.log.conftest import ROOT, TIMEOUT_S

SERVED = [api for api in APIS.values() if api.served]
EXAMPLES = 20_000 if TORTURE else 200
WARM = 100
"""So many requests are sent before memory is measured for the first time."""
ANSWER_S = 20.0
"""How long a connection may take to end whose client has said all: far more than it does."""
AT_ONCE_S = 0.1
GROWTH_BYTES = 48 << 20
HUGE = [0x7F, 0xFF, 0x7FFF, 0x7FFFFFFF, 0xFFFFFFFF]
WITNESS = "witness"
ATHERIS_RUNS = 200_000

pytestmark = pytest.mark.slow


@dataclass
class Served:
    """A broker in a process of its own, and a client that it has to be good to."""

    pid: int
    address: tuple[str, int]
    witness: Wire
    written: int = 0

    def memory_bytes(self) -> int:
        """What it has of the machine's memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def send(self, data: bytes) -> bytes:
        """What comes back for *data*, from a client that says no more."""
        with socket.create_connection(self.address, ANSWER_S) as client:
            received = b""
            try:
                client.sendall(data)
                # At an end the broker ends too, whatever is in hand; some of these wait for others on purpose.
                select.select([client], [], [], AT_ONCE_S)
                client.shutdown(socket.SHUT_WR)
                while more := client.recv(1 << 16):
                    received += more
            except TimeoutError:
                raise
            except OSError:
                pass  # It has hung up before all of it had come, or before it was told that there is no more.
            return received

    def check(self) -> None:
        """The witness writes a record and reads it."""
        offset = self.written
        self.witness.send("Produce", PRODUCE_VERSION, producing(WITNESS, {0: batch_of(b"%d" % offset)}))
        [part] = self.witness.receive("Produce", PRODUCE_VERSION).topics[0].partitions
        assert (part.error_code, part.base_offset) == (0, offset), part
        self.written += 1
        asked = FetchPartition(index=0, fetch_offset=offset, partition_max_bytes=1 << 20)
        topics = [FetchTopic(name=WITNESS, partitions=[asked])]
        body = FetchRequest(max_wait_ms=0, min_bytes=1, max_bytes=1 << 20, topics=topics)
        [found] = self.witness.ask("Fetch", FETCH_VERSION, body).topics[0].partitions
        assert found.high_watermark == self.written, found


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """A broker that ends well, and has met nothing that it does not know how to handle."""
    with Log(folder / "data", create=True) as log:
        log.create_topic("flights", 2)
        log.create_topic(WITNESS, 1)
    with (folder / "said").open("wb") as errors:
        arguments = ["-m", "framework", "broker", "--data", str(folder / "data"), "--listen", ":0"]
        process = subprocess.Popen(
            [sys.executable, *arguments], env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=folder, stderr=errors
        )
    try:
        while b"serving;" not in (said := (folder / "said").read_bytes()):
            assert process.poll() is None, said
            select.select([], [], [], 0.02)
        host, _, port = said.decode().partition("\nlisten ")[2].split()[0].rpartition(":")
        witness = Wire(f"{host}:{port}")
        yield Served(process.pid, (host, int(port)), witness)
        witness.drop()
        assert process.poll() is None, "it has ended"
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0
    finally:
        process.kill()
        process.wait(TIMEOUT_S)
    text = (folder / "said").read_text(errors="replace")
    assert "Traceback" not in text, text[text.index("Traceback") - 500 :][:5000]


@st.composite
def requests(draw: st.DrawFn) -> tuple[Api, int, bytes]:
    """A whole frame of some API, as it should be or spoiled in some places."""
    api = draw(st.sampled_from(SERVED))
    version = draw(st.sampled_from(api.served))
    target = Target()
    writer(api.request, version, api.flexible(version))(target, of_version(draw(structs(api.request)), version))
    frame = bytearray(struct.pack(">hhih", api.key, version, 1, -1) + (b"\0" if api.flexible(version) else b""))
    frame += b"".join(target.buffers())
    numbers = st.sampled_from([struct.pack(">I", n) for n in HUGE] + [varint(n) for n in HUGE])
    for _ in range(draw(st.sampled_from([0, 0, 1, 2, 4]))):
        at = draw(st.integers(4, max(4, len(frame) - 1)))
        how = draw(st.integers(0, 3))
        if how == 0 and at < len(frame):
            frame[at] ^= 1 << draw(st.integers(0, 7))
        elif how == 1:
            number = draw(numbers)
            frame[at : at + len(number)] = number
        elif how == 2:
            del frame[at : at + draw(st.integers(1, 8))]
        else:
            frame[at:at] = draw(st.binary(min_size=1, max_size=8))
    return api, version, bytes(frame)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs to know how much memory a process has")
def test_no_request_ends_a_broker_or_holds_up_others(tmp_path: Path, report: Callable[[str], None]) -> None:
    with served(tmp_path) as broker:
        seen = {"sent": 0, "answered": 0, "memory": 0}

        @settings(
            max_examples=EXAMPLES,
            derandomize=not TORTURE,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(requests(), min_size=1, max_size=3))
        def check(asked: list[tuple[Api, int, bytes]]) -> None:
            data = b"".join(struct.pack(">i", len(frame)) + frame for _, _, frame in asked)
            seen["answered"] += bool(broker.send(data))
            seen["sent"] += len(asked)
            broker.check()
            if seen["sent"] < WARM:
                seen["memory"] = broker.memory_bytes()
            assert broker.memory_bytes() < seen["memory"] + GROWTH_BYTES

        check()
        grown = (broker.memory_bytes() - seen["memory"]) / 1e6
        report(f"{seen['sent']} requests, {seen['answered']} answers; memory grew by {grown:.1f} MB")
        assert seen["answered"] > EXAMPLES / 20


@pytest.mark.skipif(
    not TORTURE or importlib.util.find_spec("atheris") is None, reason="takes minutes, and needs atheris"
)
def test_atheris_finds_nothing(tmp_path: Path) -> None:
    """In decoding requests, and in answering those that are."""
    program = Path(__file__).with_name("fuzz_frames.py")
    done = subprocess.run(
        [sys.executable, str(program), f"-runs={ATHERIS_RUNS}", f"-artifact_prefix={tmp_path}/"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
