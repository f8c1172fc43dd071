"""The flights example, run as its users run it, gives the figures of a plain script over the same rows."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.examples.flights_shell import EXAMPLE, ROOT, archive, framework, needs_flights, run

LIMIT = 20_000

pytestmark = [pytest.mark.slow, needs_flights]


def scan(table: str, data: Path) -> dict[str, Any]:
    """The rows of a table, by key."""
    lines = framework("tables", "scan", table, "--json", data=data).splitlines()
    rows = [json.loads(line) for line in lines]
    assert len({row["key"] for row in rows}) == len(rows)
    return {row["key"]: row["value"] for row in rows}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the flights loaded and every agent done."""
    path = tmp_path_factory.mktemp("flights") / "data"
    run(EXAMPLE, "load", "--data", path, "--limit", str(LIMIT))
    framework("worker", "--until-idle", data=path)
    return path


@pytest.fixture(scope="module")
def expected() -> dict[str, dict[str, dict[str, Any]]]:
    """What the plain script makes of the same rows."""
    script = Path(__file__).with_name("flights_reference.py")
    figures: dict[str, dict[str, dict[str, Any]]] = json.loads(run(script, archive(), str(LIMIT)))
    return figures


def test_the_delays_of_every_carrier_are_exact(data: Path, expected: dict[str, dict[str, Any]]) -> None:
    assert scan("delays", data) == expected["delays"]


def test_every_aircraft_has_its_row(data: Path, expected: dict[str, dict[str, Any]]) -> None:
    """The place of an aircraft shows that its flights were taken by time, not by arrival in the topic."""
    rows = scan("aircraft", data)
    assert len(rows) > 3_000
    assert rows == expected["aircraft"]


def test_what_left_late_is_in_its_topic_once(data: Path, expected: dict[str, dict[str, Any]]) -> None:
    """Read the way any other process would, through the objects the example declares."""
    spec = importlib.util.spec_from_file_location("flights_example", ROOT / EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = example
    spec.loader.exec_module(example)
    with example.app.opened(data=data):
        late = list(example.late_flights.read().records())
    counts: dict[str, int] = defaultdict(int)
    for record in late:
        assert record.value.dep_delay > 60
        assert record.key == record.value.carrier
        counts[record.key] += 1
    assert len({record.value.identity() for record in late}) == len(late)
    assert counts == {key: row["late"] for key, row in expected["delays"].items() if row["late"]}


def test_the_nightly_job_writes_every_flight_and_the_next_run_none(
    data: Path, expected: dict[str, dict[str, Any]]
) -> None:
    framework("jobs", "run", "nightly", data=data)
    framework("jobs", "run", "nightly", data=data)
    [report] = data.with_name(f"{data.name}-reports").glob("*.parquet")
    assert re.fullmatch(r"nightly-\d{8}T\d{6}Z", report.stem)
    routes = (
        pl.read_parquet(report)
        .group_by("origin", "dest")
        .agg(
            flights=pl.len(),
            cancelled=pl.col("dep_delay").null_count(),
            late=(pl.col("dep_delay") > 60).sum(),
            minutes=pl.col("dep_delay").sum(),
            worst=pl.col("dep_delay").max(),
        )
    )
    assert {f"{row.pop('origin')}-{row.pop('dest')}": row for row in routes.to_dicts()} == expected["routes"]


def test_a_second_load_appends_nothing(data: Path, expected: dict[str, dict[str, Any]]) -> None:
    run(EXAMPLE, "load", "--data", data, "--limit", str(LIMIT))
    framework("worker", "--until-idle", data=data)
    assert scan("delays", data) == expected["delays"]


def test_the_report_is_a_table_of_all_carriers(data: Path, expected: dict[str, dict[str, Any]]) -> None:
    lines = run(EXAMPLE, "report", "--data", data).splitlines()
    assert lines[0].split("  ")[0] == "carrier"
    assert [line.split()[0] for line in lines[1 : len(expected["delays"]) + 1]] == sorted(expected["delays"])
    united = expected["delays"]["UA"]
    mean = united["minutes"] / (united["flights"] - united["cancelled"])
    [line] = [line for line in lines if line.startswith("UA ")]
    assert line.split()[-5:] == [
        f"{united['flights']:,}",
        f"{united['cancelled']:,}",
        f"{united['late']:,}",
        f"{mean:.1f}",
        f"{united['worst']:,}",
    ]
    assert lines[len(expected["delays"]) + 1].startswith(f"{LIMIT:,} flights, {len(expected['aircraft']):,} aircraft; ")
