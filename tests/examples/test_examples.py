"""Every example runs, and prints what examples/README.md and the notebook show.

Those that need packages beyond this environment run in that of `make test-examples`.
"""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.conftest import environment
from tests.conftest import ROOT, GatewayClient
from tests.examples.postgres import postgres

FOLDER = ROOT / "examples"
PYTHON = ROOT / ".venv" / "examples" / "bin" / "python"
PAGE = (FOLDER / "README.md").read_text()
NOTEBOOK = FOLDER / "walkthrough.ipynb"
SESSIONS: list[str] = re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PROGRAMS = sorted(path.name for path in FOLDER.glob("*.py"))
HERE = {"search.py", "search_langchain.py"}  # whose packages are in this environment
NUMBER = re.compile(r"-?\d+\.\d+")
LINES = 100

# Runs the cells of a notebook in Jupyter's kernel; the notebook with its outputs as JSON.
JUPYTER = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], nbformat.NO_CONVERT)
folder = {"metadata": {"path": sys.argv[2]}}
nbclient.NotebookClient(notebook, timeout=120, resources=folder).execute()
print(nbformat.writes(notebook))
"""
# The same in this interpreter, without Jupyter.
PLAIN = """
import contextlib, io, json, os, pathlib, sys
notebook = json.loads(pathlib.Path(sys.argv[1]).read_text())
os.chdir(sys.argv[2])
names = {}
for cell in notebook["cells"]:
    if cell["cell_type"] == "code":
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec("".join(cell["source"]), names)
        cell["outputs"] = [{"name": "stdout", "text": printed.getvalue()}]
print(json.dumps(notebook))
"""


def python_with(packages_are_here: bool) -> str:
    if packages_are_here:
        return sys.executable
    if not PYTHON.exists():
        pytest.skip("needs the packages of the examples: make test-examples")
    return str(PYTHON)


@pytest.fixture
def database(session: str) -> Iterator[str]:
    """The connection string of a PostgreSQL, where a session asks for one."""
    if "$DATABASE" not in session:
        yield ""
        return
    python_with(False)
    [site] = PYTHON.parent.parent.glob("lib/python*/site-packages")
    with postgres(site) as found:
        yield found


def run(address: str, arguments: list[str], cwd: Path) -> str:
    ran = subprocess.run(
        arguments, cwd=cwd, env=environment(address), capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    # The command reports beside its output.
    return ran.stdout + ran.stderr if "openclip_triton" in arguments else ran.stdout


def assert_alike(found: str, shown: str) -> None:
    """Equal, but for spaces, rates, and the last digits, which differ between processors."""
    texts = [re.sub(r"\d+/s", "N/s", text) for text in (found, shown)]
    one, other = ("".join(NUMBER.sub("#", text).split()) for text in texts)
    assert one == other
    numbers = [float(number) for number in NUMBER.findall(shown)]
    assert [float(n) for n in NUMBER.findall(found)] == pytest.approx(numbers, abs=2e-3)


@pytest.mark.parametrize("session", SESSIONS)
def test_a_session_prints_what_is_shown(
    api: GatewayClient, database: str, tmp_path: Path, session: str
) -> None:
    for name in ("docs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    python = python_with(all(name in HERE for name in re.findall(r"examples/(\w+\.py)", session)))
    commands = {"python": [python], "openclip-triton": [python, "-m", "openclip_triton"]}
    for block in re.split(r"^\$ ", session, flags=re.MULTILINE)[1:]:
        line, _, shown = block.partition("\n")
        program, *arguments = shlex.split(line.replace("$DATABASE", database))
        found = run(api.grpc_address, [*commands[program], *arguments], tmp_path)
        assert_alike(found, shown)


@pytest.mark.parametrize("way", [PLAIN, JUPYTER], ids=["plain", "jupyter"])
def test_the_notebook_prints_what_it_shows(api: GatewayClient, way: str) -> None:
    python = python_with(way is PLAIN)
    arguments = [python, "-c", way, str(NOTEBOOK), str(FOLDER)]
    found = printed(json.loads(run(api.grpc_address, arguments, ROOT)))
    shown = printed(json.loads(NOTEBOOK.read_text()))
    assert len(shown) > 5
    for one, other in zip(found, shown, strict=True):
        assert_alike(one, other)


def printed(notebook: Any) -> list[str]:
    """What each cell of code printed."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for cell in cells:
        assert {output.get("name") for output in cell["outputs"]} <= {"stdout"}
    return ["".join("".join(each["text"]) for each in cell["outputs"]) for cell in cells]


def test_the_page_shows_every_example() -> None:
    assert len(PROGRAMS) >= 6
    shown = {name for session in SESSIONS for name in re.findall(r"examples/(\w+\.py)", session)}
    assert shown == set(PROGRAMS)
    for name in [*PROGRAMS, NOTEBOOK.name]:
        assert f"[{name}]({name})" in PAGE


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_a_page_long(name: str) -> None:
    assert len((FOLDER / name).read_text().splitlines()) < LINES
