"""The shape of the house, read from the source: who may import whom, and who may touch what."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Imports point down only: each folder and those it may import beside itself.
MAY_IMPORT: dict[str, set[str]] = {
    "schemas": set(),
    "prompts": {"schemas"},
    "engine": {"schemas", "prompts"},
    "generator": {"schemas", "prompts", "engine"},
    "judge": {"schemas", "prompts", "engine"},
    "audit": {"schemas", "prompts", "engine", "generator", "judge"},
    # training stands beside the service: it measures what it makes with judges, as users run them,
    # and the command line starts it for `evenhand distill`.
    "training": {"schemas", "prompts", "engine", "judge"},
    "api": {"schemas", "prompts", "engine", "generator", "judge", "audit", "training"},
}


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name, whether it is a package, and its syntax tree."""

    path: Path
    tree: ast.Module

    @property
    def where(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def folder(self) -> str:
        return self.path.relative_to(ROOT).parts[0]

    @property
    def package(self) -> list[str]:
        return ["evenhand", *self.path.relative_to(ROOT).parent.parts]

    def imports(self) -> Iterator[tuple[int, str]]:
        """Every imported module as (line, absolute dotted name), wherever it stands in the file."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = self.package[: len(self.package) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                # `from evenhand import judge` imports evenhand.judge.
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)

    def attributes(self) -> Iterator[tuple[int, str]]:
        """Every `name.attribute` that is read or written."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                yield node.lineno, f"{node.value.id}.{node.attr}"


def read(folder: str) -> list[Module]:
    paths = sorted((ROOT / folder).rglob("*.py"))
    return [Module(path, ast.parse(path.read_text("utf-8"), str(path))) for path in paths]


PACKAGE = [module for folder in MAY_IMPORT for module in read(folder)]
EVERYTHING = [*PACKAGE, *read("tests"), *read("benchmarks")]


def is_or_under(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_every_folder_has_modules() -> None:
    assert {module.folder for module in PACKAGE} == set(MAY_IMPORT)


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_point_down(folder: str) -> None:
    may = MAY_IMPORT[folder] | {folder}
    broken = [
        f"{module.where}:{line} imports {name}"
        for module in PACKAGE
        if module.folder == folder
        for line, name in module.imports()
        if name.startswith("evenhand.") and name.split(".")[1] not in may
    ]
    assert not broken, f"{folder} may import {', '.join(sorted(may))} only"


def test_no_bare_top_level_imports() -> None:
    broken = [
        f"{module.where}:{line} imports {name}"
        for module in EVERYTHING
        for line, name in module.imports()
        if name.split(".")[0] in MAY_IMPORT
    ]
    assert not broken, "write evenhand.<folder>: a bare one exists in this checkout alone"


def test_only_native_touches_llama_cpp() -> None:
    # training checks the files it exports against llama.cpp without the engine, on purpose.
    may = {"engine/native.py", "training/parity.py"}
    broken = [
        f"{module.where}:{line} imports {name}"
        for module in PACKAGE
        if module.where not in may
        for line, name in module.imports()
        if is_or_under(name, "llama_cpp")
    ]
    assert not broken


def test_only_settings_reads_the_environment() -> None:
    readers = {"os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv"}
    # training and native set a variable for OpenMP before it is loaded; they read none.
    may = {
        "api/settings.py",
        "training/__main__.py",
        "training/folds.py",
        "engine/native.py",
    }
    broken = [
        f"{module.where}:{line} uses {name}"
        for module in PACKAGE
        if module.where not in may
        for line, name in [*module.attributes(), *module.imports()]
        if name in readers
    ]
    assert not broken


def test_async_lives_in_api() -> None:
    broken = [
        f"{module.where}:{node.lineno}"
        for module in PACKAGE
        if module.folder != "api"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith | ast.Await)
    ]
    broken += [
        f"{module.where}:{line} imports {name}"
        for module in PACKAGE
        if module.folder != "api"
        for line, name in module.imports()
        if is_or_under(name, "asyncio") or is_or_under(name, "anyio")
    ]
    assert not broken


def test_every_module_says_what_it_knows() -> None:
    assert not [module.where for module in PACKAGE if not ast.get_docstring(module.tree)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import evenhand.judge.base", "evenhand.judge.base"),
        ("from evenhand import judge", "evenhand.judge"),
        ("from evenhand.judge import base", "evenhand.judge.base"),
        ("from . import base", "evenhand.generator.base"),
        ("from ..judge import base", "evenhand.judge.base"),
        ("def f():\n    import llama_cpp", "llama_cpp"),
    ],
)
def test_the_reader_sees_every_form_of_import(source: str, expected: str) -> None:
    module = Module(ROOT / "generator" / "example.py", ast.parse(source))
    assert [name for _, name in module.imports()] == [expected]
