"""The compose files, without an engine: `make test-compose` tries them with one."""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.settings import FastestOf, Settings
from tests.conftest import ROOT

FILES = ("docker-compose.yml", "docker-compose.gpu.yml", "docker-compose.model.yml")
PROFILES = ("observability", "load", "export")
VARIABLE = re.compile(r"\$\{([A-Z_]+):-([^}]*)\}")
ASSIGNED = re.compile(r"^([A-Z_]+)=(.*)$", re.MULTILINE)

TEXTS = {name: (ROOT / name).read_text() for name in FILES}
EXAMPLE = (ROOT / ".env.example").read_text()


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(TEXTS[FILES[0]])["services"]
    return found


def compose() -> Sequence[str]:
    if docker := shutil.which("docker"):
        known = subprocess.run([docker, "compose", "version"], capture_output=True, timeout=60)
        if known.returncode == 0:
            return (docker, "compose")
    if classic := shutil.which("docker-compose"):
        return (classic,)
    pytest.skip("no Compose here (`docker compose` or `docker-compose`)")


@pytest.mark.parametrize("profile", [None, *PROFILES])
@pytest.mark.parametrize("files", [FILES[:1], FILES[:2], FILES[::2]], ids=["cpu", "gpu", "model"])
def test_compose_takes_the_files(files: Sequence[str], profile: str | None) -> None:
    names = [part for name in files for part in ("--file", name)]
    chosen = ["--profile", profile] if profile else []
    done = subprocess.run(
        [*compose(), *names, "--env-file", ".env.example", *chosen, "config"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = yaml.safe_load(done.stdout)["services"]
    assert {"gateway", "triton"} <= found.keys()


def test_every_variable_is_in_the_example_with_its_default() -> None:
    example = dict(ASSIGNED.findall(EXAMPLE))
    used: dict[str, set[str]] = {}
    for text in TEXTS.values():
        for name, default in VARIABLE.findall(text):
            used.setdefault(name, set()).add(default)
    assert example.keys() == used.keys()
    # The overlay gives a GPU's Triton more. A copy of the example must not take that back.
    both = {"TRITON_SHM", "TRITON_MEMORY", "GATEWAY_TRITON_CALLS"}
    for name, defaults in used.items():
        assert len(defaults) == (2 if name in both else 1), name
        assert example[name] in ({""} if name in both else defaults), name


def test_every_variable_is_explained() -> None:
    lines = EXAMPLE.splitlines()
    for index, line in enumerate(lines):
        if ASSIGNED.match(line):
            assert lines[index - 1].startswith("# ") or ASSIGNED.match(lines[index - 1]), line


def test_no_variable_is_without_a_default() -> None:
    for text in TEXTS.values():
        assert len(re.findall(r"\$\{", text)) == len(VARIABLE.findall(text))


def test_the_gateways_variables_exist(services: dict[str, Any]) -> None:
    known = {f"GATEWAY_{name.upper()}" for name in Settings.model_fields}
    assert services["gateway"]["environment"].keys() <= known


def test_variables_that_the_guides_name_are_passed_on(services: dict[str, Any]) -> None:
    named = {
        "GATEWAY_MODELS", "GATEWAY_MODEL_ALIASES", "GATEWAY_MAX_WAIT_S", "GATEWAY_OTLP_ENDPOINT",
        "GATEWAY_TLS_CLIENT_CA", "GATEWAY_CLIENT_SHARE",
    }  # fmt: skip
    assert named <= services["gateway"]["environment"].keys()


def test_empty_variables_are_unset(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in services["gateway"]["environment"].items():
        found = VARIABLE.fullmatch(str(value))
        if found is not None and not found[2]:
            monkeypatch.setenv(name, "")
            field = name.removeprefix("GATEWAY_").lower()
            assert getattr(Settings(), field) == Settings.model_fields[field].default


def test_defaults_are_the_gateways_own(services: dict[str, Any]) -> None:
    for name, value in services["gateway"]["environment"].items():
        found = VARIABLE.fullmatch(str(value))
        if found is None:
            continue
        default = Settings.model_fields[name.removeprefix("GATEWAY_").lower()].default
        if name == "GATEWAY_TRITON_CALLS":
            default = 1  # this file's Triton is on a CPU
        if name == "GATEWAY_HOSTS":
            default = '["gateway"]'  # pages elsewhere do not reach the published port by their name
        expected = str(default) if default not in (None, (), {}) else ""
        assert found[2] in (expected, expected.removesuffix(".0"), expected.lower()), name


def test_every_service_is_confined(services: dict[str, Any]) -> None:
    job = yaml.safe_load(TEXTS[FILES[2]])["services"]["model"]
    for name, service in (services | {"model": job}).items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "mem_limit" in service or name in ("export", "model"), name
        assert service["pids_limit"], name
        assert service["restart"] == ("no" if name in ("export", "model") else "unless-stopped"), (
            name
        )


def test_ports_are_published_on_this_machine_alone(services: dict[str, Any]) -> None:
    for service in services.values():
        for port in service.get("ports", ()):
            assert port.startswith("${PUBLISH_ADDRESS:-127.0.0.1}:")
    assert "ports" not in services["triton"]


def test_triton_and_the_gateway_share_a_secret_and_nobody_else_has_it(
    services: dict[str, Any],
) -> None:
    path = services["triton"]["environment"]["TRITON_SECRET_FILE"]
    assert services["gateway"]["environment"]["GATEWAY_TRITON_SECRET_FILE"] == path
    mounts = {
        name: [volume for volume in service.get("volumes", ()) if volume.startswith("secret:")]
        for name, service in services.items()
    }
    assert {name: each for name, each in mounts.items() if each} == {
        "triton": ["secret:/secret"], "gateway": ["secret:/secret:ro"],
    }  # fmt: skip
    for target in ("gateway", "triton-cpu", "triton-gpu"):
        _, _, rest = (ROOT / "Dockerfile").read_text().partition(f" AS {target}\n")
        made = "--mode=0700 --owner=10001 --group=10001 /secret\n"
        assert made in rest.partition("\nFROM ")[0]


def test_the_start_is_in_order(services: dict[str, Any]) -> None:
    assert services["gateway"]["depends_on"] == {"triton": {"condition": "service_healthy"}}
    assert services["load"]["depends_on"] == {"gateway": {"condition": "service_healthy"}}


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("model", ["tiny", ""])
def test_the_model_is_exported_unless_it_is_published(
    tmp_path: Path, model: str, *, published: bool
) -> None:
    """Run the job's command with a `python` that says what it is asked for."""
    given = {"MODEL": model, "PRETRAINED": "/cache/a b.pt", "EXPORT_ARGS": "--max-batch 8"}
    done = subprocess.run(
        [*compose(), "-f", FILES[0], "-f", FILES[2], "--env-file", ".env.example", "config"],
        cwd=ROOT, env=os.environ | given, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    services = yaml.safe_load(done.stdout)["services"]
    assert services["triton"]["depends_on"] == {
        "model": {"condition": "service_completed_successfully"}
    }
    wanted = json.loads(services["gateway"]["environment"]["GATEWAY_FASTEST_OF"])
    assert FastestOf(**wanted) == FastestOf(
        model=model, pretrained="/cache/a b.pt", precision="fp32"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nprintf "[%s]" "$@"\n[ {int(published)} = 1 ]\n')
    python.chmod(0o755)
    job = services["model"]
    words = job["command"] if isinstance(job["command"], list) else shlex.split(job["command"])
    ran = subprocess.run(
        [word.replace("$$", "$") for word in (*job["entrypoint"], *words)],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    asked = "[-m][export][tiny][--pretrained=/cache/a b.pt][--precision=fp32][--max-batch][8]"
    if not model:
        assert (ran.returncode, ran.stdout) == (1, "")
        assert ran.stderr == "error: set MODEL in .env, such as MODEL=ViT-B-32\n"
    elif published:
        assert (ran.returncode, ran.stdout) == (0, f"{asked}[--published]")
    else:
        assert (ran.returncode, ran.stdout) == (1, f"{asked}[--published]{asked}")


def test_every_profile_is_used(services: dict[str, Any]) -> None:
    found = {name for service in services.values() for name in service.get("profiles", ())}
    assert found == set(PROFILES)


def test_images_have_versions(services: dict[str, Any]) -> None:
    for name, default in (pair for text in TEXTS.values() for pair in VARIABLE.findall(text)):
        if name.endswith("_IMAGE"):
            assert re.search(r":v?\d+\.\d+", default), name
    assert all("image" in service for service in services.values())


def test_every_built_target_is_in_the_dockerfile() -> None:
    targets = set(re.findall(r"^FROM .* AS ([\w-]+)$", (ROOT / "Dockerfile").read_text(), re.M))
    for text in TEXTS.values():
        for service in yaml.safe_load(text)["services"].values():
            if "build" in service:
                assert service["build"]["target"] in targets
                assert f"/{service['build']['target']}:" in service["image"]
