"""Real Tritons that can be killed, brought back at the same address, stopped and continued."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from tritonclient.grpc import InferenceServerClient

from benchmarks.systems import null_encoder
from gateway.inference.client import Call, Encoder, InferClient, cosine_to
from gateway.inference.control import ModelControl
from gateway.inference.grpc_client import GrpcInferClient
from gateway.inference.secret import NO_SECRET, Secret
from gateway.models.gate import Speed
from gateway.models.manifest import Manifest, read_manifest
from gateway.models.variants import processor
from server import secret
from server.config import ServerConfig
from server.launcher import TritonServer
from server.secret import METADATA
from tests.conftest import REPOSITORY, free_port
from tests.gateway.proc import children, stopped
from tests.gateway.waiting import wait_until

SIZE = 96  # of the matrices of `slow`

node = onnx.helper.make_node


class SteeredTriton:
    """A Triton at a fixed address, and what can befall it."""

    def __init__(self, repository: Path = REPOSITORY) -> None:
        self.repository = repository
        self.grpc_port = free_port()
        self.address = f"127.0.0.1:{self.grpc_port}"
        self._server: TritonServer | None = None
        self._pid = 0

    def start(self) -> None:
        """Start it; return when it serves."""
        config = ServerConfig(self.repository, grpc_port=self.grpc_port, metrics_port=0, quiet=True)
        self._server = TritonServer(config)
        self._server.__enter__()
        self._pid = self._tritonserver()

    def control(self, action: str, model: str) -> None:
        """Have it `load` or `unload` a model."""
        assert self._server is not None
        with asking(self._server) as (client, headers):
            getattr(client, f"{action}_model")(model, headers=headers)

    def encoded(self, model: str) -> int:
        """How many rows an encoder has run."""
        assert self._server is not None
        return inferences(self._server)[model]

    def failed(self, model: str) -> int:
        """How many calls of an encoder have failed."""
        assert self._server is not None
        with asking(self._server) as (client, headers):
            found = client.get_inference_statistics(model, headers=headers, as_json=True)
        return int(found["model_stats"][0]["inference_stats"]["fail"].get("count", 0))

    def secret(self, folder: Path) -> Secret:
        """What it asks of those who load models and read its statistics, in a file there."""
        assert self._server is not None
        path = folder / "secret"
        path.write_text(self._server.config.secret)
        return Secret(path)

    def kill(self) -> None:
        """SIGKILL; what it leaves behind is cleaned up."""
        if self._server is not None:
            self.thaw()
            os.kill(self._pid, signal.SIGKILL)
            self._server.stop()
            self._server = None

    def freeze(self) -> None:
        """SIGSTOP: connections stand, and nothing is answered once every thread has stopped."""
        os.kill(self._pid, signal.SIGSTOP)
        wait_until(partial(stopped, self._pid), "it stops")

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self._pid, signal.SIGCONT)

    def stop(self) -> None:
        """Stop it in order."""
        if self._server is not None:
            self.thaw()
            self._server.stop()
            self._server = None

    def _tritonserver(self) -> int:
        assert self._server is not None
        assert self._server._guard is not None
        guard = self._server._guard.pid

        def found() -> list[int]:
            comms = {pid: Path(f"/proc/{pid}/comm").read_text() for pid in children(guard)}
            return [pid for pid, comm in comms.items() if comm == "tritonserver\n"]

        wait_until(found, "no tritonserver below the guard")
        return found()[0]


@contextlib.contextmanager
def asking(server: TritonServer) -> Iterator[tuple[Any, dict[str, str]]]:
    """A client of a Triton, and the headers that it needs for all that is restricted."""
    with InferenceServerClient(server.addresses.grpc) as client:
        yield client, {METADATA: server.config.secret}


def inferences(server: TritonServer) -> dict[str, int]:
    """How many rows each encoder has run."""
    with asking(server) as (client, headers):
        found = client.get_inference_statistics(headers=headers, as_json=True)["model_stats"]
    return {each["name"]: int(each.get("inference_count", 0)) for each in found}


@contextlib.contextmanager
def steered(repository: Path = REPOSITORY) -> Iterator[SteeredTriton]:
    """One that serves, stopped when the block ends."""
    triton = SteeredTriton(repository)
    triton.start()
    try:
        yield triton
    finally:
        triton.stop()


@contextlib.contextmanager
def guarded(repository: Path) -> Iterator[TritonServer]:
    """A Triton whose secret is in the file `secret` beside its repository."""
    kept = secret.kept(repository.parent / "secret")
    with TritonServer(ServerConfig(repository, grpc_port=0, metrics_port=0, secret=kept)) as server:
        yield server


def index(triton: TritonServer) -> dict[str, dict[int, str]]:
    """The state of each version of each encoder, in Triton's words."""
    with asking(triton) as (client, headers):
        models = client.get_model_repository_index(headers=headers).models
    found: dict[str, dict[int, str]] = {}
    for each in models:
        found.setdefault(each.name, {})[int(each.version or 0)] = each.state
    return found


