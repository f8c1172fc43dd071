"""An agent of ours beside a Faust app: `faust_app.py` reads the same topic, and the log is one.

framework worker -A examples/faust_agent.py
"""

from pydantic import BaseModel

from framework import App


class Flight(BaseModel):
    """What `faust_app.py` calls a Flight; what Faust adds to the JSON is passed over."""

    carrier: str
    dest: str
    delay: int


app = App("late", data="data/faust")
flights = app.topic("flights", Flight)
late = app.topic("late-flights", Flight)


@app.agent(flights, sink=late)
def forward(flight: Flight) -> Flight | None:
    """Those that were more than an hour late."""
    return flight if flight.delay > 60 else None
