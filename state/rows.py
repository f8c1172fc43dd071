"""The rows of a state database: one column family, one prefix letter for each kind.

    meta      = "m" name                                     -> json
    offset    = "o" agent 0 topic_id:16 partition:u32        -> next offset:u64 (finished offset above it:u64)*
    owner     = "w" table                                    -> the agent that writes it
    table     = "t" table 0 partition:u32 key                -> value
    value     = the value's bytes | stamped
    stamped   = ff "row" 00 "ttl" written_ms:u64 ttl_ms:u64 the value's bytes
    time      = "c" agent 0 partition:u32                    -> ms:u64, see `framework.record_time`
    spread    = "l" table                                    -> partitions:u32 agent, of a table that was released
    sequence  = "s" topic_id:16 partition:u32                -> next sequence:u32 of our producer there
    outbox    = "x" number:u64                               -> topic_id:16 partition:u32 (batch | snappy)
    snappy    = the batch, compressed raw; then the highest bit of the partition is set
    sender    = "q" agent                                    -> nothing; it has sent records
    replay    = "p" agent 0 topic_id:16 partition:u32        -> until:u64 policy, see `framework.replay`
    run       = "r" job 0 run id                             -> json, see `framework.jobs.runs`
    name      = "n" agent or job                             -> json, see `framework.identity`
    schema    = "j" app 0 ("topic" | "table") 0 name         -> json, see `framework.schema`

`meta manifest` alone is no json: name and length of RocksDB's list of files, see `Database.check_manifest`.

Big-endian; `meta version` is the version of all of it. Names hold no zero byte. Every change of state is
(row key, value or None), never a range or a merge, so that a changelog could carry it. The names of agents and the
schemas are in shard 0 only, which a worker has open anyway, the names of jobs in the jobs' database.

The rows of a table with a ttl are stamped. No JSON and no text begins with ff, and bytes do not by chance with those
eight, so every row says by itself which it is, and a table can be given a ttl, or lose it, while it has rows.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path

import cramjam

from framework.log.errors import NewerFormat

VERSION = 1
_U32, _U64 = struct.Struct(">I"), struct.Struct(">Q")
_TARGET = struct.Struct(">16sI")
TARGET_BYTES = _TARGET.size
_SNAPPY, _MIN_SNAPPY_BYTES = 1 << 31, 4 << 10
_STAMP = struct.Struct(">8sQQ")
STAMPED = b"\xffrow\0ttl"

Change = tuple[bytes, bytes | None]
"""A row key and its new value; None deletes the row."""


def meta_key(name: str) -> bytes:
    """The row of the database's own facts."""
    return b"m" + name.encode()


def check_version(meta: bytes | None, path: Path) -> None:
    """Whether this version reads the state in *path*, whose row `meta store` is *meta*.

    Raises:
        NewerFormat: It was written by a newer one.
    """
    version = VERSION if meta is None else json.loads(meta)["version"]
    if version > VERSION:
        raise NewerFormat(
            f"the state in {path} has format {version}, this version reads up to {VERSION}: upgrade framework-streams"
        )


def offset_key(agent: str, topic_id: str, partition: int) -> bytes:
    """The row of a committed offset."""
    return b"o" + agent.encode() + b"\0" + _TARGET.pack(bytes.fromhex(topic_id), partition)


def offset_prefix(agent: str) -> bytes:
    """What the keys of the offsets of an agent or job begin with."""
    return b"o" + agent.encode() + b"\0"


def split_offset_key(key: bytes) -> tuple[str, str, int]:
    """(agent, topic id, partition) of an offset row."""
    agent, target = key[1 : -TARGET_BYTES - 1].decode(), key[-TARGET_BYTES:]
    topic_id, partition = _TARGET.unpack(target)
    return agent, topic_id.hex(), partition


def sender_key(agent: str) -> bytes:
    """The row that says that *agent* has sent records, dead letters apart."""
    return b"q" + agent.encode()


def replay_key(agent: str, topic_id: str, partition: int) -> bytes:
    """The row that says what becomes of the outputs of records that are handled again."""
    return b"p" + agent.encode() + b"\0" + _TARGET.pack(bytes.fromhex(topic_id), partition)


def owner_key(table: str) -> bytes:
    """The row that says which agent writes *table*."""
    return b"w" + table.encode()


def table_prefix(table: str, partition: int) -> bytes:
    """What the keys of a table's rows in one partition begin with."""
    return b"t" + table.encode() + b"\0" + _U32.pack(partition)


