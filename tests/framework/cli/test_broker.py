"""`framework broker` and `framework worker --listen`: real processes, and a real client of them."""

from __future__ import annotations

import re
import signal
import socket
import struct
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from tests.framework.cli.conftest import Running, Shell

TIMEOUT_S = 30
FEW_FILES = 120
DOUBLE = """
from framework import App

app = App("doubling")
numbers = app.topic("numbers", int)
doubled = app.topic("doubled", int)

@app.agent(numbers, sink=doubled)
def double(number: int) -> int:
    return 2 * number
"""


def address_of(running: Running) -> str:
    """Where it listens, as it says."""
    address = running.wait_for("listen 127.0.0.1:").split()[1]
    running.wait_for("stops it")
    return address


def send(address: str, topic: str, *values: bytes, producer: Producer | None = None) -> None:
    """Send *values*, and wait until they are acknowledged."""
    producer, errors = producer or Producer({"bootstrap.servers": address}), list[Any]()
    for value in values:
        producer.produce(topic, value, on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(TIMEOUT_S) == 0
    assert errors == [None] * len(values)


def receive(address: str, topic: str, count: int) -> list[bytes]:
    """The first values of *topic*."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "none", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        values: list[bytes] = []
        while len(values) < count:
            record = consumer.poll(TIMEOUT_S)
            assert record is not None
            assert record.error() is None
            values.append(record.value() or b"")
        return values
    finally:
        consumer.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_broker_serves_until_a_signal_comes(shell: Shell, number: signal.Signals) -> None:
    broker = shell.start("broker", "--listen", ":0")
    address = address_of(broker)
    send(address, "flights", b"UA 1", b"AA 2")
    assert receive(address, "flights", 2) == [b"UA 1", b"AA 2"]
    rows = shell.ok("topics", "tail", "flights", "--json").json()
    assert [row["value"] for row in rows] == ["UA 1", "AA 2"]
    done = broker.end(number)
    assert done.code == 0
    lines = done.err.splitlines()
    assert lines[0] == f"made the data directory {shell.folder / 'data'}"
    assert re.fullmatch(rf"framework .+, broker, process {broker.pid}", lines[1])
    assert lines[2:5] == [f"data   {shell.folder / 'data'}", f"listen {address}", "serving; SIGTERM or Ctrl-C stops it"]
    assert f"{number.name}: finishing what is in hand; once more to stop at once" in lines
    assert lines[-1] == "stopped: everything that was acknowledged is in the log"


@pytest.mark.slow
def test_a_worker_that_listens_shares_its_topics(shell: Shell) -> None:
    shell.write("app.py", DOUBLE)
    worker = shell.start("worker", "--listen", "127.0.0.1:0")
    address = address_of(worker)
    send(address, "numbers", b"1", b"2", b"3")
    assert receive(address, "doubled", 3) == [b"2", b"4", b"6"]
    done = worker.end(signal.SIGTERM)
    assert done.code == 0
    assert "stopped: 3 records" in done.err


@pytest.mark.slow
def test_a_broker_beside_a_worker_shares_its_topics(shell: Shell) -> None:
    shell.write("app.py", DOUBLE)
    worker, broker = shell.worker(), shell.start("broker", "--listen", ":0")
    address = address_of(broker)
    send(address, "numbers", b"10", b"20")
    assert receive(address, "doubled", 2) == [b"20", b"40"]
    assert broker.end(signal.SIGTERM).code == worker.end(signal.SIGTERM).code == 0


@pytest.mark.slow
def test_a_second_broker_is_refused_and_names_the_first(shell: Shell) -> None:
    broker = shell.start("broker", "--listen", ":0")
    address_of(broker)
    done = shell.run("broker", "--listen", ":0")
    assert done.code == 5
    assert f"framework: process {broker.pid} is the broker of {shell.folder / 'data'} already" in done.err


@pytest.mark.slow
def test_a_port_that_is_taken_is_said_to_be(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = shell.run("broker", "--listen", f":{port}")
    assert done.code == 5
    assert f"framework: another program listens on 127.0.0.1:{port}" in done.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "listen", "text"),
    [
        ("broker", "0.0.0.0:9092", "can be reached from other machines"),
        ("worker", "192.168.0.7:9092", "can be reached from other machines"),
        ("broker", "127.0.0.1:kafka", "is not HOST:PORT"),
        ("broker", "127.0.0.1:99999", "port is 99999"),
    ],
)
def test_a_wrong_address_is_refused_with_the_reason(shell: Shell, command: str, listen: str, text: str) -> None:
    shell.write("app.py", DOUBLE)
    done = shell.run(command, "--listen", listen)
    assert (done.code, done.out) == (2, "")
    assert text in done.err
    assert not (shell.folder / "data").exists()


@pytest.mark.slow
def test_topics_are_made_on_demand_as_the_options_say(shell: Shell) -> None:
    broker = shell.start("broker", "--listen", ":0", "--partitions", "3")
    send(address_of(broker), "flights", b"UA 1")
    [row] = shell.ok("topics", "ls", "--json").json()
    assert (row["topic"], row["partitions"]) == ("flights", 3)


def was_answered(client: socket.socket) -> bool:
    """Whether the broker has said what it serves, or turned *client* away."""
    try:
        client.sendall(struct.pack(">ihhih", 10, 18, 0, 1, -1))
        return bool(client.recv(4))
    except ConnectionError:
        return False


@pytest.mark.slow
def test_clients_that_only_connect_leave_the_log_its_files(packages: Path, tmp_path: Path) -> None:
    """With few descriptors there are fewer clients, and none is told that the disk has failed."""
    with ExitStack() as exits:
        shell = Shell(tmp_path, packages, exits)
        few = ["bash", "-c", f'ulimit -n {FEW_FILES}; exec "$0" "$@"', sys.executable, "-m", "framework"]
        process = subprocess.Popen(
            [*few, "broker", "--data", "data", "--listen", ":0"],
            cwd=shell.folder,
            env=shell.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running = Running(process)
        exits.callback(running.close)
        address = address_of(running)
        host, _, port = address.rpartition(":")
        producer = Producer({"bootstrap.servers": address})
        send(address, "first", b"made", producer=producer)
        taken = 0
        for _ in range(FEW_FILES):
            client = exits.enter_context(socket.create_connection((host, int(port)), TIMEOUT_S))
            taken += was_answered(client)
        assert FEW_FILES // 3 < taken <= FEW_FILES // 2
        for number in range(3):
            send(address, f"topic-{number}", b"kept", producer=producer)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0
