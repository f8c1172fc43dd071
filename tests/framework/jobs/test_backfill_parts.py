"""Into which parts a backfill is split: by clocks that change, and which records each part has."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.jobs.backfill import MAX_PARTS, Backfill, Part, Split, Survey, next_bound
from framework.log import NewRecord, TopicSettings, encode
from framework.log.clock import EPOCH
from framework.log.errors import UsageError
from tests.log.compacted_log import COMPACT, open_quiet, scratch
from tests.log.conftest import MAX_BATCH_BYTES, TIMEOUT_S

NEW_YORK, LORD_HOWE, BEIRUT = "America/New_York", "Australia/Lord_Howe", "Asia/Beirut"
ZONES = [NEW_YORK, LORD_HOWE, BEIRUT, "UTC", "Asia/Kathmandu", "Pacific/Apia", "America/Havana", "Europe/Dublin"]


def lengths(since: str, until: str, split: Split, zone: str) -> list[str]:
    """When each part begins by the clocks of *zone*, and how long it is."""
    place = ZoneInfo(zone)
    first, last = (datetime.fromisoformat(text).replace(tzinfo=place).astimezone(UTC) for text in (since, until))
    found = []
    for part in Backfill(first, last, split).parts(place):
        begins = (EPOCH + timedelta(milliseconds=part.since_ms)).astimezone(place)
        found.append(f"{begins:%m-%d %H:%M%z} {timedelta(milliseconds=part.until_ms - part.since_ms)}")
    return found


@pytest.mark.parametrize(
    ("zone", "since", "until", "hours"),
    [
        (NEW_YORK, "2024-03-09", "2024-03-12", [24, 23, 24]),
        (NEW_YORK, "2024-11-02", "2024-11-05", [24, 25, 24]),
        (LORD_HOWE, "2024-04-06", "2024-04-09", [24, 24.5, 24]),
        (LORD_HOWE, "2024-10-05", "2024-10-08", [24, 23.5, 24]),
        (BEIRUT, "2024-03-30", "2024-04-02", [24, 23, 24]),
        (BEIRUT, "2024-10-26", "2024-10-29", [25, 24, 24]),
        ("America/Havana", "2024-11-02", "2024-11-05", [24, 25, 24]),
        ("Pacific/Apia", "2011-12-29", "2012-01-01", [24, 24]),
    ],
)
def test_a_day_is_as_long_as_its_clocks_make_it(zone: str, since: str, until: str, hours: list[float]) -> None:
    """In Beirut clocks change at midnight, in Havana midnight comes twice, and Apia had no 30 December."""
    assert [line.rpartition("0 ")[2] for line in lengths(since, until, "day", zone)] == [
        str(timedelta(hours=each)) for each in hours
    ]


def test_days_begin_at_midnight_or_where_there_is_none_behind_it() -> None:
    assert lengths("2024-03-30", "2024-04-01", "day", BEIRUT) == [
        "03-30 00:00+0200 1 day, 0:00:00",
        "03-31 01:00+0300 23:00:00",
    ]


def test_hours_are_those_on_the_clock_also_where_it_changes_by_half_an_hour() -> None:
    assert lengths("2024-04-07 00:30", "2024-04-07 04:00", "hour", LORD_HOWE) == [
        "04-07 00:30+1100 0:30:00",
        "04-07 01:00+1100 1:00:00",
        "04-07 01:30+1030 0:30:00",
        "04-07 02:00+1030 1:00:00",
        "04-07 03:00+1030 1:00:00",
    ]
    assert lengths("2024-11-03 00:00", "2024-11-03 03:00", "hour", NEW_YORK) == [
        "11-03 00:00-0400 1:00:00",
        "11-03 01:00-0400 1:00:00",
        "11-03 01:00-0500 1:00:00",
        "11-03 02:00-0500 1:00:00",
    ]


def test_weeks_begin_on_mondays_and_months_on_the_first() -> None:
    assert [line.split()[0] for line in lengths("2024-03-07 10:00", "2024-03-20", "week", NEW_YORK)] == [
        *("03-07", "03-11", "03-18")
    ]
    assert lengths("2023-10-31", "2024-01-01", "month", NEW_YORK) == [
        "10-31 00:00-0400 1 day, 0:00:00",
        "11-01 00:00-0400 30 days, 1:00:00",
        "12-01 00:00-0500 31 days, 0:00:00",
    ]


def test_a_duration_is_counted_from_the_epoch() -> None:
    assert lengths("2024-01-01 05:00", "2024-01-01 13:30", timedelta(hours=6), "UTC") == [
        "01-01 05:00+0000 1:00:00",
        "01-01 06:00+0000 6:00:00",
        "01-01 12:00+0000 1:30:00",
    ]


@given(
    st.timedeltas(timedelta(days=11_000), timedelta(days=22_000)),
    st.sampled_from(["hour", "day", "week", "month"]),
    st.sampled_from(ZONES),
)
def test_the_next_bound_is_later_and_reached_from_everywhere_before_it(at: timedelta, split: Split, zone: str) -> None:
    """So parts follow each other, whatever the clocks do, and do not hang on where the first begins."""
    since, place = EPOCH + at, ZoneInfo(zone)
    bound = next_bound(since, split, place)
    assert since < bound <= since + timedelta(days=32)
    assert next_bound(since + (bound - since) / 2, split, place) == bound


@pytest.mark.parametrize(
    ("backfill", "why"),
    [
        (Backfill(EPOCH, EPOCH), "--from 1970-01-01T00:00:00+00:00 is not before --to"),
        (Backfill(EPOCH, EPOCH + timedelta(days=2), timedelta(seconds=1)), f"more than {MAX_PARTS} parts"),
        (Backfill(EPOCH, EPOCH, timedelta(0)), "--split is 0:00:00, 0:00:01 is least"),
        (Backfill(EPOCH, EPOCH, "year"), "--split 'year' is none of hour, day, week, month"),  # type: ignore[arg-type]
        (Backfill(EPOCH, EPOCH, tables="both"), "--tables is 'both', it must be one of scratch, live"),  # type: ignore[arg-type]
        (Backfill(EPOCH, EPOCH, max_active=0), "--max-active is 0"),
        (Backfill(EPOCH, EPOCH, tables="live", max_active=2), "--max-active 1 with --tables live"),
        (Backfill(EPOCH.replace(tzinfo=None), EPOCH), "do not both say of which time zone they are"),
    ],
)
def test_what_cannot_be_is_refused(backfill: Backfill, why: str) -> None:
    def plan() -> None:
        backfill.check()
        backfill.parts(ZoneInfo("UTC"))

    with pytest.raises(UsageError) as refused:
        plan()
    assert why in str(refused.value)


# Which records each has.


Stamps = st.lists(st.lists(st.integers(0, 33), min_size=1, max_size=4), max_size=5)
"""The stamps of the records of each batch of a partition."""


@settings(max_examples=30)
@given(st.lists(Stamps, min_size=1, max_size=3), st.booleans(), st.lists(st.integers(3, 29), max_size=4, unique=True))
def test_each_record_is_in_the_part_of_its_time_and_in_no_other(
    batches: list[list[list[int]]], compacted: bool, cuts: list[int]
) -> None:
    """Compared with looking at every record, out of order in time as they are, with gaps, in several partitions."""
    bounds = [2, *sorted(cuts), 30]
    parts = [Part(since, until) for since, until in pairwise(bounds)]
    with scratch() as data, open_quiet(data) as log:
        info = log.create_topic("t", len(batches), TopicSettings(**COMPACT))
        partitions = [log.partition(info, number) for number in range(len(batches))]
        for partition, stamped in zip(partitions, batches, strict=True):
            for stamps in stamped:
                records = [NewRecord(b"k%d" % (stamp % 3), bytes(900), stamp) for stamp in stamps]
                log.append(partition, encode(records, max_batch_bytes=MAX_BATCH_BYTES)).result(TIMEOUT_S)
        if compacted:
            log.compact("t")
        there = [
            (partition.number, record.offset, record.timestamp)
            for partition in partitions
            for _, record in log.read("t", partitions=[partition.number])
        ]
        Survey(log, info, parts).run()
        for part in parts:
            mine = [(number, offset) for number, offset, stamp in there if part.since_ms <= stamp < part.until_ms]
            assert part.records == len(mine)
            for number, start, end, at in part.plan:
                its = [offset for where, offset in mine if where == number]
                assert start == at
                if compacted and its:  # The ends of a batch stay where they were, whatever is left of it.
                    assert start <= its[0] <= its[-1] < end
                else:
                    assert (start, end) == (its[0], its[-1] + 1) if its else start == end
            assert [entry[0] for entry in part.plan] == list(range(len(batches)))
