"""Opening a directory: file systems that cannot hold a log, and damage that keeps nobody from the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from framework.log import Log, Partition, TopicSettings
from framework.log.errors import Damaged, NoDataDirectory, UnsafeFileSystem
from framework.log.machine import mount_of
from framework.log.opening import UNSAFE_VARIABLE
from framework.log.shared import DAMAGED
from framework.log.verify import Verification
from tests.log.compacted_log import scratch

SMALL = TopicSettings(segment_bytes=4096)


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where the data directory of a test is, in memory if that can be: no disk is under test."""
    with scratch() as path:
        yield path


# File systems.


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment allows nothing."""
    monkeypatch.delenv(UNSAFE_VARIABLE, raising=False)


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Path]]:
    """Has everything lie on a file system of a kind; the places that were asked about."""

    def mount(kind: str) -> list[Path]:
        asked = list[Path]()

        def answer(place: Path) -> tuple[str, Path]:
            asked.append(place)
            return kind, Path("/mnt/far")

        monkeypatch.setattr("framework.log.opening.mount_of", answer)
        return asked

    return mount


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuse", "virtiofs", "ceph"])
def test_what_other_kernels_may_write_to_is_refused_with_two_ways_out(directory: Path, mounted: Any, kind: str) -> None:
    mounted(kind)
    with pytest.raises(UnsafeFileSystem) as refused:
        Log(directory, create=True)
    assert str(refused.value) == (
        f"{directory} is on {kind}, mounted at /mnt/far: the maps and locks by which processes share a log do not hold "
        "there. Use a local disk; or, if only one process will ever use it, --unsafe-filesystem or "
        "FRAMEWORK_UNSAFE_FILESYSTEM=1"
    )
    assert refused.value.exit_code == 5
    assert not directory.exists()


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "apfs", "overlay", "tmpfs", ""])
def test_a_local_file_system_is_taken(directory: Path, mounted: Any, open_log: Any, kind: str) -> None:
    mounted(kind)
    open_log()
    assert directory.exists()


@pytest.mark.parametrize(
    ("parameter", "variable", "refused"),
    [
        (None, None, True),
        (None, "1", False),
        (None, "0", True),
        (None, "", True),
        (True, None, False),
        (True, "0", False),
        (False, "1", True),
    ],
)
def test_the_parameter_decides_and_without_it_the_environment(
    directory: Path, mounted: Any, monkeypatch: pytest.MonkeyPatch, parameter: Any, variable: str | None, refused: bool
) -> None:
    mounted("nfs4")
    if variable is not None:
        monkeypatch.setenv(UNSAFE_VARIABLE, variable)
    if refused:
        with pytest.raises(UnsafeFileSystem):
            Log(directory, create=True, unsafe_filesystem=parameter)
    else:
        Log(directory, create=True, unsafe_filesystem=parameter).close()
    assert directory.exists() == (not refused)


def test_a_directory_that_moved_to_such_a_file_system_is_not_opened_and_not_changed(
    directory: Path, mounted: Any, open_log: Any, append: Any
) -> None:
    with open_log() as log:
        append(log, log.partition(log.create_topic("t", 1), 0), b"value")
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    mounted("nfs4")
    with pytest.raises(UnsafeFileSystem):
        Log(directory)
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


def test_the_place_that_a_link_leads_to_counts_and_of_a_new_one_its_nearest_parent(
    tmp_path: Path, mounted: Any
) -> None:
    asked = mounted("ext4")
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for path in (tmp_path / "link" / "a" / "data", tmp_path / "link"):
        Log(path, create=True).close()
        assert asked.pop() == tmp_path.resolve() / "there"


def test_the_file_system_is_looked_at_before_whether_there_is_a_log(directory: Path, mounted: Any) -> None:
    mounted("nfs4")
    with pytest.raises(UnsafeFileSystem):
        Log(directory)
    mounted("ext4")
    with pytest.raises(NoDataDirectory):
        Log(directory)


def test_the_last_mount_that_holds_a_place_is_the_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With blanks in its name, and beside one whose name begins alike."""
    lines = """\
21 1 8:1 / / rw - ext4 /dev/sda rw
22 21 0:5 / /mnt/a\\040b rw,relatime shared:1 - nfs4 far:/x rw
23 21 0:6 / /mnt/a\\040b/inner rw - xfs /dev/sdb rw
24 21 0:7 / /mnt/a rw - fuse.sshfs me@far rw
25 22 0:8 / /mnt/a\\040b/inner rw - tmpfs none rw
"""
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(Path, "read_text", lambda self: lines)
    assert mount_of(Path("/mnt/a b/data")) == ("nfs4", Path("/mnt/a b"))
    assert mount_of(Path("/mnt/a b/inner/data")) == ("tmpfs", Path("/mnt/a b/inner"))
    assert mount_of(Path("/mnt/ab")) == ("ext4", Path("/"))
    assert mount_of(Path("/mnt/a")) == ("fuse.sshfs", Path("/mnt/a"))


# Damage.


@pytest.fixture
def three(directory: Path, open_log: Any, append: Any) -> list[Path]:
    """Topics a and b of two partitions with two segments each; the directories of a-0, a-1 and b-0."""
    with open_log() as log:
        topics = [log.create_topic(name, 2, SMALL) for name in "ab"]
        for topic in topics:
            for number in range(2):
                for at in range(6):
                    append(log, log.partition(topic, number), b"%d" % at + bytes(1000))
        return [directory / "topics" / topics[at].id / str(number) for at, number in ((0, 0), (0, 1), (1, 0))]


