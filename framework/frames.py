"""Batches as frames of polars: read from the stored JSON where that can be trusted, and else value by value.

A block of some thousand records is trusted when each line matches the pattern of the type of the topic, which `shapes`
makes. Threads match and parse, outside the lock of the interpreter, while this one takes the next blocks out of the
log. A block that does not match is decoded like other records, which is what says which of them are bad.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

import numpy as np
import orjson
import polars as pl
from polars.exceptions import PanicException, PolarsError
from pydantic import BaseModel

from framework.batch import Batch
from framework.log import Piece
from framework.shapes import JSON, OPEN, TIME, Shape, Unfit, infer, is_plain, plains_of, settle, shape_of

BLOCK_RECORDS, BLOCK_BYTES = 1 << 17, 8 << 20
SAMPLE_RECORDS = 1000
"""From so many the columns of untyped JSON are guessed. If others come, which is noticed, all of it is decoded."""
THREADS = 3
"""Fewer leave a core idle while polars joins what its own threads have read."""
COLUMN = "value"
TIME_FORMS = ("%+", "%Y-%m-%dT%H:%M:%S%.f")
"""How times are written, with a zone and without."""


class _Mixed(Exception):
    """Values are of other shapes than the first ones, or than their type says."""


@dataclass(slots=True)
class _Block:
    """Some records, as they are stored."""

    pieces: list[Piece] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)
    """The values of each piece, joined by newlines."""
    records: int = 0
    size: int = 0

    def sample(self, records: int) -> list[bytes]:
        """The first values, up to so many."""
        values = chain.from_iterable(piece.values() for piece in self.pieces)
        return list(islice((value for value in values if value is not None), records))


def frame_of(batch: Batch[Any, Any], *, trusting: bool = True) -> pl.DataFrame:
    """The values of *batch*; see `Batch.to_polars`. Without *trusting* each is decoded, which gives the same."""
    shape = shape_of(batch.topic.value_type)
    if shape.fields is not None and not isinstance(batch.topic.value_type, type):
        shape = replace(shape, fields=None)  # It is a model or None, and so no row.
    try:
        return _by_blocks(batch, shape, trusting=trusting)
    except (_Mixed, Unfit):
        # Not `list(batch)`, which would read it once more for its length.
        return _whole(list(iter(batch)), shape)


# Block by block.


def _by_blocks(batch: Batch[Any, Any], shape: Shape, *, trusting: bool) -> pl.DataFrame:
    if shape.dtype is None and (shape is not JSON or not trusting):
        raise _Mixed
    frames, pending = list[pl.DataFrame](), deque[tuple[_Block, Future[pl.DataFrame | None]]]()
    reader: _Lines | None = None
    typed = shape is not JSON

    def finish() -> None:
        block, future = pending.popleft()
        frame = future.result()
        if frame is None:
            if not typed:
                raise _Mixed
            frame = _decoded(batch, block, shape)
        frames.append(frame)

    with ThreadPoolExecutor(THREADS) as threads:
        for block in _blocks(batch):
            if not typed and reader is None:
                shape = _guess(block.sample(SAMPLE_RECORDS))
            reader = reader or _Lines(shape, block.sample(1)[0], trusting=trusting)
            pending.append((block, threads.submit(reader.read, block)))
            if len(pending) > THREADS:
                finish()
        while pending:
            finish()
    if frames:
        return pl.concat(frames)
    return pl.DataFrame(schema=_schema(shape) if typed else None)


def _blocks(batch: Batch[Any, Any]) -> Iterator[_Block]:
    block = _Block()
    for piece in batch.pieces():
        batch.reading.pause()
        values: list[Any] = piece.values()
        try:
            text = b"\n".join(values)  # At once, while they are in the processor's cache.
        except TypeError:
            values = [value for value in values if value is not None]
            text = b"\n".join(values)
        if not values:
            continue
        block.pieces.append(piece)
        block.texts.append(text)
        block.records += len(values)
        block.size += len(text)
        if block.records >= BLOCK_RECORDS or block.size >= BLOCK_BYTES:
            yield block
            block = _Block()
    if block.records:
        yield block


class _Lines:
    """Reads blocks of lines of one shape."""

    def __init__(self, shape: Shape, first: bytes, *, trusting: bool) -> None:
        """*first* is the first line; the others have their fields in the same order, or are looked at more closely."""
        self._line = shape.line(_order(shape, first)) if trusting and shape.fields and shape.pattern else None
        if self._line is not None:
            self._schema = _schema(shape)
            self._is_plain, self._strings = is_plain(shape), [n for n, t in self._schema.items() if t == pl.String()]
            self._times = [n for n, t in self._schema.items() if t == TIME]
            self._stored = {**self._schema, **dict.fromkeys(self._times, pl.String())}

    def read(self, block: _Block) -> pl.DataFrame | None:
        """The frame of *block*; None if it cannot be trusted."""
        if self._line is None:
            return None
        text = b"\n".join(block.texts)
        try:
            frame = pl.read_ndjson(text, schema=self._stored)
            if frame.height != block.records or not (self._adds_up(frame, text) or self._matches(text)):
                return None
            return self._timed(frame)
        except (PolarsError, PanicException, ValueError):
            return None

    def _timed(self, frame: pl.DataFrame) -> pl.DataFrame | None:
        """*frame* with its times read, None if there is one that cannot be.

        As strings first, because a column at once takes a tenth of the time that polars takes for one after the other.
        """
        if not self._times:
            return frame
        read = [
            pl.coalesce(
                pl.col(n).str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False) for form in TIME_FORMS
            )
            for n in self._times
        ]
        timed = frame.with_columns(read)
        lost = any(timed[name].null_count() > frame[name].null_count() for name in self._times)
        return None if lost else timed

    def _matches(self, text: bytes) -> bool:
        lines = pl.Series([text], dtype=pl.Binary).cast(pl.String)
        return bool(lines.str.contains(rf"\A(?:{self._line}\n)*{self._line}\z").item())

    def _adds_up(self, frame: pl.DataFrame, text: bytes) -> bool:
        """Whether *text* is as it should be by the numbers of its quotes and commas, which takes a fifth of the time.

        Polars has found all fields in each line, and whatever is no string to be of its type. Without arrays and inner
        objects each further field would be a comma more, and each string that is none two quotes less.
        """
        rows, fields, strings = frame.height, len(self._schema), len(self._strings)
        if not self._is_plain or b"\\" in text or b"[" in text or any(column.null_count() for column in frame):
            return False
        # Not `bytes.count`, which takes four times as long and lets no other thread run.
        octets = np.frombuffer(text, np.uint8)
        braces, breaks, quotes, commas = (int(np.count_nonzero(octets == octet)) for octet in b'{\n",')
        if braces != rows or breaks != rows - 1 or quotes != 2 * (fields + strings) * rows:
            return False
        commas -= (fields - 1) * rows
        return commas == 0 or commas == sum(
            frame[name].str.count_matches(",", literal=True).sum() for name in self._strings
        )


def _order(shape: Shape, raw: bytes) -> Iterable[str]:
    """The order of the fields in *raw*, if it has the fields of *shape*, and else that of *shape*."""
    assert shape.fields is not None
    try:
        found = orjson.loads(raw)
    except ValueError:
        return shape.fields
    return found if isinstance(found, dict) and found.keys() == shape.fields.keys() else shape.fields


def _guess(raws: Sequence[bytes]) -> Shape:
    try:
        shape = infer([orjson.loads(raw) for raw in raws[:SAMPLE_RECORDS]])
    except ValueError:
        raise _Mixed from None
    if shape.fields is None or shape.pattern is None:
        raise _Mixed
    # Lines that are null would be no objects.
    return replace(shape, pattern=shape.line(shape.fields))


def _decoded(batch: Batch[Any, Any], block: _Block, shape: Shape) -> pl.DataFrame:
    slices = chain.from_iterable(batch.slices_of(piece) for piece in block.pieces)
    plains = plains_of(shape, _dumped(chain.from_iterable(slices)))
    return _framed(shape, plains)


def _schema(shape: Shape) -> dict[str, Any]:
    if shape.fields is None:
        return {COLUMN: shape.dtype}
    return {name: each.dtype for name, each in shape.fields.items()}


# All at once.


def _whole(values: Sequence[Any], shape: Shape) -> pl.DataFrame:
    """Columns whose types are inferred from all values."""
    dumped = list(_dumped(values))
    if shape.fields is None or any(value.keys() != shape.fields.keys() for value in dumped):
        settled, plains = _settled(shape, dumped)
        if not plains or None in plains:
            settled = replace(settled, fields=None)
        return _framed(settled, plains) if plains or shape.dtype is not None else pl.DataFrame()
    columns = []
    for name, each in shape.fields.items():
        settled, plains = _settled(each, [value[name] for value in dumped])
        columns.append(pl.Series(name, plains, dtype=settled.dtype))
    return pl.DataFrame(columns)


def _settled(shape: Shape, values: Sequence[Any]) -> tuple[Shape, list[Any]]:
    try:
        plains = plains_of(shape, values)
    except Unfit:
        shape = OPEN
        plains = plains_of(shape, values)
    settled = settle(shape, plains)
    return settled, plains_of(settled, plains)


def _framed(shape: Shape, plains: Sequence[Any]) -> pl.DataFrame:
    """A column for each field of a struct, and else one."""
    if shape.fields is None:
        return pl.DataFrame([pl.Series(COLUMN, plains, dtype=shape.dtype)])
    return pl.DataFrame(
        [pl.Series(name, [plain[name] for plain in plains], dtype=each.dtype) for name, each in shape.fields.items()]
    )


def _dumped(values: Iterable[Any]) -> Iterator[Any]:
    """Models as dicts."""
    return (value.model_dump(warnings=False) if isinstance(value, BaseModel) else value for value in values)
