"""`framework dlq` and `framework agents show`: what failed, why, and sending it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.framework.cli.conftest import Shell

pytestmark = pytest.mark.slow

APP = """
import os
from datetime import timedelta
from framework import App, Record, Retry

app = App("shop", on_error=Retry(1, wait=timedelta(0)))
orders = app.topic("orders", int, key=str, partitions=2)
done = app.topic("done", str)

@app.agent(orders, sink=done)
def charge(record: Record[int]) -> str:
    if record.value % 3 == 0 and not os.path.exists("mended"):
        raise ConnectionError(f"no answer for {record.value}")
    retries = record.headers.get("dead-letter.retries", b"0").decode()
    return f"{record.key} {record.value} {record.headers['trace'].decode()} {retries}"

if __name__ == "__main__":
    with app.opened():
        for number in range(7):
            orders.send(number, headers={"trace": b"t%d" % number})
"""


@pytest.fixture
def failed(shell: Shell) -> Shell:
    """Three of seven orders are dead letters."""
    import subprocess
    import sys

    shell.write("app.py", APP)
    subprocess.run([sys.executable, "app.py"], cwd=shell.folder, env=shell.environment, check=True)
    shell.ok("worker", "--until-idle")
    return shell


def test_ls_shows_who_has_dead_letters_and_which(failed: Shell) -> None:
    [row] = failed.ok("dlq", "ls", "--json").json()
    assert (row["agent"], row["letters"]) == ("shop.charge", 3)
    letters = failed.ok("dlq", "ls", "charge", "--json").json()
    assert sorted(letter["error"] for letter in letters) == [
        f"ConnectionError: no answer for {number}" for number in (0, 3, 6)
    ]
    assert all(letter["source"].startswith("orders-") and letter["retries"] == 0 for letter in letters)
    header, *lines = failed.ok("dlq", "ls", "shop.charge").out.splitlines()
    assert header.split() == ["PLACE", "TIME", "SOURCE", "RETRIES", "ERROR"]
    assert len(lines) == 3


def test_show_prints_the_record_and_the_traceback(failed: Shell) -> None:
    place = failed.ok("dlq", "ls", "charge", "--json").json()[0]["place"]
    [letter] = failed.ok("dlq", "show", "charge", place, "--json").json()
    assert letter["key"] == str(letter["value"])
    assert letter["headers"] == {"trace": f"t{letter['value']}"}
    assert f"ConnectionError: no answer for {letter['value']}" in letter["traceback"]
    text = failed.ok("dlq", "show", "charge").out
    assert "Traceback (most recent call last)" in text
    assert "trace=t" in text


def test_retry_sends_the_record_back_as_it_was_and_counts(failed: Shell) -> None:
    dry = failed.ok("dlq", "retry", "charge")
    assert dry.err == "would send 3 dead letters of 'charge' to orders; do it with --execute\n"
    failed.ok("dlq", "retry", "charge", "--execute")
    assert failed.ok("dlq", "ls", "charge", "--json").json() == []
    failed.ok("worker", "--until-idle")
    assert {row["retries"] for row in failed.ok("dlq", "ls", "charge", "--json").json()} == {1}
    failed.write("mended", "")
    failed.ok("dlq", "retry", "charge", "--execute")
    failed.ok("worker", "--until-idle")
    assert failed.ok("dlq", "ls").out == ""
    values = [row["value"] for row in failed.ok("topics", "tail", "done", "--json", "-n", "9").json()]
    assert sorted(values) == sorted(f"{n} {n} t{n} {0 if n % 3 else 2}" for n in range(7))


def test_a_single_letter_is_sent_back_and_stays_until_purge(failed: Shell) -> None:
    failed.write("mended", "")
    place = failed.ok("dlq", "ls", "charge", "--json").json()[1]["place"]
    assert "sent 1 dead letter of 'charge' to orders" in failed.ok("dlq", "retry", "charge", place, "--execute").err
    assert len(failed.ok("dlq", "ls", "charge", "--json").json()) == 3
    assert "would remove 3 dead letters" in failed.ok("dlq", "purge", "charge").err
    failed.ok("dlq", "purge", "charge", "--execute")
    assert failed.ok("dlq", "ls", "charge", "--json").json() == []
    failed.ok("worker", "--until-idle")
    assert len(failed.ok("topics", "tail", "done", "--json", "-n", "9").json()) == 5


def test_mistakes_name_what_there_is(failed: Shell) -> None:
    done = failed.run("dlq", "ls", "nobody")
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert "there are shop.charge" in done.err
    done = failed.run("dlq", "retry", "charge", "0@99", "--execute")
    assert done.code == 4
    assert "there is no dead letter '0@99' among them" in done.err


WAITING = """
import asyncio
from datetime import timedelta
from framework import App, Retry

app = App("shop", on_error=Retry(9, wait=timedelta(hours=1), max_wait=timedelta(hours=1)))
orders = app.topic("orders", int)
other = app.topic("other", int)

@app.agent(orders)
async def wait(order: int) -> None:
    if order == 2:
        await asyncio.get_running_loop().create_future()

@app.agent(orders, concurrency=4)
async def many(order: int) -> None:
    if order == 1:
        await asyncio.get_running_loop().create_future()

@app.agent(orders)
def fail(order: int) -> None:
    if order == 1:
        raise ConnectionError("down")

@app.agent(other)
def rest(order: int) -> None: ...

if __name__ == "__main__":
    with app.opened():
        orders.send_many(range(4))
"""


def test_show_says_which_record_an_agent_waits_on_and_for_how_long(shell: Shell) -> None:
    import subprocess
    import sys

    shell.write("app.py", WAITING)
    subprocess.run([sys.executable, "app.py"], cwd=shell.folder, env=shell.environment, check=True)
    worker = shell.worker()
    worker.wait_for("first attempt")
    seen: dict[str, str] = {}
    while seen.get("wait") != "waiting on orders-0@2" or seen.get("fail") != "retrying orders-0@1":
        lines = {name: shell.ok("agents", "show", name) for name in ("wait", "many", "fail", "rest")}
        seen = {name: done.out.splitlines()[1].partition(" for ")[0].split("  ")[-1] for name, done in lines.items()}
    rows = [shell.ok("agents", "show", name, "--json").json()[0] for name in ("wait", "many", "fail", "rest")]
    assert seen["many"] == "waiting on orders-0@1"
    assert [(row["doing"], row["offset"]) for row in rows] == [
        ("handling", 2),
        ("handling", 1),
        ("retrying", 1),
        ("idle", None),
    ]
    assert rows[1]["handled"] == 3
    assert "last error in partition 0: ConnectionError: down" in lines["fail"].err
    worker.process.kill()
    worker.end()
    done = shell.ok("agents", "show", "wait", "--json")
    assert done.json()[0]["doing"] is None
    assert "no worker runs on" in done.err
