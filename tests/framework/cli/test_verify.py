"""`framework verify` and `framework doctor`: what they print, and what they exit with."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from framework.cli.verify import Bar
from framework.log import Log, NewRecord, TopicSettings, encode

if TYPE_CHECKING:
    from tests.framework.cli.conftest import Shell

pytestmark = pytest.mark.slow

SUMMARY = r"2 partitions, 3 segments, [89] batches,( 9 records,)? [\d,]+ bytes in \d+\.\d s: "


@pytest.fixture
def filled(shell: Shell) -> Shell:
    """A shell beside ./data with two topics, one of them of two segments."""
    with Log(shell.folder / "data", create=True) as log:
        for name, batches in (("small", 2), ("large", 7)):
            partition = log.partition(log.create_topic(name, 1, TopicSettings(segment_bytes=4096)), 0)
            for _ in range(batches):
                log.append(partition, encode([NewRecord(None, bytes(700), 0)], max_batch_bytes=1 << 20)).result(60)
    return shell


def flip(path: Path, at: int) -> None:
    """Damage one byte."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def only(shell: Shell, pattern: str) -> Path:
    """The first file below ./data that fits."""
    return min(shell.folder.glob(f"data/topics/*/0/{pattern}"), key=lambda path: (path.stat().st_size, path.name))


def test_a_sound_directory_exits_with_0_and_says_what_was_read(filled: Shell) -> None:
    done = filled.ok("verify")
    assert done.out == ""
    assert re.fullmatch(SUMMARY + "sound\n", done.err)
    assert "9 records" in filled.ok("verify", "--deep", "--data", "data").err
    assert filled.ok("verify", "small").err.startswith("1 partition, 1 segment, 2 batches")
    assert filled.ok("verify", "--json").out == ""


def test_damage_is_listed_a_line_each_and_exits_with_6(filled: Shell) -> None:
    log = only(filled, "*.log")
    flip(log, 100)
    only(filled, "*.index").unlink()
    done = filled.run("verify")
    assert done.code == 6
    index, batch = done.out.splitlines()
    assert re.fullmatch(rf"{re.escape(str(filled.folder))}/data/\S+\.index: is missing", index)
    assert batch.startswith(f"{log}: byte 0, offset 0: checksum is 0x")
    assert re.fullmatch(SUMMARY + "damaged in 2 places\n", done.err)
    [first, second] = filled.run("verify", "--json").json()
    assert (first["repairable"], second["repairable"]) == (True, False)
    assert second.pop("text").startswith("checksum is")
    assert second == {"path": str(log), "position": 0, "offset": 0, "severity": "damage", "repairable": False}


def test_repair_rebuilds_what_can_be_rebuilt(filled: Shell) -> None:
    index = only(filled, "*.index")
    original = index.read_bytes()
    index.write_bytes(b"?")
    assert filled.run("verify").code == 6
    done = filled.ok("verify", "--repair")
    assert done.out.startswith(f"{index}: its checksum")
    assert f"{index}: rebuilt; a copy is {filled.folder}/data/repair-" in done.err
    assert done.err.endswith("sound now\n")
    assert index.read_bytes() == original
    flip(only(filled, "*.log"), 90)
    index.unlink()
    done = filled.run("verify", "--repair")
    assert (done.code, done.err.splitlines()[-1]) == (6, "still damaged in 1 place")
    assert filled.run("verify", "--repair").code == 6


def test_repair_is_refused_while_somebody_has_the_directory_open(filled: Shell) -> None:
    only(filled, "*.index").unlink()
    with Log(filled.folder / "data"):
        done = filled.run("verify", "--repair")
    assert done.code == 5
    assert "cannot be repaired while process" in done.err


def test_without_a_directory_or_a_topic_verify_exits_with_4_and_makes_nothing(filled: Shell) -> None:
    done = filled.run("verify", "--data", "nowhere")
    assert (done.code, done.out) == (4, "")
    assert f"there is no data directory at {filled.folder / 'nowhere'}" in done.err
    assert not (filled.folder / "nowhere").exists()
    assert filled.run("verify", "nope").code == 4


def test_verify_runs_beside_a_worker(counted: Shell) -> None:
    assert "sound" in counted.ok("verify", "--deep").err


def test_the_bar_shows_how_much_has_been_read() -> None:
    shown: list[str] = []
    bar = Bar(SimpleNamespace(on=True, show=shown.append))
    bar.advance()
    run: Any = SimpleNamespace(bytes=25_000_000, total_bytes=100_000_000)
    bar.run = run
    bar.advance()
    bar.advance()
    assert shown == ["[#######.......................] 25 of 100 MB"]


def test_doctor_looks_at_the_machine_and_leaves_nothing_behind(filled: Shell) -> None:
    before = sorted((filled.folder / "data").rglob("*"))
    lines = filled.ok("doctor").out.splitlines()
    assert lines[0] == f"ok    data directory          {filled.folder / 'data'}"
    assert all(re.match(r"(ok|warn)  |\s+\S", line) for line in lines)
    rows = {row["name"]: row for row in filled.ok("doctor", "--json").json()}
    assert {"file system", "free space", "fdatasync", "open files limit", "clock", "boot id"} <= set(rows)
    assert {"python", "framework", "rocksdict", "aiokafka", "pydantic", "fastcrc"} <= set(rows)
    assert all(row["ok"] == (row["advice"] is None) for row in rows.values())
    assert rows["fdatasync"]["numbers"]["p50_ms"] > 0
    assert (
        "does not pay" in rows["fdatasync, preallocated"]["value"] or "pays" in rows["fdatasync, preallocated"]["value"]
    )
    assert sorted((filled.folder / "data").rglob("*")) == before


def test_doctor_works_where_nothing_is_yet(shell: Shell) -> None:
    [first, *_] = shell.ok("doctor", "--json", "--data", "not/yet").json()
    assert first["value"] == f"none yet; {shell.folder} is measured"
    assert list(shell.folder.iterdir()) == []


def test_doctor_warns_of_appends_from_the_future(shell: Shell) -> None:
    class Tomorrow:
        def now_ms(self) -> int:
            return 4_000_000_000_000

        def monotonic(self) -> float:
            return 0.0

    with Log(shell.folder / "data", create=True, clock=Tomorrow()) as log:
        partition = log.partition(log.create_topic("t", 1), 0)
        log.append(partition, encode([NewRecord(None, b"", 0)], max_batch_bytes=1024)).result(60)
    [row] = [row for row in shell.ok("doctor", "--json").json() if row["name"] == "clock"]
    assert not row["ok"]
    assert "the last append was at 2096-10-02T07:06:40Z" in row["value"]


def test_doctor_survives_a_damaged_directory(filled: Shell) -> None:
    (filled.folder / "data" / "shared").write_bytes(b"?" * 5000)
    [row] = [row for row in filled.ok("doctor", "--json").json() if row["name"] == "boot id"]
    assert row["advice"] == "shared does not begin as a shared file does: run framework verify"
