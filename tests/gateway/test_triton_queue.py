"""Triton's own queue, with the policy of docs/models.md and without one.

With it, what is too late is not run, and the urgent passes all gateways' bulk.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from gateway.errors import DeadlineExceeded
from gateway.inference import grpc_client
from gateway.inference.client import Call, Encoder
from gateway.inference.control import ModelControl
from gateway.inference.encoders import text_encoder
from gateway.inference.grpc_client import GrpcInferClient
from gateway.inference.secret import NO_SECRET
from gateway.models.manifest import read_manifest
from gateway.models.values import Vectors
from tests.conftest import ROOT
from tests.gateway.tritons import SteeredTriton, add_copies, copied, slow, steered
from tests.gateway.waiting import until

pytestmark = pytest.mark.slow

WITHIN_S = 60.0
SETTLED_S = 0.2  # for a call to reach Triton's queue
BUSY_S = 3.0  # of a slow call; the tests need a third of it
TRIED = 20_000  # matrix products, to see how fast this machine is
SLOW = 1000  # a token


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SteeredTriton]:
    """With the demo, which has the policy here, and with `plain`, as it is exported."""
    repository = copied(tmp_path_factory.mktemp("queue"))
    add_copies(repository, "plain")
    paths = [*repository.glob("*.text/1/model.onnx")]
    products = products_in(BUSY_S, paths[0].read_bytes())
    for path in paths:
        path.write_bytes(slow(path.read_bytes(), SLOW, products))
    documented = (ROOT / "docs" / "models.md").read_text()
    policy = documented[documented.index("  priority_levels: 2") :].partition("```")[0]
    for path in repository.glob("demo.*/config.pbtxt"):
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        text_format.Parse(policy, config.dynamic_batching)
        path.write_text(text_format.MessageToString(config))
    with steered(repository) as triton:
        yield triton


def products_in(seconds: float, model: bytes) -> int:
    """The number of products that take this long in ONNX Runtime here."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(slow(model, SLOW, TRIED), options)
    inputs = {
        each.name: np.full([1] * len(each.shape), SLOW, np.int32) for each in session.get_inputs()
    }
    start = time.perf_counter()
    session.run(None, inputs)
    return int(TRIED * seconds / (time.perf_counter() - start))


@pytest.fixture
async def gateways(triton: SteeredTriton) -> AsyncIterator[tuple[GrpcInferClient, GrpcInferClient]]:
    """The clients of two gateways."""
    control = ModelControl(triton.repository, NO_SECRET)
    pair = (GrpcInferClient([triton.address], control), GrpcInferClient([triton.address], control))
    for each in pair:
        for name in ("demo", "plain"):
            await each.verify(encoder(triton, name), WITHIN_S)
    yield pair
    for each in pair:
        await each.close()


def encoder(triton: SteeredTriton, name: str = "demo") -> Encoder:
    manifest = read_manifest(triton.repository / f"{name}.manifest.json")
    [text] = manifest.triton.text
    return text_encoder(manifest, text)


def full(encoder: Encoder, *, bulk: bool = False) -> Call:
    """A call that fills a batch, so that no other joins it."""
    batch = np.repeat(encoder.golden().batch, encoder.max_batch, axis=0)
    return Call(encoder, batch, bulk=bulk)


async def fill(client: GrpcInferClient, encoder: Encoder) -> list[asyncio.Task[Vectors]]:
    """Keep the encoder at work for a while, and have a batch ready for it after that."""
    quick = full(encoder)
    busy = replace(quick, batch=np.where(quick.batch == quick.batch[0, 1], SLOW, quick.batch))
    calls = [asyncio.create_task(client.infer(busy, WITHIN_S))]
    await asyncio.sleep(SETTLED_S)
    calls.append(asyncio.create_task(client.infer(quick, WITHIN_S)))
    await asyncio.sleep(SETTLED_S)
    return calls


async def test_a_call_whose_time_is_over_is_not_run(
    triton: SteeredTriton, gateways: tuple[GrpcInferClient, GrpcInferClient]
) -> None:
    client, other = gateways
    call = full(encoder(triton))
    before = triton.encoded("demo.text")
    under_way = await fill(client, call.encoder)
    for bulk in (False, True):
        with pytest.raises(DeadlineExceeded):
            await other.infer(full(call.encoder, bulk=bulk), SETTLED_S)
    await asyncio.gather(*under_way)
    await client.infer(call, WITHIN_S)  # after what is in the queue
    wanted = before + 3 * call.encoder.max_batch
    await until(lambda: triton.encoded("demo.text") >= wanted)  # Triton counts after it answers
    assert triton.encoded("demo.text") == wanted


async def test_the_urgent_passes_the_bulk_of_another_gateway(
    triton: SteeredTriton,
    gateways: tuple[GrpcInferClient, GrpcInferClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grpc_client, "BULK_WAIT_S", WITHIN_S / 2)
    client, other = gateways
    ended: list[str] = []

    async def ask(of: GrpcInferClient, name: str) -> None:
        await of.infer(full(encoder(triton), bulk=name == "bulk"), WITHIN_S)
        ended.append(name)

    under_way = await fill(client, encoder(triton))
    asked = [asyncio.create_task(ask(client, "bulk")) for _ in range(3)]
    await asyncio.sleep(SETTLED_S)
    asked += [asyncio.create_task(ask(other, "urgent")) for _ in range(3)]
    await asyncio.sleep(SETTLED_S)
    await asyncio.gather(*under_way, *asked)
    assert ended == ["urgent"] * 3 + ["bulk"] * 3


async def test_bulk_is_not_passed_for_ever(
    triton: SteeredTriton,
    gateways: tuple[GrpcInferClient, GrpcInferClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grpc_client, "BULK_WAIT_S", SETTLED_S)
    client, other = gateways
    call, failed = full(encoder(triton)), triton.failed("demo.text")
    under_way = await fill(client, call.encoder)
    bulk = asyncio.create_task(other.infer(full(call.encoder, bulk=True), WITHIN_S))
    await asyncio.sleep(2 * SETTLED_S)
    vectors = await bulk
    await asyncio.gather(*under_way)
    golden = call.encoder.golden()
    assert (vectors.astype(np.float64) @ golden.vector > golden.min_cosine).all()
    assert triton.failed("demo.text") - failed == 1  # Triton gave it back once


async def test_models_without_priorities_run_everything(
    triton: SteeredTriton,
    gateways: tuple[GrpcInferClient, GrpcInferClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grpc_client, "BULK_WAIT_S", SETTLED_S)
    client, other = gateways
    plain = encoder(triton, "plain")
    under_way = await fill(client, plain)
    bulk = asyncio.create_task(other.infer(full(plain, bulk=True), WITHIN_S))
    await asyncio.sleep(2 * SETTLED_S)
    assert (await bulk).shape == (plain.max_batch, plain.embedding_size)
    await asyncio.gather(*under_way)
    assert triton.failed("plain.text") == 0
