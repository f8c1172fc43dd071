"""Finding the app a command is about.

In this order, and the first that says something decides:

    -A VALUE, FRAMEWORK_APP, [tool.framework] app in pyproject.toml     named by the user
    app.py, main.py in the working directory                            the only `App` in them

    value = (module | path to a .py file) [":" name of the App in it]

The working directory, and the folder of a file that is named by its path, go to the end of `sys.path` and
never to its front: a user's own `log.py` or `queue.py` must not hide the modules of others.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import tomllib
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from framework.errors import AppNotFound
from framework.log.errors import Error, UsageError

if TYPE_CHECKING:
    from framework.app import App

APP_VARIABLE = "FRAMEWORK_APP"
FILES = ("app.py", "main.py")
WAYS = f"-A module:app, -A path/to/file.py, {APP_VARIABLE}, or [tool.framework] app in pyproject.toml"
_VALUE = re.compile(r"(?P<place>[^:]+)(:(?P<name>[^:]+))?")
_OURS = tuple(str((Path(__file__).parent / folder).resolve()) + os.sep for folder in ("", "log", "state", "operators"))


class AppAmbiguous(UsageError):
    """There are several apps where one was looked for."""


class AppBroken(Error):
    """The module of the app cannot be imported; exits as the error that it raised would."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        """*text* names the module, the error and the line."""
        super().__init__(text)
        self.exit_code = exit_code


def find_app(named: str | None = None) -> App:
    """The app that *named*, the environment, `pyproject.toml` or the working directory gives.

    Raises:
        AppNotFound, AppAmbiguous: There is none, or more than one.
        AppBroken: Its module cannot be imported.
    """
    value, origin = named_app(named)
    app = load_app(value, origin) if value else app_of_directory()
    if app is None:
        raise AppNotFound(f"there is no app in {' or '.join(FILES)} of {Path.cwd()}: name one with {WAYS}")
    return app


def named_app(named: str | None = None) -> tuple[str | None, str]:
    """What the user calls the app, and where it says so; None if nowhere."""
    if named:
        return named, "-A"
    if os.environ.get(APP_VARIABLE):
        return os.environ[APP_VARIABLE], APP_VARIABLE
    path = Path.cwd() / "pyproject.toml"
    if path.is_file():
        try:
            tools = tomllib.loads(path.read_text("utf-8")).get("tool", {})
        except ValueError as error:
            raise UsageError(f"{path} cannot be read: {error}") from error
        value = tools.get("framework", {}).get("app")
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{path}: [tool.framework] app is {value!r}, it must be a text like 'module:app'")
        return value, str(path)
    return None, ""


def load_app(value: str, origin: str = "-A") -> App:
    """The app called *value*, as *origin* says.

    Raises:
        AppNotFound, AppAmbiguous: There is none, or more than one.
        AppBroken: Its module cannot be imported.
    """
    match = _VALUE.fullmatch(value)
    if match is None:
        raise AppNotFound(f"{origin} {value!r}: write module:app or path/to/file.py:app")
    place, name = match["place"], match["name"]
    said = f"{origin} {value!r}"
    _append_to_path(Path.cwd())
    by_path = place.endswith(".py") or os.sep in place
    # A file of this name beside the user is meant, whatever else on the Python path is called so.
    path = Path(place if by_path else f"{place}.py").absolute()
    if by_path and not path.is_file():
        raise AppNotFound(f"{said}: there is no file {path}")
    module = import_file(path) if path.is_file() else _import_module(place, said)
    return _named_in(module, name, said) if name else _only_one(module, place, said)


def app_of_directory() -> App | None:
    """The only app in app.py and main.py of the working directory, None if there is none.

    A file that does not mention the framework is not imported: it may be any program's.

    Raises:
        AppAmbiguous: There are several.
        AppBroken: One of the files cannot be imported.
    """
    found: dict[str, App] = {}
    _append_to_path(Path.cwd())
    for path in (Path.cwd() / file for file in FILES):
        if path.is_file() and b"framework" in path.read_bytes():
            found |= _apps_in(import_file(path), path.name, known=found.values())
    if len(found) > 1:
        raise _ambiguous(str(Path.cwd()), found)
    return next(iter(found.values()), None)


# In a module.


def _named_in(module: ModuleType, name: str, said: str) -> App:
    from framework.app import App

    value: object = module
    for part in name.split("."):
        value = getattr(value, part, None)
        if value is None:
            apps = _apps_in(module, "")
            there = f"its Apps are called {', '.join(apps)}" if apps else "nor any App"
            raise AppNotFound(f"{said}: there is no {name!r} in {_shown(module)}; {there}")
    if not isinstance(value, App):
        raise AppNotFound(f"{said}: {name!r} in {_shown(module)} is of type {type(value).__name__}, not an App")
    return value


def _only_one(module: ModuleType, place: str, said: str) -> App:
    apps = _apps_in(module, place)
    if not apps:
        raise AppNotFound(f"{said}: there is no App in {_shown(module)}")
    if len(apps) > 1:
        raise _ambiguous(said, apps)
    return next(iter(apps.values()))


def _apps_in(module: ModuleType, place: str, *, known: Iterable[App] = ()) -> dict[str, App]:
    """The apps among the names of *module*, each once, by what -A would call them."""
    from framework.app import App

    seen, apps = list(known), dict[str, App]()
    for name, value in vars(module).items():
        if isinstance(value, App) and value not in seen:
            apps[f"{place}:{name}" if place else name] = value
            seen.append(value)
    return apps


def _ambiguous(said: str, apps: Iterable[str]) -> AppAmbiguous:
    values = list(apps)
    ways = " or ".join(f"-A {value}" for value in values)
    return AppAmbiguous(f"{said}: there are {len(values)} Apps; say which one with {ways}")


def _shown(module: ModuleType) -> str:
    return _shown_path(module.__file__) if module.__file__ else module.__name__


def _shown_path(file: str) -> str:
    """*file* as the user would write it: relative where it lies below the working directory."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


