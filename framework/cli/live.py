"""One line at the bottom of a terminal, refreshed in place, and log lines that scroll above it."""

from __future__ import annotations

import logging
import shutil
import signal
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, TextIO

from framework.cli.options import terminal

ERASE = "\r\x1b[2K"
RATE_S = 3.0


class LiveLine:
    """The line; on anything but a terminal it shows nothing."""

    def __init__(self, stream: TextIO) -> None:
        """*stream* is standard error."""
        self.on = terminal(stream)
        self._stream, self._text = stream, ""

    def show(self, text: str) -> None:
        """Replace the line."""
        if self.on:
            width = shutil.get_terminal_size().columns
            self._text = text[: width - 1]
            self._stream.write(ERASE + self._text)
            self._stream.flush()

    def print(self, text: str) -> None:
        """Print *text* above the line, or where there is none just print it."""
        line = self._text
        self._stream.write(f"{ERASE if line else ''}{text}\n{line}")
        self._stream.flush()

    def remove(self) -> None:
        """Leave nothing of it."""
        if self._text:
            self._stream.write(ERASE)
            self._stream.flush()
            self._text = ""


class LogAbove(logging.Handler):
    """Prints log records above a line."""

    def __init__(self, line: LiveLine) -> None:
        """Formats as time, level, logger, text."""
        super().__init__()
        self._line = line
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Print *record*."""
        self._line.print(self.format(record))


def log_above(line: LiveLine, level: str) -> None:
    """Send the logs of *level* and above to *line*, unless the app has set up logging already."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(LogAbove(line))
        root.setLevel(level.upper())


class Rate:
    """How fast a count grows, over the last few seconds."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, now_s: float, count: int) -> float:
        """Note that the count is *count*; how many a second were added lately."""
        self._samples.append((now_s, count))
        while len(self._samples) > 2 and now_s - self._samples[0][0] > RATE_S:
            self._samples.popleft()
        then, before = self._samples[0]
        return (count - before) / (now_s - then) if now_s > then else 0.0


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """SIGTERM and Ctrl-C raise `KeyboardInterrupt` in the body, also where it blocks an event loop."""
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_: int, __: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
