"""redis-py with hiredis on Redis Streams: pipelines of XADD, XREAD of many; the setting is the server's."""

from __future__ import annotations

import redis

from tests.benchmarks.brokers.meter import BATCH_RECORDS, STREAM, TIMEOUT_S, VALUES, meter


def main() -> None:
    """Measure."""
    measured = meter()
    client = redis.Redis(port=measured.port, socket_timeout=TIMEOUT_S)
    client.xadd(STREAM, {b"v": VALUES[0]})
    measured.begin()
    for values in measured.batches():
        pipeline = client.pipeline(transaction=False)
        for value in values:
            pipeline.xadd(STREAM, {b"v": value})
        pipeline.execute()
    measured.end(measured.records)
    last, count = b"0", 0
    measured.begin()
    while count < measured.records + 1:
        [[_, records]] = client.xread({STREAM: last}, count=BATCH_RECORDS)
        if not count:
            measured.first()
        last = records[-1][0]
        count += len(records)
    measured.end(count)
    for _ in measured.singles():
        client.xadd(STREAM, {b"v": VALUES[0]})
    measured.print()


if __name__ == "__main__":
    main()
