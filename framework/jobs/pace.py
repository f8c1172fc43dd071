"""Turns: a job that reads in a thread leaves the interpreter to the agents beside it, as long as they have work.

Python runs one thread at a time, and takes up to 5 ms to change. Left to itself, a thread that computes keeps an event
loop that waits for the disk and the network now and then from most of its time. So the job rests by itself, whenever
it is given records; and of records that take long it is given few at a time, so that it comes to a rest, or to its
stop, in time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from framework.reading import SLICE_RECORDS

TURN_S = 0.002
"""How long a job works before it looks whether agents do."""
REST = 2.0
"""How long it rests then, as a multiple of what it has worked: it takes a third of the time that there is."""
MAX_REST_S = 0.05


class Pace:
    """The turns of one attempt, in a thread of its own: never in the event loop's."""

    def __init__(
        self,
        agents_busy: Callable[[], bool] = lambda: False,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """*agents_busy* says whether agents have records in hand; asked once in a turn. *clock* is in seconds."""
        self._agents_busy, self._clock, self._sleep = agents_busy, clock, sleep
        self._begun = self._handed = clock()
        self._records = 1

    def keep(self) -> None:
        """Rest if it is time to; called often."""
        worked = self._clock() - self._begun
        if worked < TURN_S:
            return
        if self._agents_busy():
            self._sleep(min(worked * REST, MAX_REST_S))
        self._begun = self._clock()

    def turn(self) -> int:
        """Rest if it is time to; how many records are to be handed out then, so that they take about a turn."""
        took = self._clock() - self._handed
        if took > TURN_S:
            self._records = max(1, int(self._records * TURN_S / took))
        elif 2 * took < TURN_S:
            self._records = min(2 * self._records, SLICE_RECORDS)
        self.keep()
        self._handed = self._clock()
        return self._records
