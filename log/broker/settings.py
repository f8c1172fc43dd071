"""The settings of a broker: every limit it keeps to, under Kafka's name where Kafka has one."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, fields

from framework.log.broker.frames import MAX_FRAME_BYTES
from framework.log.errors import InvalidSetting
from framework.log.settings import MAX_PARTITIONS, kafka_name

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 9092
_MILLION = 1 << 20


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Where a broker listens, and how much it lets its clients take."""

    host: str = DEFAULT_HOST
    """An address of this machine that other machines cannot reach: there is neither encryption nor a password."""

    port: int = DEFAULT_PORT
    """0 takes any that is free."""

    broker_id: int = 1
    """The one broker there is, which is also the controller."""

    max_connections: int = 4000
    """How many clients may be connected; further ones are hung up on."""

    connections_max_idle_ms: int = 600_000
    """How long a connection may neither ask, nor take what it is sent."""

    socket_request_max_bytes: int = MAX_FRAME_BYTES
    """The largest request."""

    max_in_flight_requests: int = 100
    """How many requests of a connection are in hand at once; the rest wait in the client's socket."""

    max_in_flight_bytes: int = 32 * _MILLION
    """How large those of one connection are together; one alone may be larger."""

    queued_max_request_bytes: int = 512 * _MILLION
    """How much all connections together may have in requests, and in answers that are read or not taken yet."""

    fetch_max_bytes: int = 55 * _MILLION
    """The largest answer to a Fetch, but for one batch that is larger."""

    max_open_readers: int = 512
    """How many files are kept open for those who read, whoever they are."""

    read_threads: int = 4
    """How many clients read from the disk at once what is not in memory."""

    auto_create_topics_enable: bool = True
    """Whether a topic is made when a client asks for one that is not there."""

    num_partitions: int = 1
    """How many partitions a topic has if nobody says."""

    max_created_topics: int = 1000
    """How many topics one request may make or delete."""

    log_retention_check_interval_ms: int = 60_000
    """How often the log is looked through for what retention does not keep."""

    shutdown_timeout_ms: int = 10_000
    """How long what is in hand may take when the broker ends, with sending the answers."""

    def __post_init__(self) -> None:
        """Refuse a value out of its range, naming both."""
        _check_loopback(self.host)
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise InvalidSetting(f"{kafka_name(name)} is {value!r}, it must lie between {low} and {high}")

    def as_config(self) -> dict[str, int | str | bool]:
        """The settings under Kafka's names."""
        return {kafka_name(field.name): getattr(self, field.name) for field in fields(self)}


RANGES: Mapping[str, tuple[int, int]] = {
    "port": (0, 65535),
    "broker_id": (0, 0x7FFFFFFF),
    "max_connections": (1, 1_000_000),
    "connections_max_idle_ms": (1, 1 << 40),
    "socket_request_max_bytes": (1024, 1 << 30),
    "max_in_flight_requests": (1, 100_000),
    "max_in_flight_bytes": (1024, 1 << 40),
    "queued_max_request_bytes": (1024, 1 << 40),
    "fetch_max_bytes": (1024, 1 << 30),
    "max_open_readers": (1, 1_000_000),
    "read_threads": (1, 64),
    "num_partitions": (1, MAX_PARTITIONS),
    "max_created_topics": (1, 100_000),
    "log_retention_check_interval_ms": (1, 1 << 40),
    "shutdown_timeout_ms": (0, 3_600_000),
}


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of HOST:PORT, HOST or :PORT; what is missing is as usual.

    Raises:
        InvalidSetting: It is none of these.
    """
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, ""
    host = host.removeprefix("[").removesuffix("]")
    if port and not (port.isascii() and port.isdecimal()):
        raise InvalidSetting(f"listen address {text!r} is not HOST:PORT, as in 127.0.0.1:{DEFAULT_PORT}")
    return host or DEFAULT_HOST, int(port) if port else DEFAULT_PORT


def _check_loopback(host: str) -> None:
    # "localhost" may be two addresses, and clients try the one that nobody listens on first.
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise InvalidSetting(f"listen address {host!r} is no IP address; 127.0.0.1 is the usual one") from None
    if not address.is_loopback:
        raise InvalidSetting(
            f"listen address {host!r} can be reached from other machines, and the broker has neither encryption nor "
            "passwords yet: listen on 127.0.0.1, and reach it from elsewhere through a tunnel (ssh -L)"
        )
