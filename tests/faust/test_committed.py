"""What Faust commits is what our tools show, whenever its worker is stopped or killed."""

from __future__ import annotations

import json
import random

import orjson
import pytest

from tests.faust.stage import Stage, Worker

STEPS, PARTITIONS, MANY = 6, 3, 40_000
Places = dict[tuple[str, int], int]

pytestmark = pytest.mark.slow


class Commits:
    """A worker that forwards, with what it has noted of its commits beside what is shown."""

    def __init__(self, stage: Stage) -> None:
        """Makes the topics and starts it."""
        for topic in ("numbers", "copies"):
            stage.topic(topic, PARTITIONS)
        self._stage, self.copies, self.sent = stage, stage.watch("copies"), 0
        self._path = stage.folder / "commits"
        self.worker = self.start()

    def start(self) -> Worker:
        """Another one, which goes on with the same notes."""
        self.worker = self._stage.start("forward", "ada", COMMITS=str(self._path))
        return self.worker

    def send(self, count: int) -> None:
        """So many records more, to the partitions in turn."""
        for number in range(self.sent, self.sent + count):
            self._stage.send("numbers", [number], partition=number % PARTITIONS)
        self.sent += count

    def until_handled(self, count: int) -> None:
        """Until so many are forwarded."""
        self.copies.until(f"{count} copies", lambda: len(self.copies.different) >= count)

    def until_committed(self) -> None:
        """Until there is nothing left to commit, and the worker has noted the last of it."""
        self._stage.until_committed("forward", "numbers")
        ends = {("numbers", number): end for number, end in self._stage.ends("numbers").items()}
        self._stage.until("the notes of the last commit", lambda: ends.items() <= self.noted().items(), self.noted)

    def noted(self) -> Places:
        """What the worker took for committed last."""
        lines = self._path.read_text().splitlines(keepends=True) if self._path.exists() else []
        return {(topic, number): at for line in lines if line[-1] == "\n" for topic, number, at in json.loads(line)}

    def shown(self) -> Places:
        """What `framework groups show` says, which also has to know the ends."""
        rows = [json.loads(line) for line in self._stage.framework("groups", "show", "forward", "--json").splitlines()]
        ends = self._stage.ends("numbers")
        for row in rows:
            if row["topic"] == "numbers":
                assert row["end"] == ends[row["partition"]]
                assert row["lag"] == row["end"] - row["committed"]
        return {(row["topic"], row["partition"]): row["committed"] for row in rows}

    def check_between_noted_and_handled(self) -> None:
        """After a kill: the last commit may be one that its worker did not hear of, and never one too many."""
        noted, shown = self.noted(), self.shown()
        self.copies.now()
        for (topic, number), at in shown.items():
            if topic != "numbers":
                continue
            assert at >= noted.get((topic, number), 0)
            handled = all(orjson.dumps(offset * PARTITIONS + number) in self.copies.different for offset in range(at))
            assert handled, f"{topic}-{number} is committed up to {at}, which is not handled"


def test_what_faust_commits_is_what_groups_show_says(stage: Stage, seed: int) -> None:
    draw, commits = random.Random(seed), Commits(stage)
    for step in range(STEPS):
        before, count = commits.sent, draw.randint(1, 400)
        commits.send(count)
        what = draw.choice(["commit", "stop", "kill"]) if step else "commit"
        print(f"step {step}: {count} records, {what}")
        if what == "kill":
            commits.until_handled(before + draw.randint(0, count))
            stage.kill(commits.worker)
            commits.check_between_noted_and_handled()
            commits.start()
            continue
        commits.until_handled(commits.sent)
        commits.until_committed()
        if what == "stop":
            stage.stop(commits.worker)
        assert commits.shown() == commits.noted()
        if what == "stop":
            commits.start()
    commits.send(10)  # So that there is a worker again, which hears signals.
    commits.until_handled(commits.sent)
    commits.until_committed()
    stage.stop(commits.worker)
    assert commits.shown() == commits.noted()


def test_offsets_are_committed_while_records_keep_coming(stage: Stage) -> None:
    """A commit waits for what was sent before it, not for what is sent meanwhile and waits for company."""
    for topic in ("numbers", "copies"):
        stage.topic(topic, PARTITIONS)
    copies = stage.watch("copies")
    for partition in range(PARTITIONS):
        stage.send("numbers", range(partition, MANY, PARTITIONS), partition=partition)
    workers = [stage.start("forward", name, PRODUCER_LINGER="1.0") for name in ("ada", "grace")]
    copies.until("half of the copies", lambda: len(copies.different) > MANY // 2)
    committed = sum(stage.committed("forward", "numbers").values())
    for worker in workers:
        stage.kill(worker)
    assert committed > MANY // 10
