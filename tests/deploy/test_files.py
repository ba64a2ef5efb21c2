"""Dockerfile, YAML files and health check, by their own linters."""

import ast
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.conftest import ROOT, GatewayClient

DOCKERFILE = (ROOT / "Dockerfile").read_text()
STAGE = re.compile(r"^FROM (\S+)(?: AS ([\w-]+))?$", re.MULTILINE)
SERVED = {"gateway", "triton-cpu", "triton-gpu"}
TARGETS = SERVED | {"load", "export", "export-gpu"}


def stage(name: str) -> str:
    """The text of one stage."""
    _, _, rest = DOCKERFILE.partition(f" AS {name}\n")
    return rest.partition("\nFROM ")[0]


def test_yaml_files_are_clean() -> None:
    pytest.importorskip("yamllint", reason="yamllint is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "yamllint", "--strict", "."],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_the_dockerfile_is_clean() -> None:
    hadolint = shutil.which("hadolint") or shutil.which(
        "hadolint", path=Path(sys.executable).parent
    )
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run(
        [hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout


def test_every_target_is_there() -> None:
    assert {name for _, name in STAGE.findall(DOCKERFILE)} >= TARGETS


def test_bases_have_versions() -> None:
    stages = {name for _, name in STAGE.findall(DOCKERFILE)}
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", DOCKERFILE, re.MULTILINE))
    for base, _ in STAGE.findall(DOCKERFILE):
        if base not in stages:
            assert re.search(r":\d+\.\d+", arguments[base.strip("${}")])


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_no_target_is_roots(target: str) -> None:
    text = stage(target)
    assert "USER 10001:10001" in text
    assert "org.opencontainers.image.title" in text
    assert ("HEALTHCHECK" in text) is (target in SERVED)


def test_dependencies_are_layers_of_their_own() -> None:
    for name in ("gateway-venv", "triton-venv", "load-venv", "export-venv"):
        copied = re.findall(r"^COPY (.*)$", stage(name), re.MULTILINE)
        assert all(line.startswith("requirements/") for line in copied)
        assert "--require-hashes" in stage(name)


def test_what_is_copied_is_sent_to_the_engine() -> None:
    sent = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    for source in re.findall(r"^COPY (?!--from)(\S+)", DOCKERFILE, re.MULTILINE):
        assert (ROOT / source).exists(), source
        assert any(Path(source).match(each) or each == source.rstrip("/") for each in sent), source


def test_only_export_has_torch() -> None:
    for name in ("gateway", "triton"):
        listed = (ROOT / "requirements" / f"{name}.txt").read_text()
        assert not re.search(r"^(torch|torchvision|open-clip-torch)==", listed, re.MULTILINE)


@pytest.mark.parametrize(("program", "listed"), [("gateway", "gateway"), ("server", "triton")])
def test_the_lists_hold_what_is_imported(program: str, listed: str) -> None:
    text = (ROOT / "requirements" / f"{listed}.txt").read_text()
    names = {name.lower() for name in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)}
    known = packages_distributions()
    for path in (ROOT / program).rglob("*.py"):
        for package in imported(path) - sys.stdlib_module_names - {program, "openclip_api"}:
            if package != "triton_python_backend_utils":  # tritonserver's own, beside the backend
                found = {name.lower().replace("_", "-") for name in known.get(package, [package])}
                assert found & names, f"{path} imports {package}"


def imported(path: Path) -> set[str]:
    """Packages that a module imports when it is imported itself."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_lists_name_no_index() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        assert "://" not in path.read_text(), path.name


def healthy(port: int) -> int:
    environment = {"GATEWAY_HTTP_PORT": str(port)}
    script = str(ROOT / "deploy" / "gateway" / "healthy.py")
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, timeout=60
    )
    return done.returncode


def test_the_health_check_tells_ready_from_not(api: GatewayClient) -> None:
    assert api.base_url.port is not None
    assert healthy(api.base_url.port) == 0


def test_the_health_check_fails_without_a_gateway() -> None:
    assert healthy(1) != 0


@pytest.mark.parametrize("target", ["triton-gpu", "export-gpu"])
def test_gpu_images_keep_nvidias_entry(target: str) -> None:
    _, _, rest = DOCKERFILE.partition(f" AS {target}\n")
    [entry] = re.findall(r"^ENTRYPOINT (.*)$", rest.partition("\nFROM ")[0], re.MULTILINE)
    assert json.loads(entry)[0] == "/opt/nvidia/nvidia_entrypoint.sh"
