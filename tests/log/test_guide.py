"""The guide of the log, log/README.md: its examples run as doctests, and its table of settings is the code's."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from framework.log.settings import CHOICES, RANGES, TopicSettings, kafka_name

GUIDE = Path(__file__).parents[2] / "log" / "README.md"


def test_the_guide_lists_every_setting_with_its_default_and_its_range() -> None:
    rows = re.findall(r"^\| `([a-z.]+)` \| (.+?) \| (.+?) \| .+ \|$", GUIDE.read_text(), re.MULTILINE)
    assert {name: (default, values) for name, default, values in rows} == {
        kafka_name(field.name): (str(field.default), _values(field.name)) for field in fields(TopicSettings)
    }


def _values(name: str) -> str:
    if name in CHOICES:
        return ", ".join(CHOICES[name])
    low, high = RANGES[name]
    return f"{low} to {'2^62' if high == 1 << 62 else high}"
