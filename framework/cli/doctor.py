"""`framework doctor`: is this machine fit for a data directory, and what does its disk do?"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from framework.cli.options import data_option, json_option

if TYPE_CHECKING:
    from framework.log.machine import Condition

MIN_FREE_BYTES, MIN_FREE_SHARE = 1 << 30, 0.05
MIN_OPEN_FILES = 1024
MAX_AHEAD_S = 60
REQUIRED = ("rocksdict", "aiokafka", "pydantic", "fastcrc")


@click.command()
@data_option
@json_option
def doctor(data: str | None, as_json: bool) -> None:
    """Look at the machine: disk, limits, clock, versions; each line is ok, or a warning with the way out.

    Where there is no data directory yet, the folder that it would be made in is measured. Nothing is left behind.

    JSON: {"name", "ok", "value", "advice", "numbers"}. The advice is null where all is well.
    """
    from framework.cli.output import cell, print_json

    place, directory = places(data)
    width = 24
    for condition in conditions(place, directory):
        ok = condition.advice is None
        if as_json:
            row = {"name": condition.name, "ok": ok, "value": condition.value, "advice": condition.advice}
            print_json({**row, "numbers": dict(condition.numbers)})
        else:
            advice = "" if ok else f"\n{'':{width + 6}}{condition.advice}"
            click.echo(f"{'ok' if ok else 'warn':4}  {condition.name:{width}}{cell(condition.value)}{advice}")


def places(data: str | None) -> tuple[Path, Path | None]:
    """Where to measure, and the data directory if there is one."""
    from framework.cli.directory import exists
    from framework.cli.verify import data_path
    from framework.log.errors import Error

    try:
        path = data_path(data)
    except Error as error:
        click.echo(f"framework: going on without the app: {error}", err=True)
        path = Path("data").absolute()
    place = next(parent for parent in (path, *path.parents) if parent.is_dir())
    return place, path if exists(path) else None


def conditions(place: Path, directory: Path | None) -> Iterator[Condition]:
    """Everything that is looked at, in the order of a reader's concern."""
    from framework.log.machine import Condition, file_system, sync_latency

    yield Condition("data directory", str(directory or f"none yet; {place} is measured"))
    yield file_system(place)
    yield _free_space(place)
    yield from sync_latency(place)
    yield _open_files()
    if sys.platform == "linux":
        yield _inotify(place)
    yield _clock(directory)
    yield _boot(directory)
    yield from _versions()


def _free_space(place: Path) -> Condition:
    from framework.log.machine import Condition

    usage = shutil.disk_usage(place)
    short = usage.free < MIN_FREE_BYTES or usage.free < MIN_FREE_SHARE * usage.total
    advice = "a full disk refuses appends: make room, or shorten the retention of large topics" if short else None
    value = f"{usage.free / 1e9:,.1f} of {usage.total / 1e9:,.1f} GB"
    return Condition("free space", value, advice, {"free_bytes": usage.free, "total_bytes": usage.total})


def _open_files() -> Condition:
    import resource

    from framework.log.machine import Condition

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft != resource.RLIM_INFINITY and soft < MIN_OPEN_FILES
    advice = f"raise it: ulimit -n {MIN_OPEN_FILES}, or LimitNOFILE= of the service" if few else None
    return Condition("open files limit", f"{soft} (at most {hard})", advice, {"soft": soft, "hard": hard})


def _inotify(place: Path) -> Condition:
    """Each process that has a directory open takes an instance for each of its doorbells."""
    from framework.log.doorbell import inotify
    from framework.log.machine import Condition

    limit, used = 0, 0
    with suppress(OSError, ValueError):
        limit = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            used += os.readlink(fd) == "anon_inode:inotify" and fd.parent.stat().st_uid == os.getuid()
    bell = inotify(place) if sys.platform == "linux" else -1
    polls = bell < 0 and sys.platform == "linux"
    if bell >= 0:
        os.close(bell)
    advice = "raise fs.inotify.max_user_instances with sysctl" if polls or used > 0.9 * limit else None
    if polls:
        advice = f"none is left, so processes wake up by polling: {advice}"
    return Condition("inotify instances", f"{used} of {limit}", advice, {"used": used, "limit": limit})


def _clock(directory: Path | None) -> Condition:
    """Append times never go back: one from the future holds until the clock has come there."""
    from framework.cli.output import iso
    from framework.log.machine import Condition
    from framework.log.outside import newest_append_second

    now = time.time()
    newest = newest_append_second(directory) if directory is not None else 0
    advice = None
    if newest > now + MAX_AHEAD_S:
        advice = "the clock went back, or was wrong then: until it has come there again, retention by age waits"
    value = iso(int(now)) + (f", the last append was at {iso(newest)}" if newest else "")
    return Condition("clock", value, advice, {"now": now, "newest_append": newest})


def _boot(directory: Path | None) -> Condition:
    from framework.log.machine import Condition, boot_id
    from framework.log.outside import SharedFile

    value = boot_id().hex()
    if directory is not None:
        file = SharedFile(directory / "shared")
        fault = file.fault()
        if fault is not None:
            return Condition("boot id", value, f"shared {fault[1]}: run framework verify")
        value += "" if file.trusted else "; the directory is of another boot, and is scanned when it is opened"
    return Condition("boot id", value)


def _versions() -> Iterator[Condition]:
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as version_of

    from framework.cli.version import version
    from framework.log.machine import Condition

    yield Condition("python", sys.version.split()[0])
    yield Condition("framework", version())
    for name in REQUIRED:
        try:
            yield Condition(name, version_of(name))
        except PackageNotFoundError:
            yield Condition(name, "not installed", f"pip install {name}")
