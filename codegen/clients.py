"""Cuts generated gRPC modules to their clients. Run by `make proto` and `make check`.

protoc also writes a base class of servers, whose methods only raise, and an experimental API of
static methods. The gateway registers its methods by itself, so none of that is ever called.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

CLIENT = "Stub"  # ends the name of a client's class; typed ones end in AsyncStub
BOTH, ONE = "Client and server classes", "Client classes"  # in the docstring of a `.py`


def clients(source: str) -> str:
    """A generated `*_pb2_grpc.py` or `.pyi` without its servers and all that only they need.

    The version check stays, and all that stays is as protoc wrote it, but for the docstring that
    promises servers.

    Raises:
        SyntaxError: It is not Python.
    """
    lines = source.replace(BOTH, ONE).splitlines()
    body = ast.parse(source).body
    kept = _kept(body)
    text = lines[: _start(body[0])]
    end, gap = len(text), 0  # gap: blank lines that are due before what stays
    for node in body:
        start = _start(node)
        gap = max(gap, sum(not line.strip() for line in lines[end:start]))
        end = node.end_lineno or start + 1
        if node in kept:
            text += [""] * gap + lines[start:end]
            gap = 0
    return "\n".join(text) + "\n"


def _kept(body: list[ast.stmt]) -> list[ast.stmt]:
    """What stays: names are bound before they are used, so the last statement decides first."""
    kept: list[ast.stmt] = []
    used: set[str] = set()
    for node in reversed(body):
        if _stays(node, used):
            kept.append(node)
            used |= {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    return kept


def _stays(node: ast.stmt, used: set[str]) -> bool:
    if isinstance(node, ast.ClassDef):
        return node.name.endswith(CLIENT)
    if isinstance(node, ast.FunctionDef):
        return False
    bound = set(_bound(node))
    return not bound or not bound.isdisjoint(used)


def _bound(node: ast.stmt) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            yield each.id
        elif isinstance(each, ast.alias):
            yield (each.asname or each.name).partition(".")[0]


def _start(node: ast.stmt) -> int:
    """The index of its first line, which may be that of a decorator."""
    decorated = node.decorator_list if isinstance(node, ast.ClassDef) else []
    return min([node.lineno, *(each.lineno for each in decorated)]) - 1


def main(paths: list[str]) -> None:
    """Rewrites these modules in place."""
    for path in map(Path, paths):
        path.write_text(clients(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
