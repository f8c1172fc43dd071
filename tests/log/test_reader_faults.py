"""A reader whose disk or whose process fails for a moment: it says so, and the next read is as if nothing had been."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from framework.log import Files

CAUSES = [errno.EMFILE, errno.EIO]


class Failing(Files):
    """Files that cannot be opened, or read from, as often as a test says."""

    def __init__(self) -> None:
        self.opens_to_fail = self.reads_to_fail = 0
        self.cause = 0

    def open(self, path: Path, *, create: bool = False, write: bool = True) -> int:
        """A descriptor, if there is one."""
        if not write and path.suffix == ".log" and self.opens_to_fail:
            self.opens_to_fail -= 1
            raise OSError(self.cause, "not now")
        return super().open(path, create=create, write=write)

    def pread(self, fd: int, size: int, position: int) -> bytes:
        """What is there, if the disk gives it."""
        if self.reads_to_fail:
            self.reads_to_fail -= 1
            raise OSError(self.cause, "not now")
        return super().pread(fd, size, position)


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("offset", [0, 1, 5])
@pytest.mark.parametrize("what", ["opens_to_fail", "reads_to_fail"])
def test_a_read_that_failed_can_be_made_again(open_log: Any, append: Any, what: str, offset: int, cause: int) -> None:
    files = Failing()
    log = open_log(files=files)
    partition = log.partition(log.create_topic("t", 1), 0)
    for _ in range(3):
        append(log, partition, b"a", b"b")
    reader = log.reader(partition, offset)
    files.cause = cause
    for _ in range(2):
        setattr(files, what, 1)
        with pytest.raises(OSError, match="not now"):
            reader.read()
    fetched = reader.read()
    assert (fetched.batches[0][0].base_offset, fetched.next_offset) == (offset - offset % 2, 6)
    reader.close()
