"""`framework topics send`: values of the command line, or lines of standard input, as records."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from framework.cli.options import directory_options, terminal

if TYPE_CHECKING:
    from framework.log.ack import Ack
    from framework.serdes import Serde
    from framework.topic import Topic

UNACKNOWLEDGED = 10_000
"""How many records may be on their way before the command waits for them."""


@click.command()
@click.argument("name")
@click.argument("values", nargs=-1, metavar="[VALUE]...")
@click.option("--key", help="The key of every record.  [default: as the app derives it from the value, else none]")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="A header of every record.")
@click.option("--partition", type=int, metavar="N", help="Where to.  [default: by the key]")
@directory_options
def send(
    name: str,
    values: tuple[str, ...],
    key: str | None,
    headers: tuple[str, ...],
    partition: int | None,
    app_name: str | None,
    data: str | None,
) -> None:
    """Send each VALUE, or else each line of standard input, as a record to the topic NAME.

    If the app declares the topic, a value must be one of its type, as JSON unless that is str or bytes; if
    not, it is sent as it is. Ends when the log has acknowledged every record.
    """
    from framework.app import App
    from framework.cli.directory import app_for_reading, opened

    app = app_for_reading(app_name, data) or App("framework")
    declared = name in app.topics
    with opened(app, create=declared) as directory:
        if not declared:
            directory.topic(name)
        topic = app.topics[name] if declared else app.topic(name, bytes, key_type=bytes)
        if partition is not None:
            directory.log.partition(app.topic_info(topic), partition)
        sender = Sender(topic, key, _pairs(headers), partition)
        sender.send(_named(values) if values else _lines())
    click.echo(f"{sender.sent} record{'s' * (sender.sent != 1)} sent to topic {name!r}", err=True)


class Sender:
    """Sends values given as text to one topic."""

    def __init__(
        self,
        topic: Topic[Any, Any],
        key: str | None,
        headers: list[tuple[str, bytes | None]],
        partition: int | None,
    ) -> None:
        """*key*, *headers* and *partition* are those of every record.

        Raises:
            UsageError: *key* is no key of the topic.
        """
        self._topic, self._headers, self._partition = topic, headers, partition
        self._key = None if key is None else _encoded(topic.key_serde, key.encode(), "--key")[1]
        self._acks: list[Ack] = []
        self.sent = 0

    def send(self, texts: Iterable[tuple[str, bytes]]) -> None:
        """Send *texts*, each with its place in the input, and return when all are acknowledged.

        Raises:
            UsageError: One is no value of the topic's type; those before it are sent.
        """
        from framework.log.errors import UsageError

        try:
            for place, text in texts:
                self._send(place, text)
                if len(self._acks) >= UNACKNOWLEDGED:
                    self._wait()
        except UsageError as error:
            self._wait()
            raise UsageError(f"{error} ({self.sent} sent before it)") from error
        self._wait()

    def _send(self, place: str, text: bytes) -> None:
        topic, key = self._topic, self._key
        value, data = _encoded(topic.value_serde, text, place)
        if key is None and topic.key_of is not None:
            key = topic.key_serde.encode(topic.key_of(value))
        self._acks.append(topic.send_raw(key, data, None, self._headers, partition=self._partition))

    def _wait(self) -> None:
        for ack in self._acks:
            ack.result()
        self.sent += len(self._acks)
        self._acks.clear()


def _encoded(serde: Serde[Any], text: bytes, place: str) -> tuple[Any, bytes]:
    """The value that *text* stands for, and its bytes as a program would send them."""
    from framework.errors import DecodeError, EncodeError
    from framework.log.errors import UsageError

    try:
        value = serde.decode(text)
        return value, serde.encode(value)
    except (DecodeError, EncodeError) as error:
        raise UsageError(f"{place}: {error}") from error


def _pairs(headers: tuple[str, ...]) -> list[tuple[str, bytes | None]]:
    from framework.log.errors import UsageError

    pairs: list[tuple[str, bytes | None]] = []
    for text in headers:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--header {text!r} is not NAME=VALUE")
        pairs.append((name, value.encode()))
    return pairs


def _named(values: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    return ((f"value {number}", value.encode()) for number, value in enumerate(values, 1))


def _lines() -> Iterator[tuple[str, bytes]]:
    if terminal(sys.stdin):
        click.echo("reading records from the terminal, one a line; Ctrl-D ends", err=True)
    for number, line in enumerate(sys.stdin.buffer, 1):
        yield f"line {number}", line.removesuffix(b"\n").removesuffix(b"\r")
