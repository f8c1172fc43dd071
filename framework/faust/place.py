"""What the URL of a broker says: which directory, and where its broker listens if a worker has to be it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from framework.log.broker.settings import DEFAULT_HOST, parse_listen
from framework.log.errors import InvalidSetting

SCHEME = "framework"
EXAMPLE = "framework:///path/to/data, or framework://./data for one in the working directory"


@dataclass(frozen=True, slots=True)
class Place:
    """A data directory, and where its broker listens; port 0 is any that is free."""

    path: Path
    listen: tuple[str, int] = (DEFAULT_HOST, 0)


def parse_urls(urls: list[str]) -> Place:
    """What `broker=` of an app says, after Faust has split it at commas and semicolons.

    Raises:
        InvalidSetting: It is not the URL of one directory.
    """
    if len(urls) != 1:
        raise InvalidSetting(
            f"broker= names {len(urls)} places: {', '.join(urls)}. An app has one data directory, as in {EXAMPLE}; a "
            "',' or ';' in its path is written %2C or %3B"
        )
    return parse_url(urls[0])


def parse_url(url: str) -> Place:
    """What one URL says.

    Raises:
        InvalidSetting: It is not that of a directory.
    """
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in ("", "."):
        raise InvalidSetting(
            f"broker={url!r} names the host {parts.netloc!r}, and a data directory is on this machine: {EXAMPLE}"
        )
    if not path.strip("/"):
        raise InvalidSetting(f"broker={url!r} names no directory: {EXAMPLE}")
    listen = (DEFAULT_HOST, 0)
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name != "listen":
            raise InvalidSetting(f"broker={url!r} has the option {name!r}; there is listen=HOST:PORT only")
        listen = parse_listen(value)
    return Place(Path(path) if not parts.netloc else Path(path.lstrip("/")), listen)
