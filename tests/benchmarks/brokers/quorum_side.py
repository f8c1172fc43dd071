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
    Producing(measured, parameters)
    consume(measured, channel)
    channel.close()
    channel = connection.channel()
    channel.confirm_delivery()
    publish(channel)
    for _ in measured.singles():
        publish(channel)  # Returns when it is confirmed: the connection is a blocking one.
    connection.close()
    measured.print()


def publish(channel: Any) -> None:
    """Send a record that survives a restart."""
    channel.basic_publish("", STREAM, VALUES[0], PERSISTENT)


class Producing:
    """Only pika's callbacks let more than one record be in flight."""

    def __init__(self, measured: Meter, parameters: Any) -> None:
        self._measured, self._sent, self._confirmed = measured, 0, 0
        self._connection = SelectConnection(parameters, on_open_callback=self._connected)
        self._connection.ioloop.start()
        assert self._confirmed == measured.records, f"{self._confirmed} of {measured.records} were confirmed"

    def _connected(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._opened)

    def _opened(self, channel: Any) -> None:
        self._channel = channel
        channel.confirm_delivery(self._confirm, callback=self._begin)

    def _begin(self, _: Any) -> None:
        self._measured.begin()
        self._fill()

    def _confirm(self, frame: Any) -> None:
        assert frame.method.NAME == "Basic.Ack", frame
        self._confirmed = frame.method.delivery_tag if frame.method.multiple else self._confirmed + 1
        if self._confirmed < self._measured.records:
            self._fill()
        else:
            self._measured.end(self._measured.records)
            self._connection.close()
            self._connection.ioloop.stop()

    def _fill(self) -> None:
        while self._sent < min(self._measured.records, self._confirmed + IN_FLIGHT):
            publish(self._channel)
            self._sent += 1


def consume(measured: Meter, channel: Any) -> None:
    """All of them; what is acknowledged leaves the queue."""
    channel.basic_qos(prefetch_count=IN_FLIGHT)
    for count, (method, _, _) in enumerate(channel.consume(STREAM)):
        if count == 0:
            measured.begin()
        if count % (IN_FLIGHT // 10) == 0 or count == measured.records - 1:
            channel.basic_ack(method.delivery_tag, multiple=True)
        if count == measured.records - 1:
            measured.end(count)
            return


if __name__ == "__main__":
    main()
