"""Topic settings as options say them: Kafka's names, and times with a unit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from framework.log.settings import Setting

UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_DURATION = re.compile(r"(\d+)(ms|s|m|h|d|w)")


def settings_from(config: dict[str, Setting], retention: str | None, settings: tuple[str, ...]) -> dict[str, Setting]:
    """*config*, changed by what the options say.

    Raises:
        InvalidSetting: They cannot be understood.
    """
    from framework.log.errors import InvalidSetting
    from framework.log.settings import parse_setting

    for text in settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise InvalidSetting(f"--config {text!r} is not NAME=VALUE")
        config[key] = parse_setting(key, value)
    if retention is not None:
        milliseconds = parse_duration(retention)
        if milliseconds is None and retention != "forever":
            raise InvalidSetting(f"--retention {retention!r} is none of 90s, 30m, 12h, 7d, 2w, forever and the like")
        config["retention.ms"] = -1 if milliseconds is None else milliseconds
    return config


def parse_duration(text: str) -> int | None:
    """Milliseconds of a time with a unit, like 90s; None if *text* is none."""
    match = _DURATION.fullmatch(text)
    return int(match[1]) * UNITS_MS[match[2]] if match else None


def duration(milliseconds: int) -> str:
    """*milliseconds* in the largest unit that divides it; -1 is for ever."""
    if milliseconds < 0:
        return "forever"
    unit = next(unit for unit in ("d", "h", "m", "s", "ms") if milliseconds % UNITS_MS[unit] == 0)
    return f"{milliseconds // UNITS_MS[unit]}{unit}"
