"""The clients: how the driver of each is started, its version, and what is missing if it is not here."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from tests.interop.driver import ROOT, python
from tests.interop.install import KAFKAJS, KCAT


@dataclass(frozen=True)
class Client:
    """One of Kafka's clients."""

    name: str
    command: Sequence[str]
    version: Callable[[], str]
    missing: Callable[[], str | None] = lambda: None
    """Why it is not here, if it is not."""


def _kafkajs_version() -> str:
    package: dict[str, str] = json.loads((KAFKAJS / "node_modules/kafkajs/package.json").read_text())
    return package["version"]


def kcat_environment() -> dict[str, str]:
    """Where kcat finds the libraries that came with it."""
    folders = [str(folder) for folder in (KCAT / "usr" / "lib").glob("*") if folder.is_dir()]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(folders)}


def _kcat_version() -> str:
    done = subprocess.run(
        [KCAT / "usr/bin/kcat", "-V"], env=kcat_environment(), capture_output=True, text=True, check=True
    )
    [(own, library)] = re.findall(r"Version (\S+) .*librdkafka (\S+)", done.stdout)
    return f"{own} (librdkafka {library})"


def _confluent_version() -> str:
    import confluent_kafka

    return f"{version('confluent-kafka')} (librdkafka {confluent_kafka.libversion()[0]})"


def _unless_stamped(name: str) -> Callable[[], str | None]:
    stamp = ROOT / ".venv" / f"{name}.stamp"
    return lambda: None if stamp.exists() else f"{name} is not here: `make {stamp.relative_to(ROOT)}` says why"


CLIENTS = {
    client.name: client
    for client in [
        Client("aiokafka", python("driver_aiokafka"), lambda: version("aiokafka")),
        Client("confluent-kafka", python("driver_confluent"), _confluent_version),
        Client("kafka-python", python("driver_kafka_python"), lambda: version("kafka-python")),
        Client(
            "kafkajs",
            ["node", str(ROOT / "tests/interop/driver_kafkajs.mjs"), str(KAFKAJS)],
            _kafkajs_version,
            _unless_stamped("kafkajs"),
        ),
        Client("kcat", python("driver_kcat"), _kcat_version, _unless_stamped("kcat")),
    ]
}
