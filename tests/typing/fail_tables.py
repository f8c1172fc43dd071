"""Keys and rows that are not of the table's types."""

from __future__ import annotations

from pydantic import BaseModel

from framework import App


class Delays(BaseModel):
    """A row."""

    flights: int = 0


app = App("flights")
counts = app.table("counts", int)
delays = app.table("delays", Delays)
by_number = app.table("by-number", Delays, key_type=int)

app.table("a")  # error: call-overload
app.table("b", 0)  # error: call-overload
app.table("c", Delays())  # error: call-overload

counts["UA"] = "one"  # error: assignment
counts["UA"] += "one"  # error: operator
counts[7] += 1  # error: index
delays["UA"] = 1  # error: assignment
delays["UA"].name  # error: attr-defined
delays["UA"].flights = "one"  # error: assignment
by_number["UA"]  # error: index
by_number["UA"] = Delays()  # error: index
del by_number["UA"]  # error: arg-type
name: str = counts["UA"]  # error: assignment
keys: list[str] = list(by_number)  # error: arg-type
