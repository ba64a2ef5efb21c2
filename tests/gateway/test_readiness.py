"""Several models, one of them broken: the service is ready for the others, and tells which."""

import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.models.manifest import read_manifest
from tests.conftest import REPOSITORY, GatewayClient, GatewayFactory
from tests.gateway.tritons import SteeredTriton, add_copies, copied, steered
from tests.gateway.waiting import wait_until

pytestmark = pytest.mark.slow

SERVING, NOT_SERVING = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
)
SERVICE = "openclip.v1.ClipService"
BROKEN = "third"

Start = partial[AbstractContextManager[GatewayClient]]


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SteeredTriton]:
    repository = copied(tmp_path_factory.mktemp("several"))
    add_copies(repository, "second", BROKEN)
    with steered(repository) as triton:
        yield triton


@pytest.fixture
def start(triton: SteeredTriton, start_gateway: GatewayFactory) -> Start:
    """Start a gateway that serves all three."""
    return partial(
        start_gateway,
        model_repository=triton.repository,
        triton_address=triton.address,
        triton_verify_s=0.2,
        text_cache_bytes=0,
    )


@contextmanager
def unloaded(triton: SteeredTriton) -> Iterator[None]:
    triton.control("unload", f"{BROKEN}.text")
    try:
        yield
    finally:
        triton.control("load", f"{BROKEN}.text")


class Hanging(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """A Triton that answers golden vectors, but nothing of the encoders that hang."""

    def __init__(self) -> None:
        self.hangs = threading.Event()
        golden = read_manifest(REPOSITORY / "demo.manifest.json").golden
        self._vectors = {"image": golden.image_features, "text": golden.text_features}

    def ServerLive(  # noqa: N802 - the proto's names
        self, request: service_pb2.ServerLiveRequest, context: grpc.ServicerContext
    ) -> service_pb2.ServerLiveResponse:
        return service_pb2.ServerLiveResponse(live=True)

    def ModelInfer(  # noqa: N802
        self, request: service_pb2.ModelInferRequest, context: grpc.ServicerContext
    ) -> service_pb2.ModelInferResponse:
        while request.model_name == f"{BROKEN}.text" and self.hangs.is_set():
            if not context.is_active():
                break
            time.sleep(0.01)
        vector = np.array([self._vectors[request.model_name.rpartition(".")[2]]], "<f4")
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        name = request.outputs[0].name
        answer.outputs.add(name=name, datatype="FP32", shape=vector.shape)
        answer.raw_output_contents.append(vector.tobytes())
        return answer


@contextmanager
def hanging() -> Iterator[tuple[Hanging, str]]:
    server, servicer = grpc.server(ThreadPoolExecutor(32)), Hanging()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield servicer, f"127.0.0.1:{port}"
    finally:
        servicer.hangs.clear()
        server.stop(None).wait()


def states(api: GatewayClient) -> dict[str, Any]:
    found: dict[str, Any] = api.get("/readyz").json()["models"]
    return found


def health(api: GatewayClient, service: str) -> int:
    with grpc.insecure_channel(api.grpc_address) as channel:
        asked = health_pb2.HealthCheckRequest(service=service)
        return int(health_pb2_grpc.HealthStub(channel).Check(asked, timeout=30).status)


def embed(api: GatewayClient, model: str) -> int:
    body = {"model": model, "input": "a star"}
    headers = {"x-request-timeout-ms": "1000"}
    return int(api.post("/v1/embeddings", json=body, headers=headers).status_code)


def all_ready(api: GatewayClient) -> bool:
    return all(each["ready"] for each in states(api).values())


def assert_others_serve(api: GatewayClient) -> None:
    for _ in range(5):
        ready = api.get("/readyz", timeout=5)  # as long as Kubernetes waits
        assert ready.status_code == httpx.codes.OK
        assert {embed(api, name) for name in ("demo", "second")} == {200}
    found = ready.json()["models"]
    assert [name for name in found if found[name]["ready"]] == ["demo", "second"]
    [problem] = found[BROKEN]["problems"]
    assert f"{BROKEN}.text" in problem
    for service in ("", SERVICE, f"{SERVICE}/demo", f"{SERVICE}/second"):
        assert health(api, service) == SERVING
    assert health(api, f"{SERVICE}/{BROKEN}") == NOT_SERVING
    page = api.get("/metrics").text
    values = dict(re.findall(r'^openclip_model_ready{model="(\w+)"} (\d)', page, re.M))
    assert values == {"demo": "1", "second": "1", BROKEN: "0"}


def test_one_of_three_is_not_loaded(triton: SteeredTriton, start: Start) -> None:
    with start() as api:
        wait_until(lambda: all_ready(api))
        with unloaded(triton):
            wait_until(lambda: embed(api, BROKEN) == httpx.codes.SERVICE_UNAVAILABLE)
            wait_until(lambda: not states(api)[BROKEN]["ready"])
            assert_others_serve(api)
        wait_until(lambda: all_ready(api))
        assert health(api, f"{SERVICE}/{BROKEN}") == SERVING
        for unknown in (f"{SERVICE}/none", f"/{BROKEN}", f"none/{BROKEN}"):
            with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
                health(api, unknown)


def test_one_of_three_hangs(triton: SteeredTriton, start: Start) -> None:
    with hanging() as (servicer, address), start(triton_address=address) as api:
        wait_until(lambda: all_ready(api))
        servicer.hangs.set()
        wait_until(lambda: not states(api)[BROKEN]["ready"])
        assert_others_serve(api)
        assert embed(api, BROKEN) == httpx.codes.GATEWAY_TIMEOUT
        servicer.hangs.clear()
        wait_until(lambda: all_ready(api))


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({"default_model": "demo"}, 200),
        ({"default_model": BROKEN}, 503),
        ({"default_model": "demo", "ready_all": True}, 503),
    ],
)
def test_which_models_must_be_ready(
    triton: SteeredTriton, start: Start, settings: dict[str, object], status: int
) -> None:
    with unloaded(triton), start(**settings) as api:
        wait_until(lambda: api.get("/readyz").status_code == status)
        answer = api.get("/readyz")
        assert answer.status_code == status
        assert not answer.json()["models"][BROKEN]["ready"]
        assert health(api, "") == (SERVING if status == 200 else NOT_SERVING)
        if status == 503:
            assert answer.headers["retry-after"] == "1"
            assert f"{BROKEN}.text" in answer.json()["error"]["message"]
