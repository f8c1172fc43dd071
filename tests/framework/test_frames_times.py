"""Times in frames are read a column at once, and come out as the model reads each of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import polars as pl
from pydantic import BaseModel

from tests.framework.shelf import Shelf, both, only_fast

NOON = datetime(2013, 3, 10, 12, tzinfo=UTC)
TIMES = [
    NOON,
    NOON.replace(microsecond=250_000),
    NOON.replace(second=59, microsecond=999_999, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    NOON.replace(year=9013, tzinfo=timezone(-timedelta(hours=9, minutes=30))),
    NOON.replace(year=1013),
    NOON.replace(tzinfo=None),
    NOON.replace(microsecond=1, tzinfo=None),
]


class Visit(BaseModel):
    """Somebody came, and went again if that is known."""

    came: datetime
    went: datetime | None


def test_times_of_every_form_are_read_as_one_by_one(tmp_path: Path) -> None:
    visits = [Visit(came=at, went=at if number % 2 else None) for number, at in enumerate(TIMES)]
    shelf = Shelf(tmp_path / "data")
    try:
        batch = shelf.stored(Visit, [visit.model_dump_json().encode() for visit in visits])
        frame = only_fast(batch)
        assert frame.equals(both(batch))
    finally:
        shelf.app.close()
    assert frame.schema == dict.fromkeys(("came", "went"), pl.Datetime("us", "UTC"))
    instants = [at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC) for at in TIMES]
    assert frame["came"].to_list() == instants
    assert frame["went"].to_list() == [at if number % 2 else None for number, at in enumerate(instants)]
