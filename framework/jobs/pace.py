"""Turns: a job that reads in a thread leaves the interpreter to the agents beside it, as long as they have work.

Python runs one thread at a time, and takes up to 5 ms to change. Left to itself, a thread that computes keeps an event
loop that waits for the disk and the network now and then from most of its time. So the job rests by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable

TURN_S = 0.002
"""How long a job works before it looks whether agents do."""
REST = 2.0
"""How long it rests then, as a multiple of what it has worked: it takes a third of the time that there is."""
MAX_REST_S = 0.05


class Pace:
    """The turns of one attempt, in a thread of its own: never in the event loop's."""

    def __init__(self, agents_busy: Callable[[], bool] = lambda: False) -> None:
        """*agents_busy* says whether agents have records in hand; asked once in a turn."""
        self._agents_busy = agents_busy
        self._begun = time.monotonic()

    def keep(self) -> None:
        """Rest if it is time to; called often."""
        worked = time.monotonic() - self._begun
        if worked < TURN_S:
            return
        if self._agents_busy():
            time.sleep(min(worked * REST, MAX_REST_S))
        self._begun = time.monotonic()
