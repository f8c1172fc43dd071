"""`framework topics`: listing, making, sending, reading; beside a worker and without one."""

from __future__ import annotations

import json
import re
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from framework import App

if TYPE_CHECKING:
    from tests.framework.cli.conftest import Shell

pytestmark = pytest.mark.slow

MODELS = """
from pydantic import BaseModel
from framework import App

class Order(BaseModel):
    customer: str
    euros: float = 0.0

app = App("shop")
orders = app.topic("orders", Order, key=lambda order: order.customer, partitions=4)
raw = app.topic("raw", bytes, key_type=int)
"""


def test_ls_lists_every_topic_in_columns(counted: Shell) -> None:
    lines = counted.ok("topics", "ls").out.splitlines()
    assert lines[0] == "TOPIC  PARTITIONS  RECORDS  BYTES  RETENTION"
    assert re.fullmatch(r"lines           1        2   *\d+  7d", lines[1])
    assert re.fullmatch(r"words           3        6   *\d+  7d", lines[2])


def test_ls_gives_one_document_a_topic(counted: Shell) -> None:
    rows = {row["topic"]: row for row in counted.ok("topics", "ls", "--json").json()}
    assert {"lines", "words"} <= set(rows)
    assert rows["words"].pop("bytes") > 100
    assert rows["words"] == {"topic": "words", "partitions": 3, "records": 6, "retention": "7d"}


def test_show_gives_settings_and_partitions(counted: Shell) -> None:
    [shown] = counted.ok("topics", "show", "words", "--json").json()
    assert re.fullmatch("[0-9a-f]{32}", shown["id"])
    assert (shown["topic"], shown["type"], shown["key_type"]) == ("words", "str", "str")
    assert shown["config"]["retention.ms"] == 7 * 24 * 3600 * 1000
    assert [part["partition"] for part in shown["partitions"]] == [0, 1, 2]
    assert sum(part["end"] - part["start"] for part in shown["partitions"]) == 6
    lines = counted.ok("topics", "show", "words").out.splitlines()
    assert lines[0].split() == ["topic", "words"]
    assert "PARTITION  START  END  RECORDS  BYTES  SEGMENTS" in lines


def test_create_makes_a_topic_and_the_data_directory(shell: Shell) -> None:
    made = shell.ok(
        *("topics", "create", "clicks", "--partitions", "3", "--retention", "12h"),
        *("--config", "segment.bytes=8192", "--data", "there"),
    )
    assert made.out == ""
    assert made.err.splitlines() == [
        f"made the data directory {shell.folder / 'there'}",
        f"made topic 'clicks' with 3 partitions in {shell.folder / 'there'}",
    ]
    [shown] = shell.ok("topics", "show", "clicks", "--json", "--data", "there").json()
    assert len(shown["partitions"]) == 3
    assert (shown["config"]["retention.ms"], shown["config"]["segment.bytes"]) == (12 * 3600 * 1000, 8192)
    assert shell.ok("topics", "ls", "--data", "there").out.splitlines()[1].split()[-1] == "12h"


def test_create_takes_what_the_app_declares(shell: Shell) -> None:
    shell.write("shop.py", MODELS)
    shell.ok("topics", "create", "orders", "-A", "shop")
    [shown] = shell.ok("topics", "show", "orders", "-A", "shop", "--json").json()
    assert (len(shown["partitions"]), shown["type"]) == (4, "Order")


def test_what_is_sent_is_tailed_in_text(shell: Shell) -> None:
    shell.ok("topics", "create", "t")
    sent = shell.ok("topics", "send", "t", "one", "two\nlines", '{"n": 3}', "--key", "k", "--header", "from=test")
    assert (sent.out, sent.err) == ("", "3 records sent to topic 't'\n")
    shown = shell.ok("topics", "tail", "t").out
    assert re.sub(r"\d{4}-\S+Z", "TIME", shown).splitlines() == [
        "0@0  TIME  k  one  from=test",
        r"0@1  TIME  k  two\nlines  from=test",
        '0@2  TIME  k  {"n": 3}  from=test',
    ]


def test_what_is_sent_is_tailed_in_json(shell: Shell) -> None:
    """JSON stays JSON, as it is stored; other text is text; the header and key are text."""
    shell.ok("topics", "create", "t")
    shell.ok("topics", "send", "t", "text", '{"n":  1.50}', "12", "--key", "7", "--header", "a=1")
    done = shell.ok("topics", "tail", "t", "--json")
    assert '"value":{"n":  1.50}' in done.out
    rows = done.json()
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z", row.pop("timestamp")) for row in rows)
    same = {"topic": "t", "partition": 0, "key": "7", "headers": {"a": "1"}}
    assert rows == [
        {**same, "offset": 0, "value": "text"},
        {**same, "offset": 1, "value": {"n": 1.5}},
        {**same, "offset": 2, "value": 12},
    ]


