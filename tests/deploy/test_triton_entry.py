"""The entry of the triton-gpu image, with a program that stands for tritonserver."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.triton.bindings import LISTS, bindings
from server import secret
from tests.conftest import REPOSITORY, ROOT


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return Path(shutil.copytree(REPOSITORY, tmp_path / "models"))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With a tritonserver that prints what it is started with."""
    program = tmp_path / "bin" / "tritonserver"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def serve(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    script = ROOT / "deploy" / "triton" / "serve.py"
    return subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_it_loads_what_the_manifests_name(environment: dict[str, str], repository: Path) -> None:
    done = serve(environment, repository, "--log-verbose=1")
    assert done.returncode == 0, done.stderr
    options = done.stdout.splitlines()
    assert f"--model-repository={repository}" in options
    assert "--model-control-mode=explicit" in options
    assert [each for each in options if each.startswith("--load-model=")] == [
        f"--load-model=demo.{tower}" for tower in ("image", "text")
    ]
    assert options[-1] == "--log-verbose=1"


def test_one_model_may_be_chosen(environment: dict[str, str], repository: Path) -> None:
    assert serve(environment | {"TRITON_MODELS": "demo"}, repository).returncode == 0
    done = serve(environment | {"TRITON_MODELS": "demo,other"}, repository)
    assert done.returncode == 1
    assert "no model 'other'" in done.stderr


def test_a_plan_that_cannot_run_here_stops_it(
    environment: dict[str, str], repository: Path
) -> None:
    (repository / "demo.image" / "1" / "model.plan").write_bytes(b"a plan of another machine")
    done = serve(environment, repository)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert not done.stdout


def test_what_is_wrong_is_said(environment: dict[str, str], tmp_path: Path) -> None:
    assert serve(environment).returncode == 2
    missing = serve(environment, tmp_path / "nowhere")
    assert missing.returncode == 1
    assert "no such folder" in missing.stderr


def test_bindings_are_those_of_the_library() -> None:
    assert bindings("10.16.1.11").name == "10.16.1.11.txt"
    assert bindings("10.13.3.9").name == "10.13.3.9.post1.txt"
    with pytest.raises(LookupError, match=r"TensorRT 9\.9\.9\.9 .*requirements/tensorrt\.in"):
        bindings("9.9.9.9")


def test_every_list_of_bindings_is_hashed_and_asked_for() -> None:
    lines = (LISTS.parent / "tensorrt.in").read_text().splitlines()
    asked = {line for line in lines if not line.startswith("#")}
    assert {f"tensorrt-cu13-bindings=={path.stem}" for path in LISTS.iterdir()} == asked
    for path in LISTS.iterdir():
        text = path.read_text()
        assert f"tensorrt-cu13-bindings=={path.stem} " in text
        assert "--hash=sha256:" in text


def test_nothing_is_installed_without_hashes() -> None:
    steps = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    installs = [
        part for step in steps for part in step.split("&&") if " install " in part and "pip" in part
    ]
    # PyTorch of an index that the user names, in other builds than those of the lists.
    [named] = [each for each in installs if "${TORCH_INDEX}" in each]
    installs.remove(named)
    assert len(installs) == 6
    for install in installs:
        assert "--require-hashes" in install, install


def test_triton_has_no_http_and_a_secret(
    environment: dict[str, str], repository: Path, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    first, second = (
        serve(environment | {"TRITON_SECRET_FILE": str(file)}, repository).stdout for _ in range(2)
    )
    assert first == second
    options = first.splitlines()
    assert "--allow-http=false" in options
    assert set(secret.options(file.read_text().strip())) <= set(options)
    unknown = serve(environment, repository).stdout.splitlines()
    assert "--allow-http=false" in unknown
    assert sum("-restricted-" in option for option in unknown) == 2


def test_a_file_that_holds_no_secret_stops_it(
    environment: dict[str, str], repository: Path, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    file.write_text("short")
    done = serve(environment | {"TRITON_SECRET_FILE": str(file)}, repository)
    assert done.returncode == 1
    assert "16 to 256 letters" in done.stderr
    assert not done.stdout
