"""Every package says in its docstring what it may import, and imports nothing else of ours."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

OURS = (
    "openclip_api", "gateway", "server", "export", "benchmarks", "gpu_check", "robustness",
    "deploy", "openclip_triton",
)  # fmt: skip
# Folders that Triton or Docker reads, with no package of ours in them.
NO_PACKAGES = {"refused", "1", "v1"}


def folder_of(package: str) -> Path:
    path = Path(*package.split("."))
    return ROOT / "client" / path if package.startswith("openclip_triton") else ROOT / path


def packages() -> Iterator[str]:
    for top in OURS:
        folder = folder_of(top)
        for path in sorted(folder.rglob("__init__.py")):
            inner = path.parent.relative_to(folder).parts
            if not NO_PACKAGES & {*inner}:
                yield ".".join((top, *inner))


@cache
def said(package: str) -> tuple[frozenset[str], bool]:
    """The names that a package may import, and whether what those may import is meant as well."""
    text = ast.get_docstring(ast.parse((folder_of(package) / "__init__.py").read_text())) or ""
    text = " ".join(text.split())
    if "Imports nothing of ours." in text:
        return frozenset(), False
    found = re.search(r"May import ((?:`[^`]*`|[^`.;])*)[.;]", text)
    assert found, f"{package}: its docstring does not say what it may import"
    return frozenset(re.findall(r"`([^`]+)`", found[1])), "may import" in found[1]


@cache
def allowed(package: str) -> frozenset[str]:
    names, deep = said(package)
    if not deep:
        return names
    return names.union(*(allowed(name) for name in names if (folder_of(name)).is_dir()))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative"
            yield from (f"{node.module}.{each.name}" for each in node.names)


@pytest.mark.parametrize("package", [*packages()])
def test_a_package_imports_what_it_says(package: str) -> None:
    may = (package, *allowed(package))
    wrong = [
        f"{path.name}: {name}"
        for path in sorted(folder_of(package).glob("*.py"))
        for name in imported(path)
        if name.partition(".")[0] in OURS
        and not any(f"{name}.".startswith(f"{each}.") for each in may)
    ]
    assert not wrong
