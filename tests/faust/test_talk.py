"""Agents that are asked, by their own worker and by a command in another process, and streams taken a few at a time."""

from __future__ import annotations

import pytest

from tests.faust.stage import Stage

pytestmark = pytest.mark.slow


def test_agents_answer_and_streams_are_taken_a_few_at_a_time(stage: Stage) -> None:
    for topic in ("words", "taken", "asked", "doubled"):
        stage.topic(topic, 1)
    words = [f"word {number}" for number in range(12)]
    stage.send("words", words)
    taken, asked = stage.watch("taken"), stage.watch("asked")
    worker = stage.start("talk", "ada")
    taken.until("all words", lambda: sum(map(len, taken.values())) == len(words))
    assert [word for some in taken.values() for word in some] == words
    assert [len(some) for some in taken.values()] == [5, 5, 2]

    asked.until("what the worker asked", lambda: len(asked.records) == 1)
    assert asked.values() == [[42, [2, 4, 6]]]
    command = stage.run("talk", "command", "twice", "21")
    stage.ended(command)
    assert command.wait() == 0, command.said()
    assert "twice 21 is 42" in command.said()
    stage.stop(worker)
