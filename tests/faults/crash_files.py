"""A file system whose power can be cut: the real files, and beside them the model of what the disk holds."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from framework.log import Files
from framework.log.shared import Shared
from tests.faults.log_disk import Cut, Directory, File, Mapped, Node
from tests.faults.points import kind_of


class Killed(BaseException):
    """The process is killed here; like a signal, it is no `Exception` that anybody handles."""


class CrashFiles(Files):
    """The real files below *root*, with `cut` for what is left of them; each operation tells `on_point` twice.

    Nothing is really synced: the power of the real disk stays on.
    """

    def __init__(self, root: Path) -> None:
        """What is in *root* is durable."""
        self.root = root
        self.tree = Directory()
        self.on_point: Callable[[str], None] = lambda point: None
        self.before_sync: Callable[[str], bool] = lambda site: True
        self.after_write: Callable[[str], None] = lambda kind: None
        self.before_change: Callable[[str], None] = lambda name: None
        self.changes = 0
        self.refused = False
        self.owed: set[int] = set()
        self.dead = False
        """Whether the process was killed: what its handlers and `finally` blocks still try is not done."""
        self._fds: dict[int, tuple[str, File | Mapped]] = {}
        self._load(root, self.tree)

    def cut(self, point: str) -> Cut:
        """What the disk could hold if the power went now."""
        self._notice_removed(self.root, self.tree)
        root = self.tree.frozen({})
        assert isinstance(root, Directory)
        return Cut(point, root)

    @contextmanager
    def _point(self, name: str) -> Iterator[None]:
        self._tell(f"before {name}")
        if not name.startswith("store"):  # Into a map, which no disk refuses.
            self.before_change(name)
        try:
            yield
        finally:
            self.changes += 1
        self._tell(f"after {name}")

    def _tell(self, point: str) -> None:
        if self.dead:
            raise Killed(point)
        self.on_point(point)

    # The seam.

    def open(self, path: Path, *, create: bool = False, write: bool = True) -> int:
        """Open, and remember which file it is."""
        directory = self._directory(path.parent)
        if create and path.name not in directory.names:
            with self._point(f"create {kind_of(path)}"):
                fd = super().open(path, create=create, write=write)
                node = Mapped() if path.name == "shared" else File()
                if isinstance(node, Mapped):
                    node.identity = (os.fstat(fd).st_ino, os.fstat(fd).st_dev)
                directory.change({path.name: node})
        else:
            fd = super().open(path, create=create, write=write)
        known = directory.names[path.name]
        assert not isinstance(known, Directory)
        self._fds[fd] = (kind_of(path), known)
        return fd

    def pwrite(self, fd: int, data: bytes | memoryview, position: int) -> None:
        """Write; durable after the next sync."""
        self.pwritev(fd, [data], position)

    def pwritev(self, fd: int, buffers: Sequence[bytes | bytearray | memoryview], position: int) -> int:
        """Write; durable after the next sync."""
        kind, file = self._fds[fd]
        data = b"".join(buffers)
        with self._point(f"write {kind}"):
            super().pwrite(fd, data, position)
            if isinstance(file, Mapped):
                file.store(position, data)
            else:
                file.pending.append((position, data))
            self.after_write(kind)
        return len(data)

    def truncate(self, fd: int, size: int) -> None:
        """Cut; durable after the next sync."""
        kind, file = self._fds[fd]
        assert isinstance(file, File)
        with self._point(f"truncate {kind}"):
            super().truncate(fd, size)
            file.pending.append((size, None))

    def fdatasync(self, fd: int) -> None:
        """Make the file durable, unless `before_sync` says no, or raises."""
        kind, file = self._fds[fd]
        with self._point(f"fdatasync {kind}"):
            try:
                self._sync(file, f"fdatasync {kind} in {_operation()}")
            except OSError:
                # The cache goes on showing what was to be synced, and the disk never gets it.
                assert isinstance(file, File)
                file.pending, self.refused = [], True
                raise

    def sync_directory(self, path: Path) -> None:
        """Make the names in *path* durable, unless `before_sync` says no."""
        directory = self._directory(path)
        self._notice_removed(path, directory)
        for child in path.iterdir():
            if child.is_dir() and child.name not in directory.names:  # Made past the seam, or by `mkdir`.
                directory.change({child.name: Directory()})
        with self._point(f"sync_directory {self._kind_of_directory(path)}"):
            self._sync(directory, f"sync_directory {self._kind_of_directory(path)} in {_operation()}")

    def mkdir(self, path: Path) -> None:
        """Make a directory."""
        with self._point("mkdir"):
            super().mkdir(path)  # Which calls `sync_directory`.

    def rename(self, source: Path, target: Path) -> None:
        """Rename; durable after the next sync of the directory."""
        assert source.parent == target.parent
        directory = self._directory(target.parent)
        with self._point(f"rename {kind_of(target)}"):
            super().rename(source, target)
            directory.change({source.name: None, target.name: directory.names[source.name]})

    def unlink(self, path: Path) -> None:
        """Unlink; durable after the next sync of the directory."""
        with self._point(f"unlink {kind_of(path)}"):
            super().unlink(path)
            self._directory(path.parent).change({path.name: None})

    # The model.

    def _notice_removed(self, path: Path, directory: Directory) -> None:
        """Directories are removed past the seam; that is pending like any other change of names."""
        for name, node in list(directory.names.items()):
            if isinstance(node, Directory):
                if (path / name).is_dir():
                    self._notice_removed(path / name, node)
                else:
                    directory.change({name: None})

    def _sync(self, node: Node, site: str) -> None:
        if self.before_sync(site):
            node.sync()
            self.owed.discard(id(node))
        else:
            self.owed.add(id(node))

    def store(self, path: Path, words: memoryview, at: int, value: int) -> None:
        """Store a 64-bit word of the shared file through its map."""
        node = self._directory(path.parent).names[path.name]
        assert isinstance(node, Mapped)
        with self._point("store shared"):
            words[at], self.refused = value, False
            node.store(8 * at, value.to_bytes(8, sys.byteorder))

    def _directory(self, path: Path) -> Directory:
        """The model of directory *path*; one that was made past the seam is pending."""
        here, place = self.tree, self.root
        for part in path.relative_to(self.root).parts:
            place /= part
            if part not in here.names:
                here.change({part: Directory()})
            found = here.names[part]
            assert isinstance(found, Directory), place
            here = found
        return here

    def _load(self, path: Path, directory: Directory) -> None:
        for child in path.iterdir():
            node: Node = Directory()
            if child.is_dir():
                assert isinstance(node, Directory)
                self._load(child, node)
            elif child.name == "shared":
                data, stat = child.read_bytes(), child.stat()
                node = Mapped(bytearray(data), {}, len(data), (stat.st_ino, stat.st_dev))
            else:
                node = File(child.read_bytes())
            directory.names[child.name] = node
        directory.sync()

    def _kind_of_directory(self, path: Path) -> str:
        parts = path.relative_to(self.root).parts
        if "data" not in parts:
            return "above data"
        return ("data", "topics", "topic", "partition")[len(parts) - 1 - parts.index("data")]


class Watched:
    """The words of a shared file's map; tells of every store."""

    def __init__(self, words: memoryview, path: Path, files: CrashFiles) -> None:
        self._words, self._path, self._files = words, path, files

    def __getitem__(self, at: Any) -> Any:
        return self._words[at]

    def __setitem__(self, at: int, value: int) -> None:
        self._files.store(self._path, self._words, at, value)

    def __len__(self) -> int:
        return len(self._words)


