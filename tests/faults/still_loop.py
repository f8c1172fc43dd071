"""An event loop in which nothing depends on how fast the machine is, so that what happened once happens again.

Its time passes by callbacks, and leaps to the next timer when there is nothing else to do; what would run in threads
runs in between. Only for code that waits for no thread but in `InlineExecutor`.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
CALLBACK_S = 1e-5
"""How long a callback takes, by the time of the loop."""


class CountingLoop(asyncio.SelectorEventLoop):
    """Calls `act` between two callbacks, when as many as the keys of it say have been scheduled."""

    def __init__(self, selector: selectors.BaseSelector | None = None) -> None:
        super().__init__(selector)
        self.scheduled = 0
        self.acts: dict[int, Callable[[], object]] = {}

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Count it."""
        self.scheduled += 1
        act = self.acts.pop(self.scheduled, None)
        if act is not None:
            super().call_soon(act)
        return super().call_soon(callback, *args, context=context)


class StillLoop(CountingLoop):
    """A counting loop whose time stands still while nothing happens in it."""

    def __init__(self) -> None:
        self._leapt_s = 0.0
        self._ticks = 0
        super().__init__(_Leaping(self))

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._leapt_s + self._ticks * CALLBACK_S

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Let time pass."""
        self._ticks += 1
        return super().call_soon(callback, *args, context=context)

    def leap(self, seconds: float) -> None:
        """Nothing happens for so long."""
        self._leapt_s += seconds


class _Leaping(selectors.DefaultSelector):
    """Looks what is there, and does not wait for more."""

    def __init__(self, loop: StillLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if not found and timeout:
            self._loop.leap(timeout)
        return found


class InlineExecutor(Executor):
    """Runs everything at once, in the thread that asks for it."""

    def __init__(self, *args: object, **options: object) -> None:
        """Takes what a pool of threads takes."""

    def submit(self, function: Callable[..., T], /, *args: Any, **options: Any) -> Future[T]:
        """Run it."""
        done: Future[T] = Future()
        try:
            done.set_result(function(*args, **options))
        except BaseException as error:  # noqa: BLE001  # it is raised where the result is asked for
            done.set_exception(error)
        return done
