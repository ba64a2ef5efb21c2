"""Faults behind the gateway, staged at its seam to Triton: the right status, and no internals."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from gateway import errors
from gateway.app import create_app, load
from gateway.inference.client import FakeInferClient
from gateway.rest.problems import STATUS
from gateway.settings import Settings
from tests.conftest import REPOSITORY
from tests.gateway.fakes import Behave, Gated, error_classes, failing, unit
from tests.gateway.waiting import until


@asynccontextmanager
async def gateway(client: FakeInferClient, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    given = Settings(model_repository=REPOSITORY, grpc_port=0, **settings)
    app = create_app(given, load(given), lambda address: client)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as api,
    ):
        yield api


def test_every_error_has_a_status() -> None:
    assert error_classes() == set(STATUS)


def test_the_tree_in_the_docstring_is_that_of_the_classes() -> None:
    def tree(kind: type[errors.GatewayError], depth: int = 0) -> Iterator[tuple[int, str]]:
        yield depth, kind.__name__
        for each in kind.__subclasses__():
            yield from tree(each, depth + 1)

    drawn = re.findall(r"^((?:│   )*(?:[├└]── )?)([A-Z]\w+)(?:  |$)", errors.__doc__ or "", re.M)
    assert [(len(branch) // 4, name) for branch, name in drawn] == [*tree(errors.GatewayError)]


@pytest.mark.parametrize(
    ("error", "status", "retried"),
    [
        (errors.Unavailable("gone"), 503, True),
        (errors.DeadlineExceeded("late"), 504, False),
        (errors.Overloaded("full"), 429, True),
        (errors.InferenceFailed("secret 10.0.0.7"), 500, False),
        (RuntimeError("secret 10.0.0.7"), 500, False),
    ],
)
async def test_failing_triton(error: Exception, status: int, retried: bool) -> None:
    origin = "https://app.example"
    async with gateway(FakeInferClient(failing(error)), cors_origins=(origin,)) as api:
        for body in ({"input": "x"}, {"input": ["x"] * 100}):
            response = await api.post("/v1/embeddings", json=body, headers={"origin": origin})
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == origin
            assert ("retry-after" in response.headers) == retried
            assert "secret" not in response.text
            message = response.json()["error"]["message"]
            assert (response.headers["x-request-id"] in message) == (status == 500)


@pytest.mark.parametrize(
    "behave",
    [
        lambda call: unit(call)[:, :-1],
        lambda call: unit(call)[:0],
        lambda call: unit(call).astype(np.float64),
        lambda call: unit(call) * np.nan,
        lambda call: unit(call) * np.inf,
        lambda call: unit(call) * np.float32(0),
        lambda call: unit(call) * np.float32(1e-19),
        lambda call: unit(call) * np.float32(0.98),
        lambda call: unit(call) * np.float32(1.02),
        lambda call: unit(call) * np.float32(100),
        lambda call: unit(call) * np.float32(1e30),
        lambda call: unit(call) * np.arange(len(call.batch), dtype=np.float32)[:, None],
        lambda call: None,
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # inf * 0, in the fake
async def test_wrong_answers_never_reach_the_client(behave: Behave) -> None:
    async with gateway(FakeInferClient(behave)) as api:
        for body in ({"input": "x"}, {"input": ["y", "z"]}):
            response = await api.post("/v1/embeddings", json=body)
            assert response.status_code == 500
            assert response.json()["error"]["code"] == "internal_error"


async def test_wrong_model_under_the_right_name_is_not_ready() -> None:
    async with gateway(FakeInferClient(unit)) as api:
        response = await api.get("/readyz")
        assert response.status_code == 503
        assert "golden vector" in response.json()["error"]["message"]


async def test_label_sets_of_a_wrong_model_are_encoded_again(tmp_path: Path) -> None:
    labels = {"name": "shapes", "labels": ["red circle"]}
    (tmp_path / "shapes.yaml").write_text(json.dumps(labels))
    client = FakeInferClient(unit)

    def texts() -> int:
        return sum(".text" in call.encoder.model for call in client.calls)

    async with gateway(client, label_sets=tmp_path, triton_verify_s=600) as api:
        await until(lambda: texts() == 1)
        await api.get("/readyz")  # whose golden vectors are wrong
        await until(lambda: texts() >= 3)  # a golden text, and the label once more


async def test_slow_triton_ends_at_the_deadline() -> None:
    async with gateway(FakeInferClient(unit, delay=60), request_timeout_s=0.1) as api:
        response = await api.post("/v1/embeddings", json={"input": "x"})
        assert response.status_code == 504


async def all_asked(
    client: Gated, refused: int, *asked: Coroutine[Any, Any, httpx.Response]
) -> list[httpx.Response]:
    """All answers; once `refused` requests are refused, the client lets the others go on."""
    tasks = [asyncio.create_task(each) for each in asked]
    await until(lambda: sum(task.done() for task in tasks) == refused)
    client.gate.set()
    return await asyncio.gather(*tasks)


async def test_no_room_is_told_at_once_and_room_comes_back() -> None:
    client = Gated()
    async with gateway(client, max_inflight=3) as api:

        async def ask(text: str) -> httpx.Response:
            return await api.post("/v1/embeddings", json={"input": text})

        responses = await all_asked(client, 7, *(ask(f"text {number}") for number in range(10)))
        statuses = [response.status_code for response in responses]
        assert sorted(statuses) == [200] * 3 + [429] * 7
        assert len(client.calls) == 3  # refused before any work
        refused = next(r for r in responses if r.status_code == 429)
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert (await ask("later")).status_code == 200


async def test_preflights_take_no_permit() -> None:
    client, origin = Gated(), "https://app.example"
    asked = {"origin": origin, "access-control-request-method": "POST"}
    settings = {"max_inflight": 1, "cors_origins": (origin,), "triton_verify_s": 600}
    async with gateway(client, **settings) as api:
        held = asyncio.create_task(api.post("/v1/embeddings", json={"input": "held"}))
        await until(lambda: bool(client.calls))
        full = await api.post("/v1/embeddings", json={"input": "refused"}, headers=asked)
        assert full.status_code == 429
        assert full.headers["access-control-allow-origin"] == origin
        assert (await api.options("/v1/embeddings", headers=asked)).status_code == 200
        client.gate.set()
        assert (await held).status_code == 200


async def test_bytes_in_flight_are_bounded() -> None:
    body = {"input": ["word " * 100] * 8}
    client = Gated()
    async with gateway(client, max_inflight_bytes=6_000) as api:
        asked = (api.post("/v1/embeddings", json=body) for _ in range(4))
        statuses = [response.status_code for response in await all_asked(client, 3, *asked)]
        assert sorted(statuses) == [200, 429, 429, 429]  # one alone is let in, whatever its size


async def test_items_in_flight_are_bounded() -> None:
    client = Gated()
    async with gateway(client, max_inflight_items=13, client_share=1) as api:

        async def ask(name: str, count: int = 6) -> httpx.Response:
            texts = [f"{name} {number}" for number in range(count)]
            return await api.post("/v1/embeddings", json={"input": texts})

        responses = await all_asked(client, 2, *(ask(name) for name in "abcd"))
        statuses = [response.status_code for response in responses]
        assert sorted(statuses) == [200, 200, 429, 429]
        assert sum(len(call.batch) for call in client.calls) == 12  # refused before any work
        refused = next(r for r in responses if r.status_code == 429)
        assert "GATEWAY_MAX_INFLIGHT_ITEMS" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) >= 1
        assert (await ask("alone", 100)).status_code == 200


@pytest.mark.parametrize("value", [b"0", b"{}", b'"a"', b'{"text": "a"}'])
async def test_json_of_very_many_values_is_refused_before_it_is_parsed(value: bytes) -> None:
    async with gateway(FakeInferClient(unit)) as api:
        body = b'{"input": [' + b",".join([value] * 1_000_000) + b"]}"
        response = await api.post("/v1/embeddings", content=body)
        assert response.status_code == 413
        assert "GATEWAY_MAX_ITEMS" in response.json()["error"]["message"]


async def test_the_loop_goes_on_while_a_large_body_is_parsed() -> None:
    async with gateway(FakeInferClient(unit), max_image_bytes=2**26) as api:
        body = b'{"input": {"image": "' + b"A" * (40 * 2**20) + b'"}}'
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0.001)
                beats += 1

        beating = asyncio.create_task(beat())
        response = await api.post("/v1/embeddings", content=body)
        beating.cancel()
        assert response.status_code == 400  # no image, but it was parsed
        assert beats > 10


async def test_large_requests_go_out_in_bounded_calls() -> None:
    client = FakeInferClient(unit)
    async with gateway(client, max_items=1_000) as api:
        texts = [f"{index} " + " ".join(["word"] * (index % 40)) for index in range(600)]
        response = await api.post("/v1/embeddings", json={"input": texts})
        assert response.status_code == 200
    [model] = load(Settings(model_repository=REPOSITORY)).models
    largest = {tower.name: tower.max_batch for tower in model.manifest.triton.text}
    assert {call.encoder.model for call in client.calls} == set(largest)
    assert sum(len(call.batch) for call in client.calls) == 600
    for call in client.calls:
        assert len(call.batch) <= largest[call.encoder.model]
        tokens = (call.batch != model.manifest.tokenizer.pad_id).sum()
        assert tokens <= 1_024
