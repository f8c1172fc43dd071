"""The pytest plugin: one fixture, `testing`; nothing of the framework is imported before a test uses it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from framework import App, Harness


class RunApp(Protocol):
    """What the fixture `testing` gives."""

    def __call__(
        self, app: App | str | None = None, *, start: datetime | None = None
    ) -> AbstractAsyncContextManager[Harness]:
        """`App.testing` of *app*; of `module:app`, or without any of the one that `framework worker` would run."""


@pytest.fixture
def testing() -> RunApp:
    """What runs an app for a test; without naming one, the app that `framework worker` would run."""
    from framework.discover import find_app
    from framework.testing import harness

    def of(app: App | str | None = None, *, start: datetime | None = None) -> AbstractAsyncContextManager[Harness]:
        return harness(find_app(app) if app is None or isinstance(app, str) else app, start)

    return of