def short_segment(place: Path) -> Path:
    """Cut the active segment of the partition in *place* in half; the file."""
    path = max(place.glob("*.log"))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    return path


def missing_segment(place: Path) -> Path:
    """Remove the active segment."""
    path = max(place.glob("*.log"))
    path.unlink()
    return path


def missing_manifest(place: Path) -> Path:
    """Remove the manifest."""
    (place / "manifest").unlink()
    return place / "manifest"


def torn_manifest(place: Path) -> Path:
    """Overwrite the middle of the manifest."""
    data = (place / "manifest").read_bytes()
    (place / "manifest").write_bytes(data[:20] + bytes(20) + data[40:])
    return place / "manifest"


def newer_manifest(place: Path) -> Path:
    """A manifest of a version to come."""
    from framework.log import Files
    from framework.log.document import write_document

    write_document(Files(), place / "manifest", "manifest", 99, {})
    return place / "manifest"


DAMAGES = [short_segment, missing_segment, missing_manifest, torn_manifest, newer_manifest]


def values(log: Log, partition: Partition) -> list[bytes]:
    """The first bytes of every value."""
    return [(record.value or b"")[:1] for _, record in log.read(partition.topic.name, partitions=[partition.number])]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_partition_is_named_and_the_others_are_served(
    directory: Path, three: list[Path], open_log: Any, append: Any, reboot: Any, caplog: Any, damage: Any
) -> None:
    path = damage(three[1])
    reboot()
    with open_log() as log:
        [said] = [record for record in caplog.records if record.levelname == "ERROR"]
        assert said.getMessage().startswith("a-1 is damaged and takes no appends: ")
        assert str(path if path.name != "manifest" else path.parent) in said.getMessage()
        bad = log.partition(log.topic("a"), 1)
        for name, number in (("a", 0), ("b", 0), ("b", 1)):
            good = log.partition(log.topic(name), number)
            assert values(log, good) == [b"%d" % at for at in range(6)]
            assert append(log, good, b"6") == 6
        for call in (lambda: append(log, bad, b"6"), lambda: log.sync(bad).result(60), lambda: values(log, bad)):
            with pytest.raises((Damaged, OSError)):
                call()
        assert log.shared.flags(bad.slot) & DAMAGED
        log.retain()
    assert any(str(path) in str(finding) for finding in Verification(directory, deep=True).findings())


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("openings", [0, 1, 3])
def test_what_was_put_back_is_taken_into_use_again(
    directory: Path, three: list[Path], open_log: Any, append: Any, reboot: Any, damage: Any, openings: int
) -> None:
    """By the next that opens it alone, however often it was opened meanwhile and in whatever start of the machine."""
    whole = {path: path.read_bytes() for path in three[1].iterdir()}
    damage(three[1])
    for _ in range(openings):
        reboot()
        open_log().close()
        open_log().close()
    for path, data in whole.items():
        path.write_bytes(data)
    with open_log() as log:
        partition = log.partition(log.topic("a"), 1)
        assert append(log, partition, b"6") == 6
        assert values(log, partition) == [b"%d" % at for at in range(7)]
    assert list(Verification(directory, deep=True).findings()) == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_partition_can_be_deleted_with_its_topic(
    directory: Path, three: list[Path], open_log: Any, append: Any, reboot: Any, damage: Any
) -> None:
    damage(three[1])
    reboot()
    with open_log() as log:
        log.delete_topic("a")
        assert append(log, log.partition(log.create_topic("a", 2), 1), b"new") == 0
    assert not three[1].exists()
    assert list(Verification(directory, deep=True).findings()) == []


def test_every_partition_may_be_damaged_and_the_directory_opens(
    directory: Path, three: list[Path], open_log: Any, append: Any, reboot: Any
) -> None:
    for place, damage in zip(three, DAMAGES, strict=False):
        damage(place)
    reboot()
    with open_log() as log:
        assert sorted(log.topics()) == ["a", "b"]
        assert append(log, log.partition(log.create_topic("new", 1), 0), b"served") == 0
        bad = [log.partition(log.topic(name), number) for name, number in (("a", 0), ("a", 1), ("b", 0))]
        for partition in bad:
            with pytest.raises((Damaged, OSError)):
                append(log, partition, b"refused")


@pytest.mark.parametrize("damage", [short_segment, missing_segment])
def test_what_stands_before_the_damage_can_be_read(
    directory: Path, three: list[Path], open_log: Any, reboot: Any, damage: Any
) -> None:
    damage(three[0])
    reboot()
    with open_log() as log:
        cursor = log.read("a", partitions=[0])
        assert [record.offset for _, record in cursor.take(3)] == [0, 1, 2]


def test_other_processes_do_not_wait_for_a_damaged_partition(
    directory: Path, three: list[Path], open_log: Any, append: Any, reboot: Any, child: Any
) -> None:
    """One that comes while it is open, and does not recover, is told the same."""
    short_segment(three[0])
    reboot()
    with open_log():
        process = child(
            """
            with Log(Path(sys.argv[1])) as log:
                topic = log.topic("a")
                say(log.append(log.partition(topic, 1), batches(b"6")).result())
                try:
                    log.append(log.partition(topic, 0), batches(b"6")).result()
                except Damaged as error:
                    say(error)
            """,
            directory,
        )
        assert process.hear() == "6"
        assert process.hear().startswith("a-0 has lost what was durable and takes no appends")
        process.finish()
