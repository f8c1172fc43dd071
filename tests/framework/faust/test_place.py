"""What the URL of a broker says, and what it must not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from framework.faust.place import Place, parse_urls
from framework.log.errors import InvalidSetting


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("framework:///var/data/shop", Place(Path("/var/data/shop"))),
        ("framework://./data/shop", Place(Path("data/shop"))),
        ("framework:///a%2Cb%3Bc%20d", Place(Path("/a,b;c d"))),
        ("framework:///data?listen=127.0.0.1:9092", Place(Path("/data"), ("127.0.0.1", 9092))),
    ],
)
def test_it_is_the_path_of_a_directory(url: str, expected: Place) -> None:
    assert parse_urls([url]) == expected


@pytest.mark.parametrize(
    ("urls", "why"),
    [
        (["framework:///a", "framework://b/"], "names 2 places.*a ',' or ';' in its path is written %2C or %3B"),
        (["framework://"], "names no directory"),
        (["framework:///"], "names no directory"),
        (["framework://data/shop"], "names the host 'data', and a data directory is on this machine"),
        (["framework:///data?partitions=3"], "has the option 'partitions'; there is listen=HOST:PORT only"),
        (["framework:///data?listen=here:there"], "is not HOST:PORT"),
    ],
)
def test_everything_else_is_refused_with_a_sentence(urls: list[str], why: str) -> None:
    with pytest.raises(InvalidSetting, match=why):
        parse_urls(urls)
