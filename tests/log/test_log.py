"""An open data directory: made once, shared by any number of processes, refused after a fork."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import pytest

from framework.log import Log, NewRecord, TopicSettings, encode
from framework.log.errors import Error, NoDataDirectory, UnknownTopic
from framework.log.locks import OPEN_LOCK

FORKED = """
log = Log(sys.argv[1], create=True)
partition = log.partition(log.create_topic("t", 1), 0)
if sys.argv[2] == "after an append":
    log.append(partition, batches(b"before")).result(60)
reader = log.reader(partition, 0)

def answer(call):
    try:
        result = call()
    except Exception as error:
        return type(error).__name__
    if not hasattr(result, "exception"):
        return "done"
    # Without a thread that could answer, waiting would never end.
    if threading.active_count() == 1 and not result.done():
        return "never answered"
    return type(result.exception(60)).__name__

calls = {
    "append": lambda: log.append(partition, batches(b"child")),
    "sync": lambda: log.sync(partition),
    "create": lambda: log.create_topic("child", 1),
    "topics": lambda: log.topics(),
    "partition": lambda: log.partition(partition.topic, 0),
    "reader": lambda: log.reader(partition, 0),
}
pid = os.fork()
if not pid:
    for name, call in calls.items():
        say(name, answer(call))
    say("close", answer(log.close))
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
say("parent", log.append(partition, batches(b"parent")).result(60))
"""


def values(records: list[Any]) -> list[bytes]:
    """The values of *records*, whose offsets must be dense from 0."""
    assert [record.offset for record in records] == list(range(len(records)))
    return [record.value for record in records]


# Opening.


def test_a_directory_that_is_not_there_is_refused_and_not_made(directory: Path) -> None:
    with pytest.raises(NoDataDirectory, match=f"there is no data directory at {directory}"):
        Log(directory)
    assert not directory.exists()


def test_a_directory_that_holds_something_else_is_refused_and_left_alone(directory: Path) -> None:
    directory.mkdir()
    (directory / "notes.txt").write_text("mine")
    with pytest.raises(NoDataDirectory):
        Log(directory)
    assert [path.name for path in directory.iterdir()] == ["notes.txt"]


def test_a_directory_is_made_when_asked_with_its_parents(directory: Path, open_log: Any) -> None:
    with open_log(directory / "deep" / "down") as log:
        assert log.path == directory / "deep" / "down"
    assert open_log(directory / "deep" / "down", create=False).topics() == {}


def test_a_relative_path_is_made_absolute_at_once(tmp_path: Path, open_log: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    log = open_log("data")
    monkeypatch.chdir("/")
    log.create_topic("t", 1)
    assert log.path == tmp_path / "data"
    assert (tmp_path / "data" / "catalogue").exists()


def test_a_file_in_place_of_the_directory_is_a_clear_error(directory: Path) -> None:
    directory.write_text("not a directory")
    with pytest.raises(Error, match=f"cannot open the data directory {directory}"):
        Log(directory, create=True)


def test_a_log_opened_twice_in_a_process_is_one_log_until_both_are_closed(
    open_log: Any, append: Any, read_all: Any
) -> None:
    first, second = open_log(), open_log()
    assert first.shared is second.shared
    topic = first.create_topic("t", 1)
    assert append(first, first.partition(topic, 0), b"first") == 0
    assert append(second, second.partition(topic, 0), b"second") == 1
    first.close()
    assert append(second, second.partition(topic, 0), b"third") == 2
    assert values(read_all(second, second.partition(topic, 0))) == [b"first", b"second", b"third"]


def test_a_process_that_makes_the_directory_does_not_wipe_what_another_made_first(
    directory: Path, open_log: Any, append: Any, child: Any
) -> None:
    """Both find an empty file; one is slow, and writes its zeros when the other is already at work."""
    script = """
    class Slow(Files):
        def pwrite(self, fd, data, position):
            if not Slow.waited:
                Slow.waited = True
                say("about to write")
                hear()
            super().pwrite(fd, data, position)
    Slow.waited = False
    log = Log(sys.argv[1], create=True, files=Slow())
    say(sorted(log.topics()))
    """
    slow = child(script, directory)
    assert slow.hear() == "about to write"
    if holds_open_lock(directory):
        slow.say()  # Nobody can come first.
        assert slow.hear() == "[]"
        open_log().create_topic("t", 1)
    else:
        open_log().create_topic("t", 1)
        slow.say()
        assert slow.hear() == "['t']"
    slow.finish()


def holds_open_lock(directory: Path) -> bool:
    """Whether some process is just opening the directory; this one must not have it open."""
    with (directory / "shared").open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, OPEN_LOCK)
        except BlockingIOError:
            return True
    return False


# Many processes.


@pytest.mark.slow
def test_two_processes_append_to_one_partition_at_once(
    directory: Path, open_log: Any, read_all: Any, child: Any
) -> None:
    """Every record is there once, offsets have no gap, each process's records are in its order, through rolls."""
    script = """
    log = Log(sys.argv[1])
    partition = log.partition(log.topic("t"), 0)
    log.sync(partition).result(60)
    say("ready")
    hear()
    name, futures = sys.argv[2], []
    for at in range(400):
        futures.append((at, log.append(partition, batches(f"{name} {at}".encode().ljust(300)))))
        if at % 7 == 0:
            futures[-1][1].result(60)
    say(*(future.result(60) for _, future in futures))
    """
    log = open_log()
    partition = log.partition(log.create_topic("t", 1, TopicSettings(segment_bytes=16384)), 0)
    writers = {name: child(script, directory, name) for name in ("a", "b")}
    for writer in writers.values():
        assert writer.hear() == "ready"
    for writer in writers.values():
        writer.say()
    offsets = {name: [int(word) for word in writer.hear().split()] for name, writer in writers.items()}
    found = [value.decode().split() for value in values(read_all(log, partition))]
    assert len(found) == 800
    for name, own in offsets.items():
        assert own == sorted(own)
        assert [found[offset] for offset in own] == [[name, str(at)] for at in range(400)]
    assert len(partition.segments()) > 10
    switches = sum(found[at][0] != found[at + 1][0] for at in range(799))
    print(f"the two alternated {switches} times")