@contextmanager
def watched_stores() -> Iterator[None]:
    """Inside, stores through the maps of shared files that `CrashFiles` opened are points too."""
    map_file = Shared._map_file

    def watch(self: Shared) -> None:
        map_file(self)
        if isinstance(self.files, CrashFiles):
            self._words = Watched(self._words, self.path, self.files)  # type: ignore[assignment]

    with mock.patch.object(Shared, "_map_file", watch):
        yield


OPERATIONS = {
    ("log", "_make_directory"): "making the data directory",
    ("shared", "grow"): "making room for slots",
    ("shared", "adopt"): "adopting the boot",
    ("catalogue", "create"): "creating a topic",
    ("segments", "create"): "first append",
    ("partition", "_roll"): "roll",
    ("segments", "sync_names"): "another's segment",
    ("recovery", "_cut_append_times"): "cutting append times",
    ("writer", "cut_to"): "cutting what was killed",
    ("partition", "sync"): "commit",
    ("partition", "delete_records"): "deleting what is not synced",
    ("recovery", "recover_partition"): "recovery",
    ("recovery", "rebuild_partition"): "rebuild",
    ("recovery", "remove_garbage"): "removing garbage",
    ("segments", "start_at"): "moving the log start",
    ("segments", "put_compacted"): "putting a copy in place",
    ("compaction", "copy"): "copying",
    ("compaction", "compact"): "reserving generations",
    ("catalogue", "alter"): "altering a topic",
    ("catalogue", "remove"): "deleting a topic",
    ("opening", "remove_directory"): "removing a topic's files",
    ("opening", "_remove_deleted"): "finishing deletions",
}
"""What a sync belongs to, by module and function."""


def _operation() -> str:
    """What a sync belongs to: the innermost named operation that is going on, and the file that it replaces."""
    frame, more = sys._getframe(2), ""
    while frame.f_back is not None:
        module, function = frame.f_globals.get("__name__", "").rpartition(".")[2], frame.f_code.co_name
        if module == "files" and function == "replace":
            more = f" ({kind_of(frame.f_locals['path'])})"
        elif module == "segment" and function == "begin_segment":
            more = more or " (new)"
        elif (module, function) in OPERATIONS and frame.f_code.co_qualname != "Writer.sync":
            if function == "compact" and "keys" in frame.f_locals:
                return "noting how far it came" + more
            return OPERATIONS[module, function] + more
        frame = frame.f_back
    return "no known operation"
