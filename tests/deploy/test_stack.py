"""`make run`'s program: it announces itself, its curl works, and it stops both processes."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from benchmarks.systems.processes import tree
from deploy.stack import StackConfig, parse
from deploy.stack import banner as stack_banner
from gateway.inference.secret import Secret
from gateway.models.manifest import read_manifest
from server.config import ServerConfig
from tests.conftest import REPOSITORY, ROOT, killed_after
from tests.gateway.proc import below, children
from tests.gateway.tritons import copied
from tests.gateway.waiting import wait_until

START_S = 90.0
PORTS = ("http", "grpc", "triton-grpc", "triton-metrics")


@contextmanager
def stack(*options: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.stack", *(f"--{name}-port=0" for name in PORTS), *options],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=60)


def banner(process: subprocess.Popen[str]) -> str:
    """What it prints until it says how to stop it."""
    assert process.stdout is not None
    text = ""
    with killed_after(START_S, process):
        while "Ctrl-C" not in text:
            line = process.stdout.readline()
            assert line, f"it ended early: {text}"
            text += line
    return text


def assert_gone(pids: list[int]) -> None:
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "some are left")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_and_stops_cleanly(stop: signal.Signals, tmp_path: Path) -> None:
    demo = read_manifest(REPOSITORY / "demo.manifest.json")
    repository = copied(tmp_path)
    named = demo.model_copy(update={"open_clip_name": "Drawn"}).model_dump_json()
    (repository / "demo.manifest.json").write_text(named)
    options = ("--model=Drawn", f"--pretrained={demo.pretrained}", "--precision=fp32,int8")
    with stack("--model-repository", str(repository), *options) as process:
        text = banner(process)
        url = text.partition("Ready: ")[2].split()[0]
        [served] = httpx.get(f"{url}/v1/models", timeout=30).json()["data"]
        assert (served["id"], served["aliases"], served["default"]) == ("demo", ["Drawn"], True)
        started = tree(process.pid)[1:]
        assert len(started) >= 4  # gateway, guard, tritonserver, stubs
        command = text.partition("Try it:\n")[2].partition("\n\nStop")[0]
        answer = subprocess.run(
            ["bash", "-c", command], cwd=ROOT, capture_output=True, check=True, timeout=60
        )
        found = json.loads(answer.stdout)
        assert '"model": "Drawn",' in command
        assert found["model"] == "demo"
        assert found["results"][0]["predictions"][0]["label"] == "red circle"
        process.send_signal(stop)
        assert process.wait(60) == 0
        assert_gone(started)


@pytest.mark.parametrize(
    ("published", "wanted", "named"),
    [
        (["demo"], "", "demo"),
        (["alpha", "demo", "zeta"], "", "demo"),
        (["zeta", "alpha"], "", "alpha"),
        (["alpha", "demo", "zeta"], '["zeta", "alpha"]', "alpha"),
    ],
)
def test_its_curl_names_a_served_model(
    tmp_path: Path, published: list[str], wanted: str, named: str
) -> None:
    for each in published:
        publish_as(tmp_path, each)
    config = StackConfig("127.0.0.1", 8080, 8081, ServerConfig(tmp_path))
    text = stack_banner(config, {"GATEWAY_MODELS": wanted})
    assert f'"model": "{named}",\n' in text
    assert "authorization" not in text


@pytest.mark.parametrize(("model", "named"), [("ViT-B-32", '"model": "ViT-B-32",\n'), ("/", None)])
def test_its_curl_names_the_wanted_model_unless_that_is_a_path(
    model: str, named: str | None
) -> None:
    wanted = {"model": model, "pretrained": "", "precision": ""}
    config = StackConfig("127.0.0.1", 8080, 8081, ServerConfig(REPOSITORY), wanted)
    text = stack_banner(config, {})
    command = text.partition("-d '{\n")[2]
    assert command.startswith(f"    {named}" if named else '    "image": ')


def test_its_curl_has_a_key_where_keys_are_required() -> None:
    config = StackConfig("127.0.0.1", 8080, 8081, ServerConfig(REPOSITORY))
    text = stack_banner(config, {"GATEWAY_API_KEYS_FILE": "keys.yaml"})
    command = text.partition("Try it:\n")[2].partition("\n\nStop")[0]
    shown = subprocess.run(
        ["bash", "-c", f'curl() {{ printf "%s\n" "$@"; }}; {command}'],
        cwd=ROOT, env=os.environ | {"OPENCLIP_API_KEY": "oct_a"}, capture_output=True, check=True,
        text=True, timeout=30,
    ).stdout  # fmt: skip
    assert "authorization: Bearer oct_a\n" in shown
    assert json.loads(shown[shown.index("{") :])["model"] == "demo"


def publish_as(repository: Path, name: str) -> None:
    towers = [f"{name}.image", f"{name}.text"]
    for tower in towers:
        (repository / tower).mkdir()
        (repository / tower / "config.pbtxt").touch()
    triton = {"image": {"name": towers[0]}, "text": [{"name": towers[1]}]}
    manifest = {"schema_version": 1, "triton": triton}
    (repository / f"{name}.manifest.json").write_text(json.dumps(manifest))


def test_tls_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_TLS_CERT", "chain.pem")
    with stack() as process:
        output, errors = process.communicate(timeout=START_S)
    assert process.returncode == 1
    assert "GATEWAY_TLS_CERT" in errors
    assert "Starting" not in output


def test_killed_outright_it_leaves_nothing_running() -> None:
    with stack() as process:
        banner(process)
        started = tree(process.pid)[1:]
        process.kill()
        process.wait(60)
        assert_gone(started)


def test_a_gateway_that_ends_takes_the_stack_down() -> None:
    with stack() as process:
        url = played(banner(process))
        assert httpx.get(f"{url}/", timeout=30).headers["content-type"].startswith("text/html")
        started = tree(process.pid)[1:]
        os.kill(found(process, "-m", "gateway"), signal.SIGKILL)
        _, errors = process.communicate(timeout=START_S)
        assert process.returncode == 1
        assert "the gateway ended" in errors
        assert_gone(started)


def test_triton_is_started_again_and_the_gateway_goes_on() -> None:
    with stack() as process:
        url = played(banner(process))
        gateway = found(process, "-m", "gateway")
        crash(process)
        wait_until(lambda: httpx.get(f"{url}/readyz", timeout=30).status_code == 503)
        wait_until(lambda: httpx.get(f"{url}/readyz", timeout=30).status_code == 200)
        assert found(process, "-m", "gateway") == gateway
        crash(process)
        wait_until(lambda: httpx.get(f"{url}/readyz", timeout=30).status_code == 503)
        wait_until(lambda: httpx.get(f"{url}/readyz", timeout=30).status_code == 200)
        started = tree(process.pid)[1:]
        crash(process)
        _, errors = process.communicate(timeout=START_S)
        assert process.returncode == 1
        assert errors.count("Starting Triton again") == 2
        assert errors.count("error: tritonserver was killed by SIGSEGV") == 3
        assert_gone(started)


def test_the_gateway_of_the_stack_can_load_models_and_others_cannot() -> None:
    with stack() as process:
        banner(process)
        environment = environment_of(found(process, "-m", "gateway"))
        metadata = Secret(Path(environment["GATEWAY_TRITON_SECRET_FILE"])).read()
        asked = service_pb2.RepositoryModelLoadRequest(model_name="demo.image")
        with grpc.insecure_channel(environment["GATEWAY_TRITON_ADDRESS"]) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            stub.RepositoryModelLoad(asked, metadata=metadata, timeout=START_S)
            with pytest.raises(grpc.RpcError, match="restricted"):
                stub.RepositoryModelLoad(asked, timeout=START_S)


def test_triton_listens_on_this_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATEWAY_TLS_CERT", raising=False)
    given = parse(["--host=0.0.0.0", *(f"--{name}-port=0" for name in PORTS)])
    assert given.host == "0.0.0.0"  # noqa: S104 (compared)
    assert given.triton.host == "127.0.0.1"
    assert given.triton.http_port is None


def played(banner: str) -> str:
    """Where the playground is."""
    url = re.search(r"Playground, in a browser: (\S+)/", banner)
    assert url is not None
    return url[1]


def found(process: subprocess.Popen[str], *words: str) -> int:
    """The process below the stack's that was started with these words."""
    [pid] = below(process.pid, *words)
    return pid


