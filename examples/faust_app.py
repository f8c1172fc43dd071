"""A Faust app as it was written for Kafka: a table, a `group_by`, and an agent that can be asked.

Only `broker=` is another. In one terminal, in the root of the checkout:

    python examples/faust_app.py worker

and in another, where `faust_agent.py` reads the same topic:

    framework topics send flights '{"carrier": "UA", "dest": "BOS", "delay": 12}' -A examples/faust_agent.py
    python examples/faust_app.py delay BOS
"""

import faust
import faust.cli

app = faust.App("delays", broker="framework://./data/faust")  # was: broker="kafka://localhost:9092"


class Flight(faust.Record):
    """One that has arrived."""

    carrier: str
    dest: str
    delay: int


flights = app.topic("flights", value_type=Flight)
delays = app.Table("delays", default=int)


@app.agent(flights)
async def count(stream):
    """Add up the minutes of each destination."""
    async for flight in stream.group_by(Flight.dest):
        delays[flight.dest] += flight.delay
        print(f"{flight.dest}: {delays[flight.dest]} minutes")


@app.agent(key_type=str, value_type=str)
async def total(destinations):
    """Answer with the minutes of a destination."""
    async for destination in destinations:
        yield delays[destination]


@app.command(faust.cli.argument("destination"))
async def delay(self, destination):
    """Ask the worker."""
    self.say(f"{destination}: {await total.ask(destination, key=destination)} minutes")


if __name__ == "__main__":
    app.main()