@pytest.mark.slow
def test_processes_that_append_to_different_partitions_of_a_new_topic_do_not_meet(
    directory: Path, open_log: Any, read_all: Any, child: Any
) -> None:
    script = """
    log = Log(sys.argv[1])
    topics = [log.topic(f"t{number}") for number in range(30)]
    say("ready")
    hear()
    for topic in topics:
        say(log.append(log.partition(topic, int(sys.argv[2])), batches(b"value")).result(60))
    """
    log = open_log()
    for number in range(30):
        log.create_topic(f"t{number}", 2)
    writers = [child(script, directory, number) for number in range(2)]
    for writer in writers:
        assert writer.hear() == "ready"
    for writer in writers:
        writer.say()
    for writer in writers:
        assert writer.hear_rest() == ["0"] * 30
    for topic in log.topics().values():
        for number in range(2):
            assert values(read_all(log, log.partition(topic, number))) == [b"value"]


@pytest.mark.slow
def test_a_reader_in_another_process_is_woken_and_misses_nothing(directory: Path, open_log: Any, child: Any) -> None:
    """It sleeps until the doorbell rings, for up to a minute: a ring that is lost fails the test."""
    script = """
    log = Log(sys.argv[1])
    bell, partition = log.doorbell(), log.partition(log.topic("t"), 0)
    reader = log.reader(partition, 0)
    say("ready")
    while reader.offset < 200:
        fetched = reader.read()
        if not fetched.batches:
            bell.wait(50)
            continue
        for _, batch in fetched.batches:
            for record in decode(batch):
                say(record.offset, record.value.decode().strip())
    """
    log = open_log()
    partition = log.partition(log.create_topic("t", 1), 0)
    reader = child(script, directory)
    assert reader.hear() == "ready"
    for at in range(200):
        log.append(partition, encode([NewRecord(None, b"%d" % at, 0)], max_batch_bytes=1024))
        if at % 3 == 0:
            while reader.hear() != f"{at} {at}":
                pass
    assert reader.hear_rest()[-1] == "199 199"


def test_unknown_topics_and_partitions_are_refused(open_log: Any) -> None:
    log = open_log()
    topic = log.create_topic("t", 2)
    with pytest.raises(UnknownTopic):
        log.topic("T")
    with pytest.raises(Error, match="partitions 0 to 1, not 2"):
        log.partition(topic, 2)
    assert log.partition(topic, 1) is log.partition(log.topic("t"), 1)


# After a fork.


@pytest.mark.parametrize("when", ["after an append", "before any"])
def test_a_log_that_was_open_at_a_fork_is_refused_in_the_child(directory: Path, child: Any, when: str) -> None:
    """Locks and the committer's thread stay with the parent, which goes on."""
    said = dict(line.split(maxsplit=1) for line in child(FORKED, directory, when).hear_rest())
    for name in ("append", "sync", "create", "topics", "partition", "reader"):
        assert said[name] == "OpenAfterFork", said
    assert said["close"] == "done"
    assert int(said["parent"]) == (1 if when == "after an append" else 0)


def test_a_forked_child_may_open_the_directory_anew_and_its_parent_keeps_its_locks(
    directory: Path, child: Any, open_log: Any, read_all: Any
) -> None:
    script = """
    from framework.log.locks import SHARD_LOCK
    log = Log(sys.argv[1], create=True)
    partition = log.partition(log.create_topic("t", 1), 0)
    log.append(partition, batches(b"parent")).result(60)
    assert log.shared.try_own(SHARD_LOCK) is None
    parent = os.getpid()
    if not os.fork():
        with Log(sys.argv[1]) as mine:
            say(mine.append(mine.partition(mine.topic("t"), 0), batches(b"child")).result(60))
            say(mine.shared.try_own(SHARD_LOCK) == parent)
        os._exit(0)
    assert os.wait()[1] == 0
    say(log.append(partition, batches(b"parent again")).result(60))
    """
    assert child(script, directory).hear_rest() == ["1", "True", "2"]
    log = open_log()
    assert values(read_all(log, log.partition(log.topic("t"), 0))) == [b"parent", b"child", b"parent again"]