def time_key(agent: str, partition: int) -> bytes:
    """The row of the time that a task has come to."""
    return b"c" + agent.encode() + b"\0" + _U32.pack(partition)


def spread_key(table: str) -> bytes:
    """The row that says over how many partitions the rows of a released table are spread, and who wrote them."""
    return b"l" + table.encode()


def task_rows(agent: str) -> list[bytes]:
    """What the keys of all rows begin with that an agent or job has for each of its partitions."""
    return [kind + agent.encode() + b"\0" for kind in (b"o", b"p", b"c")]


def pack_spread(partitions: int, agent: str) -> bytes:
    """What is remembered of a released table."""
    return _U32.pack(partitions) + agent.encode()


def split_spread(value: bytes) -> tuple[int, str]:
    """(partitions, agent) of a released table."""
    return int(_U32.unpack_from(value)[0]), value[_U32.size :].decode()


def stamped(value: bytes, written_ms: int, ttl_ms: int) -> bytes:
    """*value* as a table with a ttl stores it."""
    return _STAMP.pack(STAMPED, written_ms, ttl_ms) + value


def split_stamped(value: bytes) -> tuple[int, int, bytes] | None:
    """(written_ms, ttl_ms, value) of what a table row holds; None if it has no stamp."""
    if not value.startswith(STAMPED) or len(value) < _STAMP.size:
        return None
    _, written_ms, ttl_ms = _STAMP.unpack_from(value)
    return written_ms, ttl_ms, value[_STAMP.size :]


def all_table_prefix(table: str) -> bytes:
    """What the keys of a table's rows begin with, whatever the partition."""
    return b"t" + table.encode() + b"\0"


def sequence_key(topic_id: str, partition: int) -> bytes:
    """The row of the next sequence number to a target partition."""
    return b"s" + _TARGET.pack(bytes.fromhex(topic_id), partition)


def split_sequence_key(key: bytes) -> tuple[str, int]:
    """(topic id, partition) of a sequence row."""
    topic_id, partition = _TARGET.unpack(key[1:])
    return topic_id.hex(), partition


def outbox_key(number: int) -> bytes:
    """The row of the *number*-th batch ever sent; rows sort in the order of sending."""
    return b"x" + _U64.pack(number)


def outbox_number(key: bytes) -> int:
    """The number in an outbox row's key."""
    return int(_U64.unpack(key[1:])[0])


def pack_outbox(topic_id: str, partition: int, batch: bytes | bytearray) -> bytes:
    """An outbox row's value; a large one compressed: RocksDB holds the interpreter's lock while it copies it."""
    data: bytes | bytearray = batch
    if len(batch) > _MIN_SNAPPY_BYTES:
        data, partition = bytes(cramjam.snappy.compress_raw(batch)), partition | _SNAPPY
    return _TARGET.pack(bytes.fromhex(topic_id), partition) + data


def split_outbox(value: bytes) -> tuple[str, int, bytearray]:
    """(topic id, partition, batch) of an outbox row's value."""
    topic_id, partition = _TARGET.unpack_from(value)
    data = value[TARGET_BYTES:]
    if partition & _SNAPPY:
        data = bytes(cramjam.snappy.decompress_raw(data))
    return topic_id.hex(), partition & ~_SNAPPY, bytearray(data)


def run_prefix(job: str) -> bytes:
    """What the keys of a job's run rows begin with."""
    return b"r" + job.encode() + b"\0"


def name_key(name: str) -> bytes:
    """The row of what is known of an agent or job."""
    return b"n" + name.encode()


def schema_key(app: str, kind: str, name: str) -> bytes:
    """The row of the schemas by which *app* has stored values of the topic or table *name*."""
    return b"j" + b"\0".join([app.encode(), kind.encode(), name.encode()])


def pack_u64(number: int) -> bytes:
    """An offset as a row's value."""
    return _U64.pack(number)


def pack_offset(offset: int, above: Iterable[int] = ()) -> bytes:
    """A committed offset, and the offsets *above* it that are finished too."""
    return b"".join(map(_U64.pack, [offset, *above]))


def unpack_offset(value: bytes) -> int:
    """The offset that `pack_offset` packed."""
    return int(_U64.unpack_from(value)[0])


def unpack_above(value: bytes) -> list[int]:
    """The finished offsets above it."""
    return [int(above) for (above,) in _U64.iter_unpack(value)][1:]


def unpack_u64(value: bytes) -> int:
    """The number that `pack_u64` packed."""
    return int(_U64.unpack(value)[0])
