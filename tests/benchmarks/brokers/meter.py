"""What every client does, and what is measured of it: produce many, consume them, and send single ones.

Each client is a program of its own, `SIDE PORT PID RECORDS SINGLES SETTING`, in the environment that `make
broker-peers` makes; PID is the server's. It prints what it measured as JSON. Time counts from the moment at which the
client, which is connected, sends or asks for the first record. The framework is not imported here.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from tests.benchmarks.usage import cpu_seconds

RECORD_BYTES = 100
BATCH_RECORDS = 1000
"""How many records a client hands over at once, if it can take more than one."""
SINGLES_S = 1.5
TIMEOUT_S = 60.0
VALUES = [b"%0*d" % (RECORD_BYTES, number) for number in range(BATCH_RECORDS)]
STREAM = "records"


@dataclass(frozen=True, slots=True)
class Phase:
    """What one phase took, of the clock and of the processors."""

    records: int
    seconds: float
    server_cpu_s: float
    client_cpu_s: float
    first_s: float = 0.0
    """When consuming: until the first record came; a part of the seconds above."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a client found in one run."""

    produce: Phase
    consume: Phase
    singles_s: list[float] = field(default_factory=list)
    """How long each single record took to be acknowledged."""


class Meter:
    """Measures one client."""

    def __init__(self, arguments: list[str]) -> None:
        """*arguments* are those of the program."""
        port, pid, records, singles, self.setting = arguments
        self.port, self.records = int(port), int(records)
        assert self.records % BATCH_RECORDS == 0, f"{records} records are not whole batches of {BATCH_RECORDS}"
        self._pid, self._singles = int(pid), int(singles)
        self._phases: list[Phase] = []
        self._singles_s: list[float] = []
        self.begin()

    def batches(self) -> Iterator[list[bytes]]:
        """All records."""
        for _ in range(self.records // BATCH_RECORDS):
            yield VALUES

    def begin(self) -> None:
        """A phase begins."""
        self._begun = self._now()
        self._first_s = 0.0

    def first(self) -> None:
        """The first record has come."""
        self._first_s = time.perf_counter() - self._begun[0]

    def end(self, records: int) -> None:
        """It is over: first that of producing, then that of consuming."""
        clock, server, client = (now - then for now, then in zip(self._now(), self._begun, strict=True))
        self._phases.append(Phase(records, clock, server, client, self._first_s))

    def singles(self) -> Iterator[None]:
        """One turn for each single record; the time of the loop's body counts."""
        first = time.perf_counter()
        for _ in range(self._singles):
            started = time.perf_counter()
            yield
            ended = time.perf_counter()
            self._singles_s.append(ended - started)
            if ended - first > SINGLES_S:
                break

    def print(self) -> None:
        """Print what was measured."""
        produce, consume = self._phases
        print(json.dumps(asdict(Measured(produce, consume, self._singles_s))), flush=True)

    def _now(self) -> tuple[float, float, float]:
        return time.perf_counter(), cpu_seconds(self._pid), time.process_time()


def meter() -> Meter:
    """The meter of this program."""
    return Meter(sys.argv[1:])