@contextlib.asynccontextmanager
async def client_of(
    triton: TritonServer,
    repository: Path | None = None,
    *,
    knows: bool = True,
    wake: Literal["wait", "refuse"] | None = None,
) -> AsyncIterator[GrpcInferClient]:
    """The client of a gateway, which may read another repository; whether it knows the secret."""
    root = triton.config.model_repository
    known = Secret(root.parent / "secret") if knows else NO_SECRET
    control = ModelControl(repository or root, known)
    client = GrpcInferClient([triton.addresses.grpc], control, wake=wake)
    try:
        yield client
    finally:
        await client.close()


async def use(client: InferClient, encoder: Encoder, within: float = 300.0) -> None:
    """Run an encoder on its golden input; the answer must be its golden vector."""
    golden = encoder.golden()
    [vector] = await client.infer(Call(encoder, golden.batch), within)
    assert cosine_to(golden, vector) >= golden.min_cosine


def write_impostor(folder: Path) -> Path:
    """A repository with the encoders' names and shapes, and other weights; returns its path."""
    impostor = folder / "impostor"
    [manifest] = (json.loads(each.read_text()) for each in REPOSITORY.glob("*.manifest.json"))
    null_encoder.write_repository(REPOSITORY, manifest, impostor)
    return impostor


def copied(folder: Path) -> Path:
    """The demo model in a folder of its own."""
    hidden = shutil.ignore_patterns(".*")  # such as locks
    return Path(shutil.copytree(REPOSITORY, folder / "repository", ignore=hidden))


def add_copies(repository: Path, *names: str) -> None:
    """Publish the demo model again under each of these names, a fingerprint to each."""
    demo = read_manifest(repository / "demo.manifest.json")
    for name in names:
        image, [text] = demo.triton.image, demo.triton.text
        served = demo.triton.model_copy(
            update={
                "image": image.model_copy(update={"name": f"{name}.image"}),
                "text": (text.model_copy(update={"name": f"{name}.text"}),),
            }
        )
        for tower in ("image", "text"):
            shutil.copytree(repository / f"demo.{tower}", repository / f"{name}.{tower}")
            config = repository / f"{name}.{tower}" / "config.pbtxt"
            config.write_text(config.read_text().replace(f"demo.{tower}", f"{name}.{tower}"))
        fingerprint = hashlib.sha256(name.encode()).hexdigest()
        copy = {"id": name, "fingerprint": fingerprint, "triton": served, "files": {}}
        written = demo.model_copy(update=copy).model_dump_json()
        (repository / f"{name}.manifest.json").write_text(written)


def add_variant(
    repository: Path, name: str, weights: str, precision: str, both: float | None = None
) -> Manifest:
    """Publish the demo model as a variant of another, over the demo's own encoders.

    `both` is how many times as fast as FP32 it was here; None: nobody measured it.
    """
    demo = read_manifest(repository / "demo.manifest.json")
    model_id = f"{name}.{weights}" + ("" if precision == "fp32" else f".{precision}")
    speeds = () if both is None else (Speed(1, both, both, both), Speed(8, both, both, both))
    gate = replace(demo.gate, speeds=speeds, processor=processor())
    changes = {
        "id": model_id,
        "fingerprint": hashlib.sha256(model_id.encode()).hexdigest(),
        "open_clip_name": name,
        "pretrained": weights,
        "precision": precision,
        "gate": gate,
    }
    written = demo.model_copy(update=changes)
    (repository / f"{model_id}.manifest.json").write_text(written.model_dump_json())
    return written


