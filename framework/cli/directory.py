"""What a command works on: a data directory, and the app whose types say what is in it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from framework.discover import app_of_directory, find_app, load_app, named_app
from framework.log.errors import Error, NoDataDirectory, NotFound

if TYPE_CHECKING:
    from framework.app import App
    from framework.log import Log, TopicInfo
    from framework.state.view import StateView

DATA_VARIABLE = "FRAMEWORK_DATA"
T = TypeVar("T")


class Directory:
    """An open data directory."""

    def __init__(self, log: Log, app: App | None, exits: ExitStack) -> None:
        """*exits* closes it; *app* has *log* open, if there is one."""
        self.log, self.app, self.path = log, app, log.path
        self._exits = exits

    @cached_property
    def view(self) -> StateView:
        """The committed state."""
        from framework.state.view import StateView

        view = StateView(self.log)
        self._exits.callback(view.close)
        return view

    def topic(self, name: str) -> TopicInfo:
        """The topic *name*.

        Raises:
            NotFound: There is none; names those there are.
        """
        topics = self.log.topics()
        return topics[name] if name in topics else known("topic", name, visible(topics), f"in {self.path}")


def app_for_running(app_name: str | None, data: str | None) -> App:
    """The app of a command that cannot do without, told where its data is.

    Raises:
        AppNotFound, AppAmbiguous, AppBroken: There is no such app.
    """
    # By the environment, so that code of the app and the processes it starts see the same.
    if data:
        os.environ[DATA_VARIABLE] = str(Path(data).absolute())
    return find_app(app_name)


def app_for_reading(app_name: str | None, data: str | None) -> App | None:
    """The app if there is one, for its types and names.

    Data can be looked at while the app is broken: an app that -A does not insist on is left out with a
    warning, if the data directory is known without it.

    Raises:
        AppNotFound, AppAmbiguous, AppBroken: It is named, and cannot be had.
    """
    if data:
        os.environ[DATA_VARIABLE] = str(Path(data).absolute())
    value, origin = named_app(app_name)
    try:
        return load_app(value, origin) if value else app_of_directory()
    except Error as error:
        if origin == "-A" or not os.environ.get(DATA_VARIABLE):
            raise
        click.echo(f"framework: going on without the app: {error}", err=True)
        return None


@contextmanager
def opened(app: App | None, *, create: bool = False) -> Iterator[Directory]:
    """The data directory of *app*, or without one that of the environment, or ./data.

    Raises:
        NoDataDirectory: There is none, and *create* is false; with *create* it is made, and said so.
    """
    from framework.log import Log

    path = app.data if app is not None else Path(os.environ.get(DATA_VARIABLE) or "data").absolute()
    made = create and not exists(path)
    with ExitStack() as exits:
        try:
            if app is not None:
                log = app.open(path, create=create)
                exits.callback(app.close)
            else:
                log = exits.enter_context(Log(path, create=create))
        except NoDataDirectory as error:
            raise NoDataDirectory(f"{error}: say where it is with --data or {DATA_VARIABLE}") from error
        if made:
            click.echo(f"made the data directory {path}", err=True)
        yield Directory(log, app, exits)


@contextmanager
def reading(app_name: str | None, data: str | None) -> Iterator[Directory]:
    """The data directory of a command that only reads."""
    with opened(app_for_reading(app_name, data)) as directory:
        yield directory


def visible(topics: Mapping[str, T], *, internal: bool = False) -> dict[str, T]:
    """Those of *topics* that are a program's, or with *internal* all of them."""
    from framework.log.settings import INTERNAL

    return {name: topic for name, topic in topics.items() if internal or not name.startswith(INTERNAL)}


def exists(path: Path) -> bool:
    """Whether there is a data directory at *path*."""
    return (path / "shared").exists() or (path / "catalogue").exists()


def known(kind: str, name: str, things: Mapping[str, T], where: str) -> T:
    """The one of *things* that is called *name*.

    Raises:
        NotFound: There is none; names those there are.
    """
    if name not in things:
        there = f"there are {', '.join(sorted(things))}" if things else "there are none"
        raise NotFound(f"there is no {kind} {name!r} {where}; {there}")
    return things[name]
