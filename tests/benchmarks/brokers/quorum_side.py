"""pika on a quorum queue of RabbitMQ: publisher confirms, many in flight; acknowledged by the hundred when consumed."""

from __future__ import annotations

from typing import Any

import pika
from pika.adapters.select_connection import SelectConnection

from tests.benchmarks.brokers.meter import STREAM, VALUES, Meter, meter

IN_FLIGHT = 1000
"""How many records wait for their confirm at once, and how many the consumer has before it acknowledges."""
PERSISTENT = pika.BasicProperties(delivery_mode=2)


def main() -> None:
    """Measure."""
    measured = meter()
    parameters = pika.ConnectionParameters(host="127.0.0.1", port=measured.port, heartbeat=0)
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.queue_declare(STREAM, durable=True, arguments={"x-queue-type": "quorum"})
    channel.confirm_delivery()
    publish(channel)
    Producing(measured, parameters).run()
    Consuming(measured, parameters).run()
    for _ in measured.singles():
        publish(channel)  # Returns when it is confirmed: this connection is a blocking one.
    connection.close()
    measured.print()


def publish(channel: Any) -> None:
    """Send a record that survives a restart."""
    channel.basic_publish("", STREAM, VALUES[0], PERSISTENT)


class Phase:
    """A connection that works with callbacks: pika's other kind lets only one record be in flight."""

    def __init__(self, measured: Meter, parameters: Any) -> None:
        self.measured = measured
        self.connection = SelectConnection(parameters, on_open_callback=self._connected)

    def run(self) -> None:
        """Return when all is done."""
        self.connection.ioloop.start()

    def begin(self, channel: Any) -> None:
        """What is done with the channel; ends with `end`."""
        raise NotImplementedError

    def end(self) -> None:
        """All records went through."""
        self.measured.end(self.measured.records)
        self.connection.close()
        self.connection.ioloop.stop()

    def _connected(self, connection: Any) -> None:
        connection.channel(on_open_callback=self.begin)


class Producing(Phase):
    """Keeps so many records in flight, and no more."""

    def begin(self, channel: Any) -> None:
        """Ask for confirms, and go on when the server agrees."""
        self._sent = self._confirmed = 0
        self._channel = channel
        channel.confirm_delivery(self._confirm, callback=self._agreed)

    def _agreed(self, _: Any) -> None:
        self.measured.begin()
        self._fill()

    def _confirm(self, frame: Any) -> None:
        assert frame.method.NAME == "Basic.Ack", frame
        self._confirmed = frame.method.delivery_tag if frame.method.multiple else self._confirmed + 1
        if self._confirmed < self.measured.records:
            self._fill()
        else:
            self.end()

    def _fill(self) -> None:
        while self._sent < min(self.measured.records, self._confirmed + IN_FLIGHT):
            publish(self._channel)
            self._sent += 1


class Consuming(Phase):
    """All of them, and the one that was sent first; what is acknowledged leaves the queue."""

    def begin(self, channel: Any) -> None:
        """Subscribe."""
        self._count = 0
        channel.basic_qos(prefetch_count=IN_FLIGHT)
        self.measured.begin()
        channel.basic_consume(STREAM, self._take)

    def _take(self, channel: Any, method: Any, *_: Any) -> None:
        if not self._count:
            self.measured.first()
        self._count += 1
        last = self._count == self.measured.records + 1
        if last or self._count % (IN_FLIGHT // 10) == 0:
            channel.basic_ack(method.delivery_tag, multiple=True)
        if last:
            self.end()


if __name__ == "__main__":
    main()
