"""The partitioned, durable log in a directory, usable without the rest of the framework.

>>> import tempfile
>>> from framework.log import Log, NewRecord, encode, decode
>>> with tempfile.TemporaryDirectory() as directory, Log(directory, create=True) as log:
...     partition = log.partition(log.create_topic("greetings", 1), 0)
...     batches = encode([NewRecord(b"k", b"hello", 0)], max_batch_bytes=1 << 20)
...     first = log.append(partition, batches).result()
...     [(header, batch)] = log.reader(partition, first).read().batches
...     [record] = decode(batch)
...     record.offset, record.key, record.value
(0, b'k', b'hello')
"""

from framework.log.catalogue import TopicInfo
from framework.log.clock import Clock, Random, SystemClock, SystemRandom
from framework.log.codec import Headers, NewRecord, StoredRecord, decode, decode_values, encode
from framework.log.cursor import At, Cursor, Range
from framework.log.files import Files
from framework.log.follow import Follower
from framework.log.keys import partition_of
from framework.log.log import Log
from framework.log.partition import Partition
from framework.log.reader import Fetched, Reader
from framework.log.settings import TopicSettings

__all__ = [
    "At",
    "Clock",
    "Cursor",
    "Fetched",
    "Files",
    "Follower",
    "Headers",
    "Log",
    "NewRecord",
    "Partition",
    "Random",
    "Range",
    "Reader",
    "StoredRecord",
    "SystemClock",
    "SystemRandom",
    "TopicInfo",
    "TopicSettings",
    "decode",
    "decode_values",
    "encode",
    "partition_of",
]