# Importing.


def _append_to_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _import_module(name: str, said: str) -> ModuleType:
    try:
        return _guarded(lambda: importlib.import_module(name), name)
    except AppBroken as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and missing.name and f"{name}.".startswith(f"{missing.name}."):
            raise AppNotFound(
                f"{said}: there is no module {missing.name!r} in {Path.cwd()} or on the Python path"
            ) from (missing)
        raise


def import_file(path: Path) -> ModuleType:
    """The module in *path*; under its own name if that leads to it, so that nobody loads it twice.

    Raises:
        AppBroken: It cannot be imported.
    """
    root, name = path.parent, path.stem
    while (root / "__init__.py").is_file():
        root, name = root.parent, f"{root.name}.{name}"
    _append_to_path(root)

    def importing() -> ModuleType:
        spec = importlib.util.find_spec(name) if all(map(str.isidentifier, name.split("."))) else None
        if spec is not None and spec.origin is not None and Path(spec.origin).exists() and path.samefile(spec.origin):
            return importlib.import_module(name)
        return _import_as("framework_app_" + re.sub(r"\W", "_", path.stem), path)

    return _guarded(importing, _shown_path(str(path)))


def _import_as(name: str, path: Path) -> ModuleType:
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path):
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, f"{path} is no Python file"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Registered, because pydantic and `typing` look the module of a class up by its name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _guarded(importing: Callable[[], ModuleType], shown: str) -> ModuleType:
    """What *importing* gives; whatever a user's module raises becomes one line that says where.

    Raises:
        AppBroken: It raised.
    """
    try:
        return importing()
    except Error as error:
        raise AppBroken(f"{_line_of(error)}: {error}", error.exit_code) from error
    except SystemExit as error:
        raise AppBroken(
            f"{shown} ends the program when it is imported, at {_line_of(error)}: "
            'put what it runs below `if __name__ == "__main__":`'
        ) from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"
        raise AppBroken(f"cannot import {shown}: {reason} ({_line_of(error)})") from error


def _line_of(error: BaseException) -> str:
    """`file:line` of the last line that *error* came through, not counting this package and `importlib`."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shown_path(error.filename)}:{error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen ") and not str(Path(frame.filename).resolve()).startswith(_OURS)
    ]
    return f"{_shown_path(frames[-1].filename)}:{frames[-1].lineno}" if frames else "on import"
