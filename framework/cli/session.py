"""One run of a worker as its user sees it: banner, progress, and what the signals do."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from framework.alongside import alongside
from framework.app import App
from framework.cli.live import LiveLine, Rate
from framework.cli.output import iso
from framework.cli.version import version
from framework.log.locks import SHARD_LOCK
from framework.worker import Progress, RunProgress, Worker

if TYPE_CHECKING:
    from framework.log.broker.settings import BrokerSettings

LINE_S = 0.5
SHOWN_RUNS = 3
LOG_S = 10.0
INTERRUPTED = 130
logger = logging.getLogger("framework.worker")


class Session:
    """One run of a worker, as its user sees it."""

    def __init__(self, app: App, line: LiveLine, *, made: bool, broker: BrokerSettings | None = None) -> None:
        """*made* says that the data directory is not there yet; with *broker* it is served to Kafka's clients, too."""
        self._app, self._line, self._made, self._broker = app, line, made, broker
        self._worker: Worker | None = None
        self._stopping = False

    async def run(self, *, wait_s: float, until_idle: bool, accept_schema: Sequence[str] = ()) -> None:
        """Run until idle, or until a signal comes.

        Raises:
            ShardBusy: Another worker runs on the directory.
        """
        self._worker = Worker(self._app, wait_s=wait_s, accept_schema=accept_schema, broker=self._broker)
        if wait_s and not self._made:
            self._announce_wait(wait_s)
        started = time.monotonic()
        async with alongside(self._report(self._worker)):
            await self._worker.run(until_idle=until_idle, started=self._started)
        done = self._worker.progress
        self._line.remove()
        how = "stopped" if self._stopping else "idle"
        seconds = time.monotonic() - started
        self._line.print(f"{how}: {counted(done.records)} in {seconds:.1f} s, all committed; lag {done.lag:,}")

    def _announce_wait(self, wait_s: float) -> None:
        pid = self._app.open(create=False).shared.holder(SHARD_LOCK)
        if pid is not None:
            self._line.print(f"process {pid} has {self._app.data}; waiting up to {wait_s:g} s for it to end")

    def _started(self) -> None:
        # From here on there is something to finish, so signals no longer just interrupt.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, signal.Signals(number).name)
        assert self._worker is not None
        for text in banner(self._app, made=self._made, listens=self._worker.address):
            self._line.print(text)

    def _stop(self, name: str) -> None:
        if self._stopping:
            self._line.print(f"{name}: stopped at once; what was not committed will be done again")
            # Not by an exception: a handler that never returns would hold that up, too.
            os._exit(INTERRUPTED)
        self._stopping = True
        self._line.print(f"{name}: finishing what is in hand; once more to stop at once")
        assert self._worker is not None
        self._worker.stop()

    async def _report(self, worker: Worker) -> None:
        report = Report(self._line)
        while True:
            await asyncio.sleep(LINE_S)
            report.tick(time.monotonic(), worker.progress)


class Report:
    """Says how a worker gets on: on a terminal all the time, else in the log now and then."""

    def __init__(self, line: LiveLine) -> None:
        """Nothing has been said yet."""
        self._line, self._rate = line, Rate()
        self._logged_at: float | None = None
        self._logged: Progress | None = None

    def tick(self, now_s: float, progress: Progress) -> None:
        """At *now_s* of a monotonic clock it stands at *progress*."""
        rate = self._rate.add(now_s, progress.records)
        text = f"{rate:,.0f} records/s, {counted(progress.records)}, lag {progress.lag:,}"
        text = ", ".join([text, *runs_texts(progress.runs)])
        if self._line.on:
            self._line.show(text)
            return
        if self._logged_at is None:
            self._logged_at = now_s
        if now_s - self._logged_at >= LOG_S:
            if progress != self._logged:
                logger.info("%s", text)
            self._logged_at, self._logged = now_s, progress


def banner(app: App, *, made: bool, listens: tuple[str, int] | None = None) -> list[str]:
    """What runs here, and where; the app is open."""
    lines = [f"framework {version()}, app {app.name}, process {os.getpid()}"]
    lines.append(f"data   {app.data}{' (made)' if made else ''}")
    if listens is not None:
        lines.append(f"listen {listens[0]}:{listens[1]}")
    now = datetime.fromtimestamp(app.clock.now_ms() / 1000, UTC)
    width = max((len(name) for name in [*app.agents, *app.jobs, *app.timers]), default=0)
    for name, agent in app.agents.items():
        count = app.topic_info(agent.source).partitions
        sink = f" -> {agent.sink.name}" if agent.sink is not None else ""
        lines.append(f"agent  {name:{width}}  {agent.source.name}, {count} partition{'s' * (count > 1)}{sink}")
    for name, job in app.jobs.items():
        fire = iso(job.schedule.next_after(now).timestamp())
        lines.append(f"job    {name:{width}}  {job.source.name}, {job.schedule}, next {fire}")
    for name, timer in app.timers.items():
        fire = iso(timer.schedule.next_after(now).timestamp())
        lines.append(f"timer  {name:{width}}  {timer.schedule}, next {fire}")
    return [*lines, "running; SIGTERM or Ctrl-C stops it"]


def runs_texts(runs: Sequence[RunProgress]) -> list[str]:
    """How far the first of *runs* have come, and how many others there are.

    >>> runs_texts([RunProgress("nightly-1", 250, 1000), RunProgress("hourly-7", 0, 0)])
    ['nightly-1 25 %', 'hourly-7 100 %']
    """
    shown = [f"{run.id} {int(100 * run.done / run.size) if run.size else 100} %" for run in runs[:SHOWN_RUNS]]
    return shown + [f"{len(runs) - SHOWN_RUNS} more runs"] * (len(runs) > SHOWN_RUNS)


def counted(records: int) -> str:
    """*records* with the word."""
    return f"{records:,} record{'s' * (records != 1)}"