def scaled(model: bytes, scale: float, only: int | None = None) -> bytes:
    """A text encoder (ONNX) whose vectors have this length, in the same directions as before.

    With `only`, those of texts that hold this token alone.
    """
    nodes = [
        node("Equal", ["ids", "token"] if only else ["ids", "ids"], ["equal"]),
        node("Cast", ["equal"], ["equals"], to=onnx.TensorProto.FLOAT),
        node("ReduceMax", ["equals", "axes"], ["found"], keepdims=1),
        node("Mul", ["found", "more"], ["scale.more"]),
        node("Mul", ["before", "scale.more"], ["vectors.more"]),
        node("Add", ["before", "vectors.more"], ["after"]),
    ]
    token, more = np.int32(only or 0), np.float32(scale - 1)
    return extended(model, nodes, token=token, axes=np.array([1]), more=more)


def failing(model: bytes, token: int) -> bytes:
    """A text encoder (ONNX) that fails as a whole on a batch with this token."""
    nodes = [
        node("Equal", ["ids", "token"], ["equal"]),
        node("Cast", ["equal"], ["equals"], to=onnx.TensorProto.INT64),
        node("ReduceMax", ["equals"], ["found"], keepdims=0),
        node("Add", ["found", "single"], ["elements"]),
        node("Reshape", ["single", "elements"], ["one"]),  # of one element to two
        node("Cast", ["one"], ["scale"], to=onnx.TensorProto.FLOAT),
        node("Mul", ["before", "scale"], ["after"]),
    ]
    return extended(model, nodes, token=np.int32(token), single=np.array([1]))


def slow(model: bytes, token: int, products: int) -> bytes:
    """A text encoder (ONNX) that multiplies `products` matrices before it answers to this token."""
    value = onnx.helper.make_tensor_value_info
    scalar, matrix = onnx.TensorProto.BOOL, onnx.TensorProto.FLOAT
    body = onnx.helper.make_graph(
        [node("MatMul", ["given", "zeros"], ["made"]), node("Identity", ["more"], ["again"])],
        "product",
        [
            value("step", onnx.TensorProto.INT64, []),
            value("more", scalar, []),
            value("given", matrix, [SIZE, SIZE]),
        ],
        [value("again", scalar, []), value("made", matrix, [SIZE, SIZE])],
    )
    nodes = [
        node("Equal", ["ids", "token"], ["equal"]),
        node("Cast", ["equal"], ["equals"], to=onnx.TensorProto.INT64),
        node("ReduceMax", ["equals"], ["found"], keepdims=0),
        node("Mul", ["found", "products"], ["steps"]),
        node("Loop", ["steps", "yes", "zeros"], ["product"], body=body),
        node("ReduceSum", ["product"], ["zero"], keepdims=0),
        node("Add", ["before", "zero"], ["after"]),
    ]
    zeros = np.zeros((SIZE, SIZE), np.float32)
    counts = {"token": np.int32(token), "products": np.int64(products)}
    return extended(model, nodes, **counts, yes=np.bool_(True), zeros=zeros)


def extended(model: bytes, nodes: Sequence[onnx.NodeProto], **constants: Any) -> bytes:
    """An encoder (ONNX) with nodes that make its vectors, `after`, of its `ids` and `before`."""
    changed = onnx.load_from_string(model)
    graph = changed.graph
    names = {"ids": graph.input[0].name, "after": graph.output[0].name}
    for each in graph.node:
        for used in (each.input, each.output):
            used[:] = ["before" if name == names["after"] else name for name in used]
    for each in nodes:
        each.input[:] = [names.get(name, name) for name in each.input]
        each.output[:] = [names.get(name, name) for name in each.output]
    graph.node.extend(nodes)
    graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    return bytes(changed.SerializeToString())
