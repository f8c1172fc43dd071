"""Reviews go to a service outside, by a client that the app's lifespan holds, and come back with a mood."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import BaseModel

from framework import App, Record


class Review(BaseModel):
    """What somebody wrote."""

    text: str


class Judged(BaseModel):
    """The same, with what the service made of it."""

    text: str
    mood: str


class Client:
    """The service outside."""

    async def mood_of(self, text: str, *, idempotency_key: str) -> str:
        """One word; asked again with the same key, the same word."""
        return f"{idempotency_key}: {text}"


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[None]:
    """Hold a client as long as the app is open."""
    app.state.client = Client()
    yield


app = App("moods", lifespan=lifespan)
reviews = app.topic("reviews", Review)
judged = app.topic("judged", Judged)


@app.agent(reviews, sink=judged)
async def judge(record: Record[Review]) -> Judged:
    """Ask for the mood; the record's id stays the same when it is tried again."""
    client: Client = app.state.client
    mood = await client.mood_of(record.value.text, idempotency_key=record.id)
    return Judged(text=record.value.text, mood=mood)
