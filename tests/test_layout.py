"""The folders at the root, the links to them, the package list and what is exported agree with each other."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import framework

ROOT = Path(__file__).parents[1]
ORDER = ("log", "state", "operators", "framework")
"""The code folders; each imports only itself and those before it."""
LINKED = ORDER[:-1]
INNER = {"log": {"broker"}}
"""The packages within them. They may import what is around them, and not the other way round."""


def python(*arguments: str, cwd: Path = ROOT) -> str:
    """Standard output of a Python that finds this checkout, installed or not."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{arguments} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def project() -> dict[str, Any]:
    """What pyproject.toml says."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def modules(folder: Path) -> list[Path]:
    """The Python files in *folder*, below it too, but not behind links."""
    return sorted(
        Path(where, name)
        for where, _, names in os.walk(folder, followlinks=False)
        for name in names
        if name.endswith(".py")
    )


# Links, folders, packages.


@pytest.mark.parametrize("name", LINKED)
def test_every_code_folder_is_linked_into_the_package(name: str) -> None:
    link = ROOT / "framework" / name
    assert link.is_symlink(), f"{link} is no symbolic link; on Windows: git config core.symlinks true"
    assert os.readlink(link) == f"../{name}"


def test_there_are_no_other_links() -> None:
    links = {path.name for path in (ROOT / "framework").iterdir() if path.is_symlink()}
    assert links == set(LINKED)


def test_the_package_list_names_every_folder_with_code() -> None:
    setuptools = project()["tool"]["setuptools"]
    inner = [path.parent.name for path in (ROOT / "framework").glob("*/__init__.py")]
    inner += [f"{outer}.{name}" for outer, names in INNER.items() for name in names]
    assert sorted(setuptools["packages"]) == sorted(["framework", *(f"framework.{name}" for name in inner)])
    mapped = {f"framework.{name}": name for name in LINKED}
    mapped |= {f"framework.{outer}.{name}": f"{outer}/{name}" for outer, names in INNER.items() for name in names}
    assert setuptools["package-dir"] == {"framework": "framework", **mapped}


@pytest.mark.parametrize("name", LINKED)
def test_code_folders_are_flat(name: str) -> None:
    """A folder in one of them is a package more, in two lists."""
    folders = {ROOT / name, *(ROOT / name / inner for inner in INNER.get(name, ()))}
    assert [path for path in modules(ROOT / name) if path.parent not in folders] == []


@pytest.mark.slow
def test_an_archive_without_links_builds_a_whole_wheel(tmp_path: Path) -> None:
    """Some archives, and checkouts on Windows, hold no symbolic links; they must install everything."""
    checkout, expected = tmp_path / "checkout", {"framework/py.typed", "framework_pytest.py"}
    for name in ORDER:
        for path in modules(ROOT / name):
            copy(path, checkout)
            inside = path.relative_to(ROOT)
            expected.add(str(inside if name == "framework" else "framework" / inside))
    for other in ("framework/py.typed", "framework_pytest.py", "pyproject.toml", "README.md", "LICENSE"):
        copy(ROOT / other, checkout)
    python("-m", "build", "--no-isolation", "--wheel", "--outdir", str(tmp_path), str(checkout), cwd=tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        built = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert built == expected


def copy(path: Path, checkout: Path) -> None:
    """Copy a file of this checkout to its place in another."""
    copied = checkout / path.relative_to(ROOT)
    copied.parent.mkdir(parents=True, exist_ok=True)
    copied.write_bytes(path.read_bytes())


# Imports.


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of every import in a file, those for the type checker and those in functions too."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [alias.name for alias in node.names]
            # `from framework import log` imports a folder, `from framework.log import Log` does so by name.
            yield from ((node.lineno, f"framework.{name}") for name in names if module == "framework")
            if module != "framework":
                yield node.lineno, module


@pytest.mark.parametrize("name", LINKED)
def test_imports_go_one_way(name: str) -> None:
    allowed = ORDER[: ORDER.index(name) + 1]
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}/ may import {', '.join(allowed)}, not {module}"
        for path in modules(ROOT / name)
        for line, module in imported(path)
        if module.split(".")[0] == "framework" and module.split(".")[1:2] not in [[part] for part in allowed]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("name", "inner"), [(name, inner) for name, names in INNER.items() for inner in names])
def test_a_folder_does_without_the_packages_within_it(name: str, inner: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}/ may not import {module}"
        for path in modules(ROOT / name)
        if path.parent == ROOT / name
        for line, module in imported(path)
        if f"{module}.".startswith(f"framework.{name}.{inner}.")
    ]
    assert not wrong, "\n".join(wrong)


def test_examples_import_only_what_is_exported() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {module} is not exported by framework"
        for path in modules(ROOT / "examples")
        for line, module in imported(path)
        if module.split(".")[0] == "framework" and module.removeprefix("framework.") not in framework.__all__
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_the_log_alone_loads_neither_database_nor_models() -> None:
    code = "import sys, framework.log; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = set(python("-c", code).split())
    assert "framework" in loaded
    assert loaded.isdisjoint({"rocksdict", "pydantic", "croniter", "click"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder, in which our folders' names are taken."""
    for name in LINKED:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('the {name}.py of the user was imported')\n")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", LINKED)
def test_a_users_module_of_the_same_name_is_not_taken_for_ours(folder: Path, name: str) -> None:
    printed = python("-c", f"import framework.{name} as ours; print(ours.__file__)", cwd=folder)
    assert Path(printed.strip()).resolve() == ROOT / name / "__init__.py"


@pytest.mark.slow
def test_the_command_runs_beside_a_users_modules_of_the_same_names(folder: Path) -> None:
    assert "worker" in python("-m", "framework", "--help", cwd=folder)


# What is exported.


def test_exports_are_sorted_and_all_there_is() -> None:
    """The type checker's list, the lazy one and `__all__` are three lists of the same names."""
    tree = ast.parse((ROOT / "framework" / "__init__.py").read_text())
    [checked] = [node for node in tree.body if isinstance(node, ast.If)]
    homes = {
        alias.name: node.module
        for node in checked.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    assert framework.__all__ == sorted(homes)
    for name, home in homes.items():
        assert getattr(framework, name) is getattr(import_module(home), name)


def test_what_is_not_exported_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'framework' has no attribute 'no_such_name'"):
        _ = framework.no_such_name


@pytest.mark.parametrize("name", framework.__all__)
def test_everything_exported_is_documented(name: str) -> None:
    doc = vars(getattr(framework, name)).get("__doc__")
    # A dataclass without a docstring is given its signature for one.
    assert doc
    assert not doc.startswith(f"{name}(")
