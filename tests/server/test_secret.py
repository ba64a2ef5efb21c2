"""Who reaches a Triton without its secret runs no code there: attacks on the real one."""

import base64
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from server import hidden_arguments, secret
from server.config import ServerConfig
from server.errors import SecretError
from server.launcher import TritonServer
from tests.gateway.proc import LISTENING, children, sockets
from tests.server import tiny
from tests.server.test_lifecycle import command_line

pytestmark = pytest.mark.slow

SECRET = secret.new()
PLANT = """\
open({marker!r}, "w").close()
class TritonPythonModel:
    def initialize(self, args): pass
    def execute(self, requests): return [None for _ in requests]
"""
PYTHON = {"backend": "python", "max_batch_size": 0}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """With HTTP open, which it is not by itself."""
    repository = tmp_path_factory.mktemp("repository")
    tiny.add_demo(repository)
    # A Triton that has refused to load a model again does not end before its time is up.
    config = ServerConfig(
        repository, http_port=0, grpc_port=0, metrics_port=0, secret=SECRET, stop_timeout=2
    )
    with TritonServer(config) as server:
        yield server


@pytest.fixture
def stub(attacked: TritonServer) -> Iterator[Any]:
    with grpc.insecure_channel(attacked.addresses.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """What the planted Python writes; it must never be there."""
    path = tmp_path / "it ran"
    yield path
    assert not path.exists()


def plant(marker: Path, **config: Any) -> Any:
    request = service_pb2.RepositoryModelLoadRequest(model_name="planted")
    request.parameters["config"].string_param = json.dumps(PYTHON | config)
    request.parameters["file:1/model.py"].bytes_param = PLANT.format(marker=str(marker)).encode()
    return request


def credentials(given: str | None) -> tuple[tuple[str, str], ...]:
    return () if given is None else ((secret.METADATA, given),)


@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
@pytest.mark.parametrize("headers", [{}, {secret.HEADER: "no" * 10}], ids=["none", "wrong"])
def test_http_loads_nothing_without_the_secret(
    attacked: TritonServer, marker: Path, headers: dict[str, str], kind: str
) -> None:
    code = base64.b64encode(PLANT.format(marker=str(marker)).encode()).decode()
    body = {"parameters": {"config": json.dumps(PYTHON), "file:1/model.py": code}}
    answer = httpx.post(
        f"http://{attacked.addresses.http}/v2/repository/models/planted/load",
        content=json.dumps(body), headers={"content-type": kind} | headers, timeout=60,
    )  # fmt: skip
    assert answer.status_code == httpx.codes.FORBIDDEN, answer.text


@pytest.mark.parametrize("given", [None, "no" * 10], ids=["none", "wrong"])
def test_grpc_loads_nothing_without_the_secret(stub: Any, marker: Path, given: str | None) -> None:
    with pytest.raises(grpc.RpcError, match="restricted"):
        stub.RepositoryModelLoad(plant(marker), metadata=credentials(given), timeout=60)


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("RepositoryIndex", {}),
        ("RepositoryModelUnload", {"model_name": "demo.image"}),
        ("ModelConfig", {"name": "demo.image"}),
        ("ModelStatistics", {}),
        ("SystemSharedMemoryRegister", {"name": "a", "key": "/a", "byte_size": 8}),
        ("CudaSharedMemoryStatus", {}),
        ("TraceSetting", {}),
        ("LogSettings", {}),
    ],
)
def test_nothing_else_is_changed_or_told_without_it(
    stub: Any, method: str, fields: dict[str, Any]
) -> None:
    request = getattr(service_pb2, f"{method}Request")(**fields)
    with pytest.raises(grpc.RpcError, match="restricted"):
        getattr(stub, method)(request, timeout=60)


def test_health_and_metadata_need_none(stub: Any) -> None:
    assert stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=60).ready
    assert stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="demo.image"), timeout=60).name


def test_the_secret_loads_what_is_in_the_repository(stub: Any) -> None:
    request = service_pb2.RepositoryModelLoadRequest(model_name="demo.image")
    stub.RepositoryModelLoad(request, metadata=credentials(SECRET), timeout=60)
    ready = service_pb2.ModelReadyRequest(name="demo.image")
    assert stub.ModelReady(ready, timeout=60).ready


@pytest.mark.parametrize(
    "config",
    [{}, {"backend": "onnxruntime", "default_model_filename": "model.py"}],
    ids=["python", "onnxruntime"],
)
def test_not_even_the_secret_loads_what_is_brought_along(
    stub: Any, marker: Path, config: dict[str, Any]
) -> None:
    with pytest.raises(grpc.RpcError, match="only files of the model repository are loaded"):
        stub.RepositoryModelLoad(plant(marker, **config), metadata=credentials(SECRET), timeout=60)
    assert stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=60)


