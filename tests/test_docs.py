"""The documentation is true: what exists is documented, and the documented commands run."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.errors import GatewayError
from gateway.inference.client import WRONG
from gateway.settings import Settings
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}
EVERYTHING = "\n".join([README, *PAGES.values()])
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def default_of(name: str) -> str:
    field = Settings.model_fields[name]
    if field.default_factory is not None:
        return "number of cores"
    if field.default is None or field.default == ():
        return "none"
    return f"`{field.default}`" if field.default != {} else "none"


def settings_rows() -> list[str]:
    rows = []
    for name, field in Settings.model_fields.items():
        meaning = " ".join(str(field.description).split())
        rows.append(f"| `GATEWAY_{name.upper()}` | {default_of(name)} | {meaning} |")
    return rows


def targets_table() -> str:
    targets = re.findall(r"^([a-z-]+):.*?## (.*)$", MAKEFILE, re.MULTILINE)
    return "\n".join(f"| `make {name}` | {meaning} |" for name, meaning in targets)


def test_the_page_of_settings_lists_each_as_it_is() -> None:
    rows = [row for row in PAGES["configuration.md"].splitlines() if row.startswith("| `GATEWAY_")]
    assert rows == settings_rows()


def test_readme_and_code_name_only_settings_that_exist() -> None:
    names = {f"GATEWAY_{name.upper()}" for name in Settings.model_fields}
    sources = [README, *(path.read_text() for path in (ROOT / "gateway").rglob("*.py"))]
    for source in sources:
        assert set(re.findall(r"(?<!\.)\bGATEWAY_[A-Z_]+", source)) <= names


def test_every_target_is_in_the_contributors_page_as_it_is() -> None:
    assert targets_table() in CONTRIBUTING


@pytest.mark.parametrize(
    "program",
    ["export", "server", "deploy.stack", "benchmarks.ladder", "benchmarks.load",
     "benchmarks.openloop", "benchmarks.ceilings", "benchmarks.compare", "benchmarks.stage_budget",
     "benchmarks.tune", "benchmarks.peers", "benchmarks.reporting.quantized_recall", "gpu_check",
     "robustness"],
)  # fmt: skip
def test_every_option_is_documented(program: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", program, "--help"], cwd=ROOT, capture_output=True, text=True,
        check=True, timeout=120, env=os.environ | {"PYTHONPATH": "client"},
    ).stdout  # fmt: skip
    options = set(re.findall(r"--[a-z][a-z-]+", shown)) - {"--help"}
    assert len(options) > 1
    missing = {option for option in options if f"`{option}" not in EVERYTHING}
    assert not missing


def test_gateway_help_names_every_setting() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "gateway", "--help"], cwd=ROOT, capture_output=True, text=True,
        check=True, timeout=60,
    ).stdout  # fmt: skip
    for name in Settings.model_fields:
        assert f"GATEWAY_{name.upper()}" in shown


def test_every_route_is_in_the_readme(api: httpx.Client) -> None:
    document = api.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"`{method.upper()} {path}`" in README


def test_every_status_is_documented(api: httpx.Client) -> None:
    document = api.get("/openapi.json").json()
    statuses = {
        status
        for methods in document["paths"].values()
        for route in methods.values()
        for status in route["responses"]
    }
    for status in statuses - {"200"}:
        assert f"| {status} |" in PAGES["api.md"]


def test_every_code_of_an_error_is_documented() -> None:
    codes = {each.code for each in kinds(GatewayError)} | {WRONG}
    for path in (ROOT / "gateway").rglob("*.py"):
        codes |= set(re.findall(r'code="([a-z_]+)"', path.read_text()))
    for code in codes - {"client_left"}:  # which no client gets
        assert f"`{code}`" in PAGES["api.md"], code


def kinds(error: type[GatewayError]) -> set[type[GatewayError]]:
    return {error}.union(*(kinds(each) for each in error.__subclasses__()))


def examples() -> list[tuple[str, str]]:
    """Each curl of the README with the answer that is shown below it."""
    blocks = BLOCK.findall(README)
    return [
        (command, answer)
        for (kind, command), (below, answer) in itertools.pairwise(blocks)
        if kind == "sh" and command.startswith("curl") and below == "json"
    ]


@pytest.mark.parametrize(("command", "shown"), examples())
def test_the_readmes_curls_answer_as_shown(api: httpx.Client, command: str, shown: str) -> None:
    command = command.replace("http://127.0.0.1:8080", str(api.base_url).rstrip("/"))
    ran = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, check=True, timeout=60
    )
    answer, expected = json.loads(ran.stdout), json.loads(shown)
    for volatile in ("id", "created"):
        if volatile in expected:
            assert type(answer[volatile]) is type(expected[volatile])
            expected[volatile] = answer[volatile]
    assert_alike(answer, expected)


def test_there_are_examples_to_run() -> None:
    assert len(examples()) == 2


def assert_alike(found: Any, shown: Any) -> None:
    """Equal, but for the last digits of floats, which differ from one processor to the next."""
    if isinstance(shown, dict):
        assert found.keys() == shown.keys()
        for key, value in shown.items():
            assert_alike(found[key], value)
    elif isinstance(shown, list):
        assert len(found) == len(shown)
        for one, other in zip(found, shown, strict=True):
            assert_alike(one, other)
    elif isinstance(shown, float):
        assert found == pytest.approx(shown, abs=2e-3)
    else:
        assert found == shown


def test_links_lead_somewhere() -> None:
    folders = (ROOT, ROOT / "docs", ROOT / "examples")
    for page in (page for folder in folders for page in folder.glob("*.md")):
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
            path, _, heading = target.partition("#")
            if not target.startswith("http"):
                linked = page.parent / path if path else page
                assert linked.exists(), f"{page.name}: {target}"
                assert not heading or heading in headings(linked), f"{page.name}: {target}"


def headings(page: Path) -> set[str]:
    """What a link to a part of a page ends in."""
    found = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in found}


def test_modules_that_the_lifecycle_names_exist() -> None:
    for name in re.findall(r"`(gateway/[\w/]+\.py)`", PAGES["lifecycle.md"]):
        assert (ROOT / name).is_file()


def test_tests_that_docs_name_exist() -> None:
    named = set(re.findall(r"`(?:tests/\w+/)?(test_\w+\.py)`", EVERYTHING + CONTRIBUTING))
    assert named
    assert named <= {path.name for path in (ROOT / "tests").rglob("test_*.py")}


def test_files_that_contributors_are_sent_to_exist() -> None:
    named = set(
        re.findall(r"`((?:gateway|export|tests|docs|openclip_api)/[\w/]+\.\w+)`", CONTRIBUTING)
    )
    assert named
    assert not [name for name in sorted(named) if not (ROOT / name).is_file()]
