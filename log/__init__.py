"""The partitioned, durable log in a directory, usable without the rest of the framework.

>>> import tempfile
>>> from framework.log import Log
>>> with tempfile.TemporaryDirectory() as directory, Log(directory, create=True) as log:
...     topic = log.create_topic("greetings", 4)
...     with log.producer() as producer:
...         sent = producer.send("greetings", b"hello", key=b"ada").result()
...     [(record.offset, record.key, record.value) for _, record in log.read("greetings")]
[(0, b'ada', b'hello')]

`README.md` in this folder is the guide.
"""

from framework.log.ack import Ack, Sent
from framework.log.catalogue import TopicInfo
from framework.log.clock import Clock, Random, SystemClock, SystemRandom
from framework.log.codec import Headers, NewRecord, StoredRecord, decode, decode_values, encode
from framework.log.cursor import At, Cursor, Range
from framework.log.files import Files
from framework.log.follow import Follower
from framework.log.keys import partition_of
from framework.log.log import Log
from framework.log.partition import Partition
from framework.log.piece import Piece, Times
from framework.log.reader import Fetched, Reader
from framework.log.sending import Producer
from framework.log.settings import TopicSettings

__all__ = [
    "Ack",
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
    "Piece",
    "Producer",
    "Random",
    "Range",
    "Reader",
    "Sent",
    "StoredRecord",
    "SystemClock",
    "SystemRandom",
    "Times",
    "TopicInfo",
    "TopicSettings",
    "decode",
    "decode_values",
    "encode",
    "partition_of",
]
