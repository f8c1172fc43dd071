"""Jobs that cannot be: refused when they are declared, or when a worker finds that their topic keeps too little."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from framework import App, Batch, Retry
from framework.errors import DeclarationError
from framework.worker import Worker

DAY, SECOND = timedelta(days=1), timedelta(seconds=1)


def handle(batch: Batch[int]) -> None:
    """A handler."""


async def handle_async(batch: Batch[int]) -> None:
    """Another."""


class Holder:
    """Holds a handler."""

    @staticmethod
    def method(batch: Batch[int]) -> None:
        """It cannot be found by the name of its module."""


@pytest.mark.parametrize(
    ("function", "options", "sentence"),
    [
        (handle, {"until": "now"}, "until is 'now', it must be one of fire, start"),
        (handle, {"catchup": "all"}, "catchup is 'all', it must be one of coalesce, each, none"),
        (handle, {"overlap": "allow"}, "overlap is 'allow', it must be one of coalesce, skip, cancel"),
        (handle, {"on_failure": "retry"}, "on_failure is 'retry', it must be one of hold, pause, skip"),
        (handle, {"on_gap": "skip"}, "on_gap is 'skip', it must be one of fail, earliest"),
        (handle, {"on_empty": True}, "on_empty is True, it must be one of skip, run"),
        (handle, {"executor": "fork"}, "executor is 'fork', it must be one of thread, process"),
        (handle, {"reads": "old"}, "reads is 'old', it must be 'new', 'all' or a timedelta"),
        (handle, {"reads": timedelta(0)}, "reads is 0:00:00, it must be positive"),
        (handle, {"timeout": timedelta(0)}, "timeout is 0:00:00, it must be positive"),
        (handle, {"timeout": 30}, "timeout is 30, it must be a timedelta"),
        (handle, {"jitter": 30}, "jitter is 30, it must be a timedelta"),
        (handle, {"jitter": -SECOND}, "jitter is -1 day, 23:59:59, it must be positive"),
        (handle, {"history": 0}, "history is 0, it must be a number of runs, 1 or more"),
        (handle, {"history": "5"}, "history is '5', it must be a number of runs, 1 or more"),
        (handle, {"retries": 3}, "retries is 3, it must be a Retry"),
        (handle, {"retries": Retry(then="stop")}, "of a job, on_failure says what comes after the last retry"),
        (handle, {"catchup": "each", "until": "start"}, "until='start' does not know: leave one of them out"),
        (handle_async, {"executor": "process"}, "executor='process' is for a plain def"),
        (Holder.method, {"executor": "process"}, "the function stands at the top of a module"),
        (lambda batch: None, {"executor": "process"}, "the function stands at the top of a module"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_declared(function: Any, options: Any, sentence: str) -> None:
    app = App("bad")
    with pytest.raises(DeclarationError) as refused:
        app.job(app.topic("numbers", int), schedule="@daily", name="nightly", **options)(function)
    assert str(refused.value).startswith("job 'nightly': ")
    assert sentence in str(refused.value)
    assert app.jobs == {}


def test_an_option_that_there_is_not_is_refused() -> None:
    app, options = App("bad"), {"overlaps": "skip"}
    with pytest.raises(DeclarationError, match="overlaps is no option of job; there are catchup, executor, history"):
        app.job(app.topic("numbers", int), schedule="@daily", **options)(handle)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("topic", "schedule", "options", "refused"),
    [
        ({"retention": 7 * DAY}, "@weekly", {}, None),
        ({"retention": 6 * DAY}, "@weekly", {}, "is due up to 7 days, 0:00:00 after the time before, but topic 'kept'"),
        ({"retention": 7 * DAY}, "@daily", {"reads": 8 * DAY}, "reads back 8 days, 0:00:00, but topic 'kept' keeps"),
        ({"retention": 7 * DAY}, "@daily", {"reads": 7 * DAY}, None),
        ({"compact": True}, "@monthly", {}, None),
        ({"retention": None}, "@yearly", {"reads": 400 * DAY}, None),
    ],
)
async def test_a_topic_keeps_what_its_jobs_are_to_read(
    tmp_path: Path, topic: Any, schedule: str, options: Any, refused: str | None
) -> None:
    """Else the worker does not start: it would lose records without anybody having been told."""
    app = App("kept", data=tmp_path / "data")
    app.job(app.topic("kept", int, **topic), schedule=schedule, name="job", **options)(handle)
    if refused is None:
        await Worker(app).run(until_idle=True)
        return
    with pytest.raises(DeclarationError) as error:
        await Worker(app).run(until_idle=True)
    assert refused in str(error.value)
