"""Style that matters is a test: sizes, names, docstrings, and words that must not stand in this project."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = ("log", "state", "operators", "framework")
FOLDERS = {*CODE, "examples", "tests"}
LEFTOVERS = {"build", "data", "dist"}
INNER = {
    "log": {"broker"},
    "state": set[str](),
    "operators": set[str](),
    "framework": {"cli", "faust", "jobs", "web"},
    "examples": set[str](),
    "tests": {*CODE, "examples", "faults", "faust", "interop", "typing", "benchmarks", "browser"},
}
"""The folders that may stand in each; links do not count."""
FILE_LINES, FUNCTION_LINES = 400, 50
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class File:
    """One Python file of the project."""

    path: Path
    text: str = field(repr=False)
    tree: ast.Module = field(repr=False)

    @property
    def folder(self) -> str:
        """The folder at the root that it stands in."""
        return self.path.parts[0]

    def at(self, node: ast.AST | int, what: str) -> str:
        """A line of a report."""
        return f"{self.path}:{node if isinstance(node, int) else getattr(node, 'lineno', 1)}: {what}"

    def comments(self) -> dict[int, str]:
        """The text of every comment, by line."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}


@cache
def files() -> list[File]:
    """All Python files, each once and by its real place."""
    found = []
    for folder in sorted(FOLDERS):
        for path in sorted((ROOT / folder).rglob("*.py")):
            place = path.relative_to(ROOT)
            # Some Pythons follow links here, and some do not.
            if place.parts[:2] not in [("framework", name) for name in CODE]:
                text = path.read_text()
                found.append(File(place, text, ast.parse(text, str(place))))
    return found


@cache
def texts() -> list[tuple[Path, str]]:
    """All files that people read, Python or not."""
    others = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *(ROOT / ".ci").glob("*")]
    others += [ROOT / "Makefile", ROOT / "pyproject.toml"]
    return [
        *((file.path, file.text) for file in files()),
        *((path.relative_to(ROOT), path.read_text()) for path in others if path.is_file()),
    ]


def report(faults: Iterator[str]) -> None:
    """Fail with all *faults*, a line each."""
    if listed := list(faults):
        pytest.fail("\n".join(listed), pytrace=False)


def public(file: File) -> Iterator[tuple[ast.ClassDef | Function, str]]:
    """The public classes, functions and methods of a file with their names, without overloads and magic."""
    pending: list[tuple[ast.Module | ast.ClassDef, str]] = [(file.tree, "")]
    while pending:
        parent, prefix = pending.pop()
        for node in parent.body:
            if not isinstance(node, ast.ClassDef | Function) or node.name.startswith("_"):
                continue
            if {"overload", "setter"}.isdisjoint(map(_decorator, node.decorator_list)):
                yield node, f"{prefix}{node.name}"
            if isinstance(node, ast.ClassDef):
                pending.append((node, f"{prefix}{node.name}."))


def _decorator(node: ast.expr) -> str:
    return ast.unparse(node).rpartition(".")[2]


# Shape.


def test_no_file_is_too_long() -> None:
    report(
        file.at(lines, f"the file has {lines} lines, {FILE_LINES} is the limit")
        for file in files()
        if (lines := len(file.text.splitlines())) > FILE_LINES
    )


def test_no_function_is_too_long() -> None:
    report(
        file.at(node, f"{node.name} has {lines} lines, {FUNCTION_LINES} is the limit")
        for file in files()
        for node in ast.walk(file.tree)
        if isinstance(node, Function) and (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES
    )


def test_the_root_holds_the_folders_it_should() -> None:
    there = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))}
    left = {name for name in there if name in LEFTOVERS or name.endswith(".egg-info")}
    assert there - left == FOLDERS


def test_folders_hold_the_folders_they_may() -> None:
    report(
        f"{folder}/{path.name}: a folder more; a part earns one by its size"
        for folder, allowed in INNER.items()
        for path in (ROOT / folder).iterdir()
        if path.is_dir() and not path.is_symlink() and path.name not in {*allowed, "__pycache__"}
    )


# Names.


def test_no_file_is_named_for_holding_leftovers() -> None:
    named = {"base.py", "common.py", "helpers.py", "misc.py", "util.py", "utils.py"}
    report(file.at(1, "name it by what it does") for file in files() if file.path.name in named)


def test_no_class_is_named_for_its_role_in_the_code() -> None:
    report(
        file.at(node, f"{node.name}: name it by what it is")
        for file in files()
        for node in ast.walk(file.tree)
        if isinstance(node, ast.ClassDef) and re.search(r"^_?Base[A-Z]|(Manager|Helper|Util|Utils)$", node.name)
    )


def test_records_are_called_records() -> None:
    """Only names given here count: `asyncio.Event` is another's, `error_message` and `max_message_bytes` Kafka's.

    `_to_message` is what Faust calls.
    """
    report(
        file.at(node, f"{name}: a record is a record, neither message nor event")
        for file in files()
        if file.folder != "tests"
        for node, name in defined(file.tree)
        if name != "_to_message" and re.search(r"(?<!error)(^|_)(messages?|msgs?|events?)$|(Message|Event)s?$", name)
    )


def defined(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Every name that a file gives to something: a class, function, parameter, variable or attribute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | Function):
            yield node, node.name
        elif isinstance(node, ast.arg):
            yield node, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node, node.attr


# Docstrings.


def test_every_file_says_what_it_is() -> None:
    report(file.at(1, "the module has no docstring") for file in files() if not ast.get_docstring(file.tree))


def test_everything_public_says_what_it_gives() -> None:
    """In tests the names do, for they are sentences."""
    report(
        file.at(node, f"{name} has no docstring")
        for file in files()
        if file.folder != "tests"
        for node, name in public(file)
        if not ast.get_docstring(node)
    )


# Errors, waiting, loose ends.


def test_every_blind_except_gives_its_reason() -> None:
    """One that cleans up and raises again hides nothing and needs none."""
    report(
        file.at(node, "catches everything: write the reason in a comment on this line, or catch less")
        for file in files()
        for comments in [file.comments()]
        for node in ast.walk(file.tree)
        if isinstance(node, ast.ExceptHandler) and _is_blind(node) and not isinstance(node.body[-1], ast.Raise)
        if len(re.sub(r"noqa:? *[A-Z0-9, ]*|[#\s]", "", comments.get(node.lineno, ""))) < 10
    )


def _is_blind(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(each is None or ast.unparse(each) in ("Exception", "BaseException") for each in caught)


def test_tests_wait_for_what_they_need_and_do_not_sleep() -> None:
    """`sleep(0)` lets others run and takes no time."""
    report(
        file.at(node, "sleeps: wait for the condition instead, or move the clock")
        for file in files()
        if file.folder == "tests"
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "sleep"
        if node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value
    )


# In brackets, so that this file does not find itself.
LOOSE_ENDS = re.compile(r"\b([T]ODO|[F]IXME)\b")
PRIVATE_PATHS = re.compile(r"[/](work|tmp|root)/|[/]home/\w")


def test_nothing_is_left_to_be_done_later() -> None:
    report(matches(LOOSE_ENDS, "do it, or file an issue"))


def test_no_path_of_one_persons_machine_is_written_down() -> None:
    report(matches(PRIVATE_PATHS, "a path that only one machine has"))


def matches(pattern: re.Pattern[str], why: str) -> Iterator[str]:
    """A line of a report for each line of the project in which *pattern* is found."""
    for path, text in texts():
        for number, line in enumerate(text.splitlines(), 1):
            if found := pattern.search(line):
                yield f"{path}:{number}: {found[0]}: {why}"
