"""The figures of `examples/flights.py` without the framework: `python flights_reference.py ZIP [LIMIT]`."""

import csv
import io
import json
import sys
import zipfile
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from itertools import islice

Row = dict[str, str]
carriers, routes, aircraft = (defaultdict[str, list[Row]](list) for _ in range(3))


def departure(row: Row) -> datetime:
    """`time_hour` is UTC."""
    return datetime.fromisoformat(row["time_hour"]) + timedelta(minutes=int(row["minute"]) + int(row["dep_delay"]))


def delays(rows: list[Row]) -> dict[str, int | None]:
    """The row of the table `delays`."""
    left = [int(row["dep_delay"]) for row in rows if row["dep_delay"] != "NA"]
    late = sum(delay > 60 for delay in left)
    worst, cancelled = max(left, default=None), len(rows) - len(left)
    return {"flights": len(rows), "cancelled": cancelled, "late": late, "minutes": sum(left), "worst": worst}


def travels(rows: list[Row]) -> dict[str, int | str | None]:
    """The row of the table `aircraft`."""
    left = sorted((row for row in rows if row["dep_delay"] != "NA"), key=departure)
    miles, cancelled = sum(int(row["distance"]) for row in left), len(rows) - len(left)
    last = left[-1] if left else None
    at = departure(last).astimezone(UTC).isoformat().replace("+00:00", "Z") if last else None
    place = last["dest"] if last else None
    return {"flights": len(rows), "cancelled": cancelled, "miles": miles, "place": place, "departure": at}


with zipfile.ZipFile(sys.argv[1]) as archive, archive.open("flights.csv") as file:
    table = csv.DictReader(io.TextIOWrapper(file, "utf-8"))
    for flight in islice(table, int(sys.argv[2]) if len(sys.argv) > 2 else None):
        carriers[flight["carrier"]].append(flight)
        routes[f"{flight['origin']}-{flight['dest']}"].append(flight)
        if flight["tailnum"] != "NA":
            aircraft[flight["tailnum"]].append(flight)

figures = {
    "delays": {key: delays(rows) for key, rows in carriers.items()},
    "routes": {key: delays(rows) for key, rows in routes.items()},
    "aircraft": {key: travels(rows) for key, rows in aircraft.items()},
}
json.dump(figures, sys.stdout)