def crash(process: subprocess.Popen[str]) -> None:
    """Triton comes to the end that a bug in it brings about."""
    [triton] = children(found(process, "-m", "server.guard"))
    os.kill(triton, signal.SIGSEGV)


def environment_of(pid: int) -> dict[str, str]:
    words = Path(f"/proc/{pid}/environ").read_text().rstrip("\0").split("\0")
    return dict(word.split("=", 1) for word in words)


@pytest.mark.parametrize("variable", ["HTTP_PORT", "GRPC_PORT", "TRITON_GRPC_PORT"])
def test_a_taken_port_is_named(variable: str) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with stack(f"--{variable.lower().replace('_', '-')}={port}") as process:
            output, errors = process.communicate(timeout=START_S)
    assert process.returncode == 1
    assert f"port {port}" in errors
    assert variable in errors
    assert "Starting" not in output


def test_a_model_that_does_not_load_is_reported(tmp_path: Path) -> None:
    repository = shutil.copytree(REPOSITORY, tmp_path / "models")
    [graph] = repository.glob("demo.image/*/model.onnx")
    graph.write_bytes(b"not a graph")
    with stack("--model-repository", str(repository)) as process:
        _, errors = process.communicate(timeout=START_S)
    assert process.returncode == 1
    assert "demo.image" in errors
    assert str(graph.relative_to(repository)) in errors


def test_no_models_is_reported(tmp_path: Path) -> None:
    with stack("--model-repository", str(tmp_path)) as process:
        _, errors = process.communicate(timeout=START_S)
    assert process.returncode == 1
    assert "python -m export" in errors