def test_bytes_that_are_no_text_are_not_lost(shell: Shell) -> None:
    shell.write("shop.py", MODELS)
    shell.write(
        "fill.py",
        "import shop\nwith shop.app.opened():\n    shop.raw.send(b'\\xff\\x1b[2J', key=5)\n"
        "    shop.raw.send_raw(None, None, 0, [])\n",
    )
    shell.environment["FRAMEWORK_APP"] = "fill:shop.app"
    records = shell.ok("topics", "tail", "raw", "--json").json()
    assert [record["value"] for record in records] == [{"base64": "/xtbMko="}, None]
    assert [record["key"] for record in records] == [5, None]
    assert records[1]["timestamp"] == "1970-01-01T00:00:00Z"
    text = shell.ok("topics", "tail", "raw").out
    assert "\x1b" not in text
    assert r"\xff\x1b[2J" in text


def test_lines_of_standard_input_are_records(shell: Shell) -> None:
    shell.ok("topics", "create", "t")
    assert shell.ok("topics", "send", "t", text="a\r\n\nc").err == "3 records sent to topic 't'\n"
    assert [row["value"] for row in shell.ok("topics", "tail", "t", "--json").json()] == ["a", "", "c"]


def test_a_value_is_sent_as_the_app_types_it(shell: Shell) -> None:
    """Defaults are filled in, and the key is derived; the topic is made as declared."""
    shell.write("shop.py", MODELS)
    shell.ok("topics", "send", "orders", '{"customer": "ann"}', "-A", "shop.py")
    [record] = shell.ok("topics", "tail", "orders", "-A", "shop.py", "--json").json()
    assert (record["key"], record["value"]) == ("ann", {"customer": "ann", "euros": 0.0})
    assert len(shell.ok("topics", "show", "orders", "--json", "-A", "shop.py").json()[0]["partitions"]) == 4


def test_what_is_no_value_of_the_topic_is_refused_where_it_stands(shell: Shell) -> None:
    """What stood before it is sent, and said so."""
    shell.write("shop.py", MODELS)
    done = shell.run("topics", "send", "orders", "-A", "shop", text='{"customer":"a"}\n{"customer":1}\n')
    assert done.code == 2
    assert done.err.splitlines()[-1] == (
        "framework: line 2: not a valid Order: customer: Input should be a valid string (1 sent before it)"
    )
    assert len(shell.ok("topics", "tail", "orders", "-A", "shop").out.splitlines()) == 1


def test_partition_says_where_to(shell: Shell) -> None:
    shell.ok("topics", "create", "t", "--partitions", "3")
    shell.ok("topics", "send", "t", "x", "--partition", "2")
    [row] = shell.ok("topics", "tail", "t", "--json").json()
    assert row["partition"] == 2
    assert shell.ok("topics", "tail", "t", "--partition", "1").out == ""


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A topic of two partitions, whose records 0 to 19 are stamped a minute apart and alternate between them."""
    app = App("dated", data=tmp_path_factory.mktemp("dated"))
    topic = app.topic("t", int, partitions=2)
    with app.opened():
        for number in range(20):
            minute = int(datetime(2026, 1, 1, 0, number, tzinfo=UTC).timestamp() * 1000)
            topic.send_raw(None, b"%d" % number, minute, [], partition=number % 2)
    return app.data


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ("", range(10, 20)),
        ("-n 3", range(17, 20)),
        ("-n 0", []),
        ("-n 100", range(20)),
        ("--from beginning", range(20)),
        ("--from beginning -n 2", range(2)),
        ("--from end", []),
        ("--from 8", range(16, 20)),
        ("--from 99", []),
        ("--from 2026-01-01T00:15:00Z", range(15, 20)),
        ("--from 2026-01-01T01:14:30+01:00 -n 2", [15, 16]),
        ("-n 2 --partition 0", [16, 18]),
    ],
)
def test_tail_begins_where_it_is_told_and_orders_by_time(
    shell: Shell, dated: Path, options: str, values: range
) -> None:
    rows = shell.ok("topics", "tail", "t", "--json", "--data", dated, *options.split()).json()
    assert [row["value"] for row in rows] == list(values)


def test_follow_goes_on_with_what_comes(words: Shell) -> None:
    """The last lines first; then what another process sends."""
    tail = words.start("topics", "tail", "lines", "--follow", "-n", "1", "--json")
    assert json.loads(tail.line())["value"] == "not to be"
    words.ok("topics", "send", "lines", "that is", "the question")
    assert [json.loads(tail.line())["value"] for _ in range(2)] == ["that is", "the question"]


def test_ctrl_c_ends_following_with_130_and_no_words(words: Shell) -> None:
    tail = words.start("topics", "tail", "lines", "--follow")
    assert tail.line().endswith("to be or\n")
    done = tail.end(signal.SIGINT)
    assert (done.code, done.err) == (130, "")


def test_follow_ends_after_the_number_that_was_asked_for(words: Shell) -> None:
    tail = words.start("topics", "tail", "lines", "--follow", "--from", "0", "-n", "3", "--json")
    assert [json.loads(tail.line())["value"] for _ in range(2)] == ["to be or", "not to be"]
    words.ok("topics", "send", "lines", "third", "fourth")
    done = tail.end()
    assert (done.code, [row["value"] for row in done.json()]) == (0, ["third"])
