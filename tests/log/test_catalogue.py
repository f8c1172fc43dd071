"""Topics: made once, seen by every process, and never in each other's slots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from framework.log import Files, TopicSettings
from framework.log.document import read_document, write_document
from framework.log.errors import Damaged, InvalidName, InvalidSetting, NewerFormat, TopicExists, UnknownTopic


def test_a_topic_is_there_with_its_settings_after_reopening(directory: Path, open_log: Any) -> None:
    with open_log() as log:
        made = log.create_topic("orders", 3, TopicSettings(segment_bytes=8192, retention_ms=-1))
    log = open_log(create=False)
    assert log.topics() == {"orders": made}
    assert made.partitions == 3
    assert log.topic("orders").settings == TopicSettings(segment_bytes=8192, retention_ms=-1)


def test_partitions_never_share_a_slot(open_log: Any) -> None:
    log = open_log()
    for count in (1, 300, 2, 7):
        log.create_topic(f"t{count}", count)
    slots = [slot for topic in log.topics().values() for slot in topic.slots]
    assert sorted(slots) == list(range(310))


def test_ids_differ_although_names_are_alike(tmp_path: Path, open_log: Any) -> None:
    ids = {open_log(tmp_path / name).create_topic("t", 1).id for name in "abc"}
    assert len(ids) == 3


def test_an_unknown_topic_is_named_with_where_it_was_looked_for(directory: Path, open_log: Any) -> None:
    with pytest.raises(UnknownTopic, match=f"no topic 'orders' in {directory}"):
        open_log().topic("orders")


def test_a_topic_of_the_same_name_is_refused_and_the_first_one_stays(open_log: Any) -> None:
    log = open_log()
    first = log.create_topic("orders", 3)
    with pytest.raises(TopicExists, match="'orders' exists, with 3 partitions"):
        log.create_topic("orders", 4)
    assert log.topics() == {"orders": first}


@pytest.mark.parametrize(("name", "count", "error"), [("a/b", 1, InvalidName), ("ok", 0, InvalidSetting)])
def test_what_kafka_would_not_take_is_refused_and_leaves_nothing(
    open_log: Any, name: str, count: int, error: type[Exception]
) -> None:
    log = open_log()
    with pytest.raises(error):
        log.create_topic(name, count)
    assert log.topics() == {}


def test_another_process_sees_a_new_topic_at_once(directory: Path, open_log: Any, child: Any) -> None:
    log = open_log()
    other = child("log = Log(sys.argv[1])\nwhile name := hear(): say(log.create_topic(name, 2).id)", directory)
    for name in ("first", "second"):
        assert name not in log.topics()
        other.say(name)
        topic_id = other.hear()
        assert log.topic(name).id == topic_id


@pytest.mark.slow
def test_two_processes_that_make_topics_at_once_lose_none(directory: Path, open_log: Any, child: Any) -> None:
    script = """
    log = Log(sys.argv[1])
    say("ready")
    hear()
    for number in range(25):
        log.create_topic(f"{sys.argv[2]}-{number}", 1 + number % 3)
    """
    log = open_log()
    makers = [child(script, directory, name) for name in "ab"]
    for maker in makers:
        assert maker.hear() == "ready"
    for maker in makers:
        maker.say()
    for maker in makers:
        maker.finish()
    topics = log.topics()
    assert set(topics) == {f"{name}-{number}" for name in "ab" for number in range(25)}
    slots = [slot for topic in topics.values() for slot in topic.slots]
    assert len(set(slots)) == len(slots)


@pytest.mark.slow
def test_a_topic_whose_maker_is_killed_at_any_step_is_there_or_not_and_can_be_made(
    tmp_path: Path, open_log: Any, child: Any
) -> None:
    script = """
    class Deadly(Files):
        left = -1
        def __getattribute__(self, name):
            if name in ("pwrite", "fdatasync", "rename", "sync_directory") and Deadly.left >= 0:
                if Deadly.left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                Deadly.left -= 1
            return super().__getattribute__(name)

    log = Log(sys.argv[1], create=True, files=Deadly())
    log.create_topic("before", 1)
    Deadly.left = int(sys.argv[2])
    log.create_topic("orders", 300)
    Deadly.left = -1
    say("made")
    """
    for steps in range(20):
        path = tmp_path / str(steps)
        said = child(script, path, steps).hear_rest()
        log = open_log(path)
        assert "before" in log.topics()
        if "orders" not in log.topics():
            assert not said
            log.create_topic("orders", 300)
        assert len(log.topic("orders").slots) == 300
        if said:
            break
    assert steps == 7, "two writes and two syncs, a rename, a directory, the ring"


def test_a_topic_that_could_not_be_announced_is_not_overwritten_by_the_next_one(open_log: Any, files: Any) -> None:
    """Its maker failed, or was killed, between the catalogue and the ring."""
    first, second = open_log(files=files), open_log()
    first.create_topic("before", 1)
    assert set(second.topics()) == {"before"}

    def fail(operation: str, path: Path) -> None:
        if operation == "pwrite" and path.name == "shared":
            files.before = lambda *_: None
            raise OSError(5, "Input/output error")

    files.before = fail
    with pytest.raises(OSError, match="Input/output error"):
        first.create_topic("quiet", 1)
    loud = second.create_topic("loud", 1)
    assert set(second.topics()) == set(first.topics()) == {"before", "quiet", "loud"}
    assert loud.slots not in (first.topic("quiet").slots, first.topic("before").slots)


def test_a_newer_catalogue_is_refused(directory: Path, open_log: Any) -> None:
    with open_log() as log:
        log.create_topic("orders", 1)
    body = read_document(directory / "catalogue", "catalogue", 1)
    write_document(Files(), directory / "catalogue", "catalogue", 2, {"topics": body["topics"]})
    with pytest.raises(NewerFormat, match="catalogue has format 2"):
        open_log(create=False)


def test_a_damaged_catalogue_is_refused_by_name(directory: Path, open_log: Any) -> None:
    with open_log() as log:
        log.create_topic("orders", 1)
    data = bytearray((directory / "catalogue").read_bytes())
    data[40] ^= 1
    (directory / "catalogue").write_bytes(data)
    with pytest.raises(Damaged, match=str(directory / "catalogue")):
        open_log(create=False)
