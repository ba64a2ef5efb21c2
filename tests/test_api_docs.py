"""Every command of docs/api.md runs, and answers as shown."""

import base64
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from server.launcher import TritonServer
from tests.conftest import ROOT, GatewayClient, GatewayFactory
from tests.test_docs import assert_alike

PAGE = (ROOT / "docs" / "api.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VOLATILE = {"id", "created", "created_at", "expires_at", "tokenization_workers"}


@dataclass(frozen=True)
class Example:
    kind: str
    command: str
    shown: str | None  # what stands below it

    def __str__(self) -> str:
        return self.command[:60]


def examples(*kinds: str) -> list[Example]:
    blocks = BLOCK.findall(PAGE)
    found = []
    for index, (kind, command) in enumerate(blocks):
        below = blocks[index + 1] if index + 1 < len(blocks) else ("", "")
        program = "grpcurl" if command.startswith("grpcurl") else kind
        if program in kinds:
            shown = below[1] if below[0] in {"json", "text"} else None
            found.append(Example(program, command, shown))
    return found


def run(command: list[str], api: GatewayClient) -> str:
    command[-1] = command[-1].replace("http://127.0.0.1:8080", str(api.base_url).rstrip("/"))
    command[-1] = command[-1].replace("127.0.0.1:8081", api.grpc_address)
    ran = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'client'}", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def api(
    triton: TritonServer, start_gateway: GatewayFactory, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayClient]:
    """A gateway with default settings, but that it runs batches."""
    folder = tmp_path_factory.mktemp("batches")
    with start_gateway(triton_address=triton.addresses.grpc, batch_dir=folder) as client:
        assert client.get("/readyz").status_code == 200
        yield client


@pytest.mark.parametrize("example", examples("sh"), ids=str)
def test_curl(api: GatewayClient, example: Example) -> None:
    answer = json.loads(run(["bash", "-c", example.command], api))
    if example.shown is None:
        assert "error" not in answer
    else:
        shown = json.loads(example.shown)
        for volatile in VOLATILE.intersection(shown if isinstance(shown, dict) else ()):
            assert type(answer[volatile]) is type(shown[volatile])
            shown[volatile] = answer[volatile]
        assert_alike(answer, shown)


@pytest.mark.parametrize("example", examples("python"), ids=str)
def test_python(api: GatewayClient, example: Example) -> None:
    assert run([sys.executable, "-W", "ignore", "-c", example.command], api) == example.shown


@pytest.mark.parametrize("example", examples("grpcurl"), ids=str)
def test_grpcurl(api: GatewayClient, example: Example) -> None:
    """As grpcurl does it: the method is found by reflection, JSON goes in and comes out."""
    assert example.shown is not None
    program, *options, body, address, path = shlex.split(example.command)
    assert (program, options, address) == ("grpcurl", ["-plaintext", "-d"], "127.0.0.1:8081")
    service_name, _, method_name = path.partition("/")
    with grpc.insecure_channel(api.grpc_address) as channel:
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        method = pool.FindServiceByName(service_name).FindMethodByName(method_name)
        asked = message_factory.GetMessageClass(method.input_type)
        answered = message_factory.GetMessageClass(method.output_type)
        call = channel.unary_unary(
            f"/{path}",
            request_serializer=asked.SerializeToString,
            response_deserializer=answered.FromString,
        )
        answer: Any = call(json_format.Parse(body, asked()), timeout=30)
    assert_alike(readable(json_format.MessageToDict(answer)), readable(json.loads(example.shown)))


def readable(value: Any) -> Any:
    """Packed vectors as floats, whose last digits differ from one processor to the next."""
    if isinstance(value, list):
        return [readable(each) for each in value]
    if isinstance(value, dict):
        return {
            key: np.frombuffer(base64.b64decode(each), "<f4").tolist()
            if key == "vector"
            else readable(each)
            for key, each in value.items()
        }
    return value


def test_there_are_examples_to_run() -> None:
    assert len(examples("sh")) >= 8
    assert len(examples("python")) >= 6
    assert len(examples("grpcurl")) >= 2


def test_every_method_of_the_service_is_documented() -> None:
    proto = (ROOT / "openclip_api" / "v1" / "clip.proto").read_text()
    for method in re.findall(r"^  rpc (\w+)", proto, re.MULTILINE):
        assert f"`{method}`" in PAGE
