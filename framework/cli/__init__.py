"""The command line: a tree of nouns and verbs.

Data goes to standard output, everything else to standard error. A mistake is one line, `framework: ...`, and
an exit code that says of which kind. Only click is imported before a command runs, so that `--help` is quick.
"""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module

import click

__all__ = ["main"]

DEBUG_VARIABLE = "FRAMEWORK_DEBUG"
INTERRUPTED = 130
COMMANDS = {
    "worker": "framework.cli.worker:worker",
    "broker": "framework.cli.broker:broker",
    "topics": "framework.cli.topics:topics",
    "agents": "framework.cli.agents:agents",
    "dlq": "framework.cli.dlq:dlq",
    "tables": "framework.cli.tables:tables",
    "jobs": "framework.cli.jobs:jobs",
    "groups": "framework.cli.groups:groups",
    "verify": "framework.cli.verify:verify",
    "doctor": "framework.cli.doctor:doctor",
}
EPILOG = """\b
Environment:
  FRAMEWORK_APP    the app, as -A takes it
  FRAMEWORK_DATA   the data directory, as --data takes it
  FRAMEWORK_DEBUG  1 for tracebacks, as --debug

\b
Exit codes:
  0    done
  1    any other error
  2    a command, a name or a setting that cannot be
  3    a run of a job failed
  4    not found: app, data directory, topic, table, row, agent, job or group
  5    in use by another process, or there already
  6    data that is damaged, or of a newer version
  130  interrupted
"""


class Commands(click.Group):
    """The command tree, whose branches are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The nouns, in the order in which they are of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command or group of one noun, None if there is none."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run what was asked for; a reader that has seen enough, or Ctrl-C, is no error of ours."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # Python would complain about what is still in its buffer at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        return result


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from framework.cli.version import version

        click.echo(f"framework {version()}")
        ctx.exit()


def _set_debug(_: click.Context, __: click.Parameter, wanted: bool) -> None:
    if wanted:
        os.environ[DEBUG_VARIABLE] = "1"


@click.group(cls=Commands, epilog=EPILOG)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show it.")
@click.option("--debug", is_flag=True, expose_value=False, callback=_set_debug, help="Show the traceback of an error.")
def commands() -> None:
    """Stream processing over a built-in, durable log: agents, tables and scheduled jobs, exactly once."""


def main() -> None:
    """Run the command in `sys.argv`, and exit."""
    try:
        code = commands.main(prog_name="framework", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        code = _fail(error, _one_line(error), error.exit_code)
    except click.Abort:
        code = INTERRUPTED
    except OSError as error:
        code = _fail(error, _of_the_system(error), 1)
    except _our_errors() as error:
        code = _fail(error, str(error), getattr(error, "exit_code", 1))
    sys.exit(code if isinstance(code, int) else 0)


def _our_errors() -> tuple[type[Exception], ...]:
    """The errors raised on purpose; asked for only once something was raised: they come with the log."""
    module = sys.modules.get("framework.log.errors")
    return () if module is None else (module.Error,)


def _fail(error: BaseException, text: str, code: int) -> int:
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error)
    line = " ".join(part.strip() for part in text.splitlines() if part.strip())
    click.echo(f"framework: {line}", err=True)
    return code


def _one_line(error: click.ClickException) -> str:
    text = error.format_message().rstrip(".")
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{text}; see '{error.ctx.command_path} --help'"
    return text


def _of_the_system(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"
