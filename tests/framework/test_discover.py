"""Which app a command is about: the ways to name one, their order, and what importing it leaves behind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from framework.discover import AppAmbiguous, AppBroken, find_app
from framework.errors import AppNotFound
from framework.log.errors import UsageError

ROOT = Path(__file__).parents[2]
Write = Callable[[str, str], Path]


def app(name: str) -> str:
    """The text of a module with one app."""
    return f"from framework import App\napp = App({name!r})\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a file of the working directory, which is a new one; imports are undone afterwards."""
    # Our own checkout holds a log/ and a state/; a user has it installed.
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if Path(folder).resolve() != ROOT])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FRAMEWORK_APP", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    yield write_file
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize(
    "value", ["shop", "shop:app", "shop.py", "shop.py:app", "./shop.py", "pages.shop", "pages/shop.py:app"]
)
def test_a_module_or_a_file_names_an_app(write: Write, value: str) -> None:
    write("shop.py", app("shop"))
    write("pages/__init__.py", "")
    write("pages/shop.py", app("shop"))
    assert find_app(value).name == "shop"


def test_an_app_may_be_an_attribute_of_something(write: Write) -> None:
    write("shop.py", app("one") + "class Apps:\n    two = App('two')\n")
    assert find_app("shop:Apps.two").name == "two"


def test_an_app_with_two_names_is_one(write: Write) -> None:
    write("shop.py", app("shop") + "application = app\n")
    assert find_app("shop").name == "shop"


def test_the_order_is_flag_environment_project_directory(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flag", "environment", "project"):
        write(f"{name}.py", app(name))
    write("app.py", app("directory"))
    assert find_app().name == "directory"
    write("pyproject.toml", "[tool.framework]\napp = 'project.py'\n")
    assert find_app().name == "project"
    monkeypatch.setenv("FRAMEWORK_APP", "environment:app")
    assert find_app().name == "environment"
    assert find_app("flag").name == "flag"


def test_a_project_of_others_says_nothing(write: Write) -> None:
    write("pyproject.toml", "[tool.other]\napp = 'x'\n")
    with pytest.raises(AppNotFound):
        find_app()


@pytest.mark.parametrize("text", ["[tool", "[tool.framework]\napp = 3\n"])
def test_a_project_file_that_cannot_be_read_is_named(write: Write, text: str) -> None:
    path = write("pyproject.toml", text)
    with pytest.raises(UsageError) as raised:
        find_app()
    assert str(raised.value).startswith(str(path))


def test_main_may_import_the_app_of_app(write: Write) -> None:
    write("app.py", app("shop"))
    write("main.py", "from app import app  # of framework\n")
    assert find_app().name == "shop"


def test_two_apps_in_the_directory_are_one_too_many(write: Write) -> None:
    write("app.py", app("one"))
    write("main.py", app("two"))
    with pytest.raises(AppAmbiguous, match=r"-A app\.py:app or -A main\.py:app"):
        find_app()


def test_a_program_that_does_not_mention_us_is_not_imported(write: Write) -> None:
    write("main.py", "raise SystemExit\n")
    with pytest.raises(AppNotFound):
        find_app()


def test_the_working_directory_comes_last_on_the_path(write: Write, tmp_path: Path) -> None:
    """So a user's log.py and json.py hide nobody's, and can still be used by the app."""
    write("json.py", "1 / 0\n")
    write("log.py", "LINES = []\n")
    write("app.py", "import json, log\nlog.LINES, json.dumps\n" + app("shop"))
    assert find_app().name == "shop"
    assert sys.path[-1] == str(tmp_path)
    assert sys.path.count(str(tmp_path)) == 1


@pytest.mark.parametrize("name", ["log", "state", "json", "calendar"])
def test_the_app_itself_may_be_called_as_another_module_is(write: Write, name: str) -> None:
    """The file beside the user is meant, under a name of ours if its own is taken."""
    write(f"{name}.py", app("mine"))
    assert find_app(name).name == find_app(f"{name}.py").name == "mine"
    assert sys.modules.get("json") is not None
    assert not hasattr(sys.modules["json"], "app")


def test_a_file_elsewhere_finds_what_lies_beside_it(write: Write, tmp_path: Path) -> None:
    write("far/away/prices.py", "TAX = 19\n")
    path = write("far/away/some-app.py", "import prices\n" + app("shop") + "tax = prices.TAX\n")
    assert find_app("far/away/some-app.py").name == "shop"
    assert str(path.parent) in sys.path
    assert sys.modules["framework_app_some_app"].__file__ == str(path)


def test_a_file_is_imported_once(write: Write) -> None:
    """Also when another module of the app imports it by its own name."""
    write("shop.py", app("shop") + "import pages\nassert pages.app is app\n")
    write("pages.py", "from shop import app\n")
    assert find_app("shop.py") is find_app("shop") is find_app("shop:app")


def test_a_file_of_a_package_may_import_relatively(write: Write) -> None:
    write("far/pages/__init__.py", "")
    write("far/pages/prices.py", "TAX = 19\n")
    write("far/pages/shop.py", "from .prices import TAX\n" + app("shop"))
    assert find_app("far/pages/shop.py").name == "shop"


def test_models_of_a_file_can_be_resolved_by_name(write: Write) -> None:
    """Pydantic and `typing` look into `sys.modules` for that."""
    write(
        "some-shop.py",
        "from __future__ import annotations\nfrom pydantic import BaseModel\nfrom framework import App, Stream\n"
        "class Item(BaseModel):\n    parent: Item | None = None\n"
        "app = App('shop')\nitems = app.topic('items', Item)\n"
        "@app.agent(items)\ndef see(item: Item) -> None: ...\n",
    )
    assert list(find_app("some-shop.py").agents) == ["see"]


def test_an_import_that_fails_leaves_nothing_behind(write: Write) -> None:
    write("some-shop.py", app("shop") + "1 / 0\n")
    with pytest.raises(AppBroken, match=r"ZeroDivisionError: division by zero \(some-shop.py:3\)"):
        find_app("some-shop.py")
    assert "framework_app_some_shop" not in sys.modules


def test_the_line_that_is_named_is_the_users_last(write: Write) -> None:
    """Not one of ours: in here the name of a topic is refused."""
    write("names.py", "def bad(app):\n    return app.topic('no name')\n")
    write("app.py", "import names\n" + app("shop") + "names.bad(app)\n")
    with pytest.raises(AppBroken, match=r"^names\.py:2: topic name 'no name'") as raised:
        find_app()
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("value", [":app", "shop:app:more", ":"])
def test_what_cannot_be_a_name_is_refused(write: Write, value: str) -> None:
    with pytest.raises(AppNotFound, match=r"write module:app or path/to/file\.py:app"):
        find_app(value)
