"""Which data directory a command works on, and who may make one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.framework.cli.conftest import Shell

pytestmark = pytest.mark.slow

APP = "from framework import App\napp = App('shop', data='of-app')\nt = app.topic('t', str)\n"


def test_the_flag_goes_before_the_environment_before_the_app_before_the_default(shell: Shell) -> None:
    made = []
    for arguments in (["--data", "of-flag"], [], [], []):
        err = shell.ok("topics", "create", "t", *arguments).err
        made.append(err.splitlines()[0].removeprefix(f"made the data directory {shell.folder}/"))
        # From the lowest to the highest, so that each is seen to win against all before it.
        shell.environment.pop("FRAMEWORK_DATA", None)
        if len(made) == 1:
            shell.environment["FRAMEWORK_DATA"] = "of-environment"
            shell.write("app.py", APP)
        elif len(made) == 3:
            (shell.folder / "app.py").unlink()
    assert made == ["of-flag", "of-environment", "of-app", "data"]


@pytest.mark.parametrize(
    "command",
    [
        *("topics ls", "topics show t", "topics tail t", "topics send unknown 1", "agents ls"),
        *("tables ls", "tables get x y", "tables scan x", "jobs ls", "jobs runs x"),
    ],
)
def test_reading_never_makes_a_directory(shell: Shell, command: str) -> None:
    shell.write("app.py", APP)
    done = shell.run(*command.split())
    line = f"there is no data directory at {shell.folder / 'of-app'}: say where it is with --data or FRAMEWORK_DATA"
    assert (done.code, done.out, done.err) == (4, "", f"framework: {line}\n")
    assert not (shell.folder / "of-app").exists()


def test_code_of_the_app_sees_the_directory_that_the_command_was_given(shell: Shell) -> None:
    """While it is imported, too: it may derive other places from it."""
    shell.write("app.py", APP + "import sys\nprint('seen', app.data, file=sys.stderr)\n")
    err = shell.ok("topics", "create", "t", "--data", "given").err
    assert err.splitlines()[0] == f"seen {shell.folder / 'given'}"


def test_a_users_own_modules_hide_none_of_ours(shell: Shell) -> None:
    """A folder with a log.py, state.py and operators.py, which the app uses."""
    for name in ("log", "state", "operators"):
        shell.write(f"{name}.py", f"NAME = 'my {name}'\n")
    shell.write("app.py", "import sys, log, state\nprint(log.NAME, state.NAME, file=sys.stderr)\n" + APP)
    assert shell.ok("topics", "send", "t", "x").err.splitlines()[0] == "my log my state"
