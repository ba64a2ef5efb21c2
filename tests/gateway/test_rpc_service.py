"""gRPC against the real service: the stream, health, reflection; and health when it changes."""

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from gateway.inference.client import Call, FakeInferClient
from gateway.models.values import Vectors
from gateway.rpc.descriptors import HealthListRequest, HealthListResponse
from gateway.rpc.service import NAME
from openclip_api.v1 import clip_pb2, clip_pb2_grpc
from server.launcher import TritonServer
from tests.conftest import SAMPLES, GatewayFactory
from tests.gateway.fakes import unit
from tests.gateway.rpcserver import image, loaded, served, text

STATUSES = health_pb2.HealthCheckResponse


@pytest.fixture(scope="module")
def channel(triton: TritonServer, start_gateway: GatewayFactory) -> Iterator[grpc.Channel]:
    with (
        start_gateway(triton_address=triton.addresses.grpc, stream_window=64) as api,
        grpc.insecure_channel(api.grpc_address) as channel,
    ):
        yield channel


def test_a_stream_gives_what_single_calls_give(channel: grpc.Channel) -> None:
    stub = clip_pb2_grpc.ClipServiceStub(channel)
    pictures = [image(path.read_bytes()) for path in sorted(SAMPLES.glob("*.*g"))]
    items = [*pictures, *(text(f"a photo of {number} circles") for number in range(50))]
    unary = stub.Embed(clip_pb2.EmbedRequest(input=items, dimensions=32)).results
    options = clip_pb2.EmbedStreamRequest(options=clip_pb2.StreamOptions(dimensions=32))
    sent = [
        clip_pb2.EmbedStreamRequest(items=[clip_pb2.StreamItem(id=str(index), item=item)])
        for index, item in enumerate(items)
    ]
    messages = list(stub.EmbedStream(iter([options, *sent])))
    streamed = {each.id: each.embedding.vector for one in messages for each in one.results}
    assert len(streamed) == len(items)
    for index, result in enumerate(unary):
        wanted = np.frombuffer(result.embedding.vector, "<f4")
        np.testing.assert_allclose(np.frombuffer(streamed[str(index)], "<f4"), wanted, atol=1e-5)
        assert np.linalg.norm(wanted) == pytest.approx(1, abs=1e-6)
    assert sum(each.usage.images for each in messages) == len(pictures)
    assert sum(each.usage.tokens for each in messages) > 50


def test_thousands_of_items_each_answered_once(channel: grpc.Channel) -> None:
    stub = clip_pb2_grpc.ClipServiceStub(channel)
    [good] = [path.read_bytes() for path in SAMPLES.glob("red-circle.png")]
    total = 3_000

    def messages() -> Iterator[clip_pb2.EmbedStreamRequest]:
        for start in range(0, total, 10):
            numbers = range(start, start + 10)
            entries = [
                clip_pb2.StreamItem(
                    id=str(number), item=image(b"bad" if number % 20 == 0 else good)
                )
                for number in numbers
            ]
            yield clip_pb2.EmbedStreamRequest(items=entries)

    results = [each for one in stub.EmbedStream(messages()) for each in one.results]
    assert sorted(int(each.id) for each in results) == list(range(total))
    bad = {int(each.id) for each in results if each.error.code == "invalid_image"}
    assert bad == set(range(0, total, 20))


def test_models(channel: grpc.Channel) -> None:
    stub = clip_pb2_grpc.ClipServiceStub(channel)
    [model] = stub.ListModels(clip_pb2.ListModelsRequest()).models
    manifest = loaded().models.find("demo").manifest
    assert model.id == manifest.id
    assert model.fingerprint == manifest.fingerprint
    assert list(model.token_lengths) == list(manifest.token_lengths)
    assert model.gate_passed


def test_health(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for name in ("", NAME):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == STATUSES.SERVING
    with pytest.raises(grpc.RpcError) as raised:
        stub.Check(health_pb2.HealthCheckRequest(service="none"))
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND


def test_the_health_of_all_services(channel: grpc.Channel) -> None:
    listing: Any = channel.unary_unary(
        "/grpc.health.v1.Health/List",
        request_serializer=HealthListRequest.SerializeToString,
        response_deserializer=HealthListResponse.FromString,
    )
    statuses = listing(HealthListRequest()).statuses
    assert {name: each.status for name, each in statuses.items()} == dict.fromkeys(
        ("", NAME, f"{NAME}/demo"), STATUSES.SERVING
    )


REFLECTIONS = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]


@pytest.mark.parametrize("reflection", REFLECTIONS)
def test_reflection(channel: grpc.Channel, reflection: str) -> None:
    asking: Any = channel.stream_stream(
        f"/{reflection}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    [listed] = asking(iter(asked))
    names = {each.name for each in listed.list_services_response.service}
    assert names == {NAME, "grpc.health.v1.Health", *REFLECTIONS}
    asked = [
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)
        for name in sorted(names)
    ]
    methods = {}
    for found in asking(iter(asked)):
        [file] = found.file_descriptor_response.file_descriptor_proto
        described = descriptor_pb2.FileDescriptorProto.FromString(file)
        [service] = described.service
        methods[f"{described.package}.{service.name}"] = {each.name for each in service.method}
    assert methods.keys() == names
    assert methods["grpc.health.v1.Health"] == {"Check", "List", "Watch"}
    assert methods[NAME] == set(clip_pb2.DESCRIPTOR.services_by_name["ClipService"].methods_by_name)


async def test_health_follows_readiness_and_draining() -> None:
    good = True

    def golden(call: Call) -> Vectors:
        if not good:
            return unit(call)
        features = loaded().models.find("demo").manifest.golden
        of_image = call.encoder.input_name == "pixels"
        return np.array(
            [features.image_features if of_image else features.text_features], np.float32
        )

    async with served(FakeInferClient(golden)) as gateway:
        stub: Any = health_pb2_grpc.HealthStub(gateway.channel)
        watched = stub.Watch(health_pb2.HealthCheckRequest())
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="none"))
        assert (await unknown.read()).status == STATUSES.SERVICE_UNKNOWN
        assert (await watched.read()).status == STATUSES.SERVING
        good = False
        async with asyncio.timeout(20):
            assert (await watched.read()).status == STATUSES.NOT_SERVING
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=NAME))
        assert answer.status == STATUSES.NOT_SERVING
        good = True
        async with asyncio.timeout(20):
            assert (await watched.read()).status == STATUSES.SERVING
        await gateway.server.stop(20)
        assert (await watched.read()).status == STATUSES.NOT_SERVING
        assert await watched.read() is grpc.aio.EOF
        assert await unknown.read() is grpc.aio.EOF
