"""Clicks become visits: what is known of a user is a table, and a pipeline picks the pages that matter."""

from __future__ import annotations

from datetime import datetime, timedelta

from pydantic import BaseModel

from framework import App, Stream


class Click(BaseModel):
    """A page that a user looked at."""

    user: str
    page: str
    at: datetime


class User(BaseModel):
    """Who somebody is."""

    id: str
    country: str = "?"


class Visit(BaseModel):
    """The pages of one user so far."""

    entry: str = ""
    exit: str = ""
    pages: int = 0
    country: str = "?"


app = App("clicks")
clicks = app.topic("clicks", Click, key=lambda click: click.user, partitions=4)
users = app.topic("users", User, key=lambda user: user.id, partitions=4)
visits = app.topic("visits", Visit, partitions=4)
bought = app.topic("bought", str)
people = app.table("people", lambda: User(id=""))
open_visits = app.table("open-visits", Visit)


@app.agent(users)
def remember(user: User) -> None:
    """Keep the last record of each user."""
    people[user.id] = user


@app.agent(clicks)
async def follow(stream: Stream[Click]) -> None:
    """Keep what each user looks at, and send on where they are."""
    async for batch in stream.filter(lambda click: click.page).take(100, within=timedelta(seconds=1)):
        for click in batch:
            visit = open_visits[click.user]
            visit.entry, visit.exit = visit.entry or click.page, click.page
            visit.pages += 1
            visits.send(visit, key=click.user, timestamp=click.at)


(
    app.stream(clicks, name="purchases")
    .filter(lambda click: click.page.startswith("/thanks"))
    .map(lambda click: click.user)
    .to(bought)
)
