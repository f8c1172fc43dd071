"""The state machine of the commit, with the commit broken on purpose: it has to notice, whatever is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from framework.log.errors import Error
from framework.log.producers import Producers
from framework.rewind import Rewind
from framework.state.rows import Change
from framework.state.store import Store
from framework.supervision import Supervisor
from framework.task import Task
from framework.view import View
from tests.faults.test_exactly_once_model import ExactlyOnceMachine

ENOUGH = settings(
    max_examples=500,  # It stops at the first that shows the break; how soon that comes depends on the machine's pace.
    stateful_step_count=12,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

NOTICED = (AssertionError, Error, TimeoutError, pytest.fail.Exception)
"""A figure that is wrong, a worker that refuses the data or stands still, or none that does."""


def nothing(*_: object) -> None:
    """Done instead of what was to be done."""


def no_rows(*_: object) -> Iterator[Change]:
    """Restored instead of the rows of a table."""
    return iter(())


BREAKS = {
    "a record in hand is committed": (Task, "committable", property(lambda _: True)),
    "a record that failed for good leaves no letter": (Supervisor, "_give_up", nothing),
    "old state is not refused": (Store, "_check_state_not_behind", nothing),
    "batches are appended as often as they are sent": (Producers, "is_duplicate", lambda *_: False),
    "an outbox is not sent again": (Store, "_replay", lambda _: 0),
    "a rewind leaves the tables": (Rewind, "_table_changes", no_rows),
    "what a failed run changed stays": (View, "evict", nothing),
}


@pytest.mark.slow
@pytest.mark.parametrize("broken", BREAKS)
def test_the_machine_notices_that(broken: str, monkeypatch: pytest.MonkeyPatch, report: Callable[[str], None]) -> None:
    owner, name, instead = BREAKS[broken]
    monkeypatch.setattr(owner, name, instead)
    with pytest.raises(NOTICED) as noticed:
        run_state_machine_as_test(ExactlyOnceMachine, settings=ENOUGH)
    report(repr(noticed.value)[:200])
