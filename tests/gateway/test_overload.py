"""Much more than the gateway can take: refused at once, in bounded memory, and then all is well."""

import json
from itertools import islice

import httpx
import numpy as np
import pytest

from benchmarks.systems import processes
from benchmarks.traffic.arrivals import Outcome, flood
from benchmarks.traffic.connection import Target
from benchmarks.traffic.requests import Request, requests
from gateway.admission.permits import Admission, Permit
from server.launcher import TritonServer
from tests.conftest import COMMAND, GatewayFactory, Outside
from tests.gateway.slow import SlowEncoder, served
from tests.gateway.waiting import unfinished_request
from tests.items import RED_CIRCLE

pytestmark = pytest.mark.slow

SECONDS = 3.0
RATE = 200.0  # a second, held by the 8 permits below to what they can do
MOST_GROWTH = 150 * 2**20

PICTURE = Request("rest", "/v1/embeddings/image", RED_CIRCLE, "image/png")
LARGE = Request(  # 2 MB each, to be refused before they are read
    "rest", "/v1/embeddings", json.dumps({"input": ["word " * 6_000] * 64}).encode()
)


def assert_bounded(flooded: Outcome) -> None:
    assert set(flooded.statuses) == {"200", "429"}, flooded.statuses
    assert flooded.statuses["200"] >= 10
    assert flooded.statuses["429"] >= 10


async def test_a_flood_is_refused_and_passes(
    triton: TritonServer, start_gateway: GatewayFactory
) -> None:
    limits = {"max_inflight": 8, "max_inflight_items": 64, "max_inflight_bytes": 4 * 2**20}
    outside = Outside(command=COMMAND)
    address = triton.addresses.grpc
    with start_gateway(outside, triton_address=address, triton_calls=1, **limits) as api:
        target = Target(f"{api.base_url.host}:{api.base_url.port}", api.grpc_address, "demo")
        [golden] = api.post("/v1/embeddings/image", content=RED_CIRCLE).json()["data"]
        await flood(target, [PICTURE] * 7 + [LARGE], RATE, 1.0)  # caches and pools are filled
        before = processes.resident_bytes(api.process)
        assert_bounded(await flood(target, [PICTURE] * 7 + [LARGE], RATE, SECONDS))
        assert processes.resident_bytes(api.process) - before < MOST_GROWTH
        for _ in range(20):
            response = api.post("/v1/embeddings/image", content=RED_CIRCLE)
            assert response.status_code == httpx.codes.OK
            [entry] = response.json()["data"]
            assert np.array(entry["embedding"]) @ np.array(golden["embedding"]) > 0.9999


@pytest.mark.parametrize("kind", ["rest-text", "grpc-text", "rest-texts"])
async def test_no_more_are_let_in_than_are_answered_soon(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Faster would keep the one event loop of client and gateway busier than the encoder.
    wait_s, rows = 2.0, 20.0
    most, claim = 0, Admission.claim

    def counted(admission: Admission, permit: Permit, items: int, images: int) -> None:
        nonlocal most
        claim(admission, permit, items, images)
        most = max(most, admission.items)

    monkeypatch.setattr(Admission, "claim", counted)
    [first, *others] = islice(requests(kind, "demo"), 2_000)
    async with served(SlowEncoder(rows), max_wait_s=wait_s, text_cache_bytes=0) as target:
        flooded = await flood(target, [first, *others], 10 * rows / first.items, 12.0)
    assert not flooded.others()
    assert len(flooded.refused) > len(flooded.accepted) > 0
    # By number alone, 256 requests would be let in.
    assert most < 3 * wait_s * rows + first.items


def test_probes_need_no_permit(triton: TritonServer, start_gateway: GatewayFactory) -> None:
    with (
        start_gateway(triton_address=triton.addresses.grpc, max_inflight_bytes=1) as api,
        unfinished_request(api),
    ):
        refused = api.post("/v1/embeddings", json={"input": "x"})
        assert refused.status_code == httpx.codes.TOO_MANY_REQUESTS
        assert "GATEWAY_MAX_INFLIGHT_BYTES" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) >= 1
        for path in ("/livez", "/readyz", "/metrics", "/v1/models"):
            assert api.get(path).status_code == httpx.codes.OK, path
        rejected = 'openclip_rejected_total{protocol="rest",reason="overloaded"}'
        assert rejected in api.get("/metrics").text