def test_a_path_does_not_lead_out_of_the_models_folder(
    attacked: TritonServer, stub: Any, tmp_path: Path
) -> None:
    outside = tmp_path / "model.onnx"
    outside.write_bytes(tiny.image_graph().SerializeToString())
    path = os.path.relpath(outside, attacked.config.model_repository / "demo.image" / "1")
    request = service_pb2.RepositoryModelLoadRequest(model_name="demo.image")
    config = {"backend": "onnxruntime", "max_batch_size": 8, "default_model_filename": path}
    request.parameters["config"].string_param = json.dumps(config)
    with pytest.raises(grpc.RpcError, match="only files of the model repository are loaded"):
        stub.RepositoryModelLoad(request, metadata=credentials(SECRET), timeout=60)


def test_metrics_are_only_read(attacked: TritonServer, marker: Path) -> None:
    url = f"http://{attacked.addresses.metrics}/v2/repository/models/planted/load"
    assert httpx.post(url, json={}, timeout=60).status_code == httpx.codes.METHOD_NOT_ALLOWED
    host, _, port = attacked.addresses.metrics.partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = "POST /metrics HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n"
        connection.sendall(head.encode() + b"6\r\n123456\r\n" * 1_000_000 + b"0\r\n\r\n")
        assert b" 405 " in connection.recv(1000)  # on the port for HTTP this is the end of Triton
    assert (
        "nv_inference_count"
        in httpx.get(f"http://{attacked.addresses.metrics}/metrics", timeout=60).text
    )


def test_by_itself_it_has_no_http(tmp_path: Path) -> None:
    tiny.add_demo(tmp_path)
    with TritonServer(ServerConfig(tmp_path, grpc_port=0, metrics_port=0)) as server:
        assert server.addresses.http is None
        assert server._guard is not None
        [tritonserver] = children(server._guard.pid)
        assert listening(tritonserver) == {server.config.grpc_port, server.config.metrics_port}
        assert secret.FORM.fullmatch(server.config.secret)


def listening(pid: int) -> set[int]:
    """The ports that a process listens on."""
    return {port for port, state in sockets(pid) if state == LISTENING}


def test_a_file_keeps_a_secret_that_others_cannot_read(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    made = secret.kept(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert secret.kept(file) == made
    assert secret.kept(tmp_path / "another") != made


@pytest.mark.parametrize("content", ["", "short", "with space and more of it", "a:b=c" * 10])
def test_what_cannot_be_a_secret_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "secret"
    file.write_text(content)
    with pytest.raises(SecretError, match="16 to 256 letters"):
        secret.kept(file)


def test_a_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="nowhere/secret"):
        secret.kept(tmp_path / "nowhere" / "secret")


def test_no_command_line_ever_shows_the_secret(tmp_path: Path) -> None:
    tiny.add_demo(tmp_path)
    config = ServerConfig(tmp_path, grpc_port=0, metrics_port=0, secret=SECRET)
    seen: set[int] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            for entry in Path("/proc").glob("[0-9]*"):
                if SECRET in command_line(entry):
                    seen.add(int(entry.name))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        with TritonServer(config) as server:
            assert server._guard is not None
            [tritonserver] = children(server._guard.pid)
            assert "openclip-secret=hidden\0" in command_line(Path(f"/proc/{tritonserver}"))
    finally:
        ended.set()
        looking.join()
    assert not seen


@pytest.mark.parametrize("traced", [True, False])
def test_a_program_gets_its_hidden_arguments_whole(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    traced: bool,
) -> None:
    if not traced:
        monkeypatch.setattr(hidden_arguments, "PTRACE_TRACEME", 9999)  # no such request
    script = 'cat /proc/$$/cmdline > shown; printf "%s " "$@" > given'
    words = ["/bin/sh", "-c", script, "sh", "--first", f"--a={SECRET}", "--last", f"--b={SECRET}"]
    environment = {"PATH": os.environ["PATH"]}
    process = hidden_arguments.start(words, SECRET, environment, lambda: os.chdir(tmp_path))
    assert process.wait(60) == 0
    assert (tmp_path / "given").read_text().split() == words[4:]
    assert (SECRET in (tmp_path / "shown").read_text()) is not traced
    assert ("command line shows its secret" in capsys.readouterr().err) is not traced
