"""Messages that are small and hold far too much are refused before they are parsed."""

import asyncio
import random
from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError, Message
from grpc import StatusCode as Code

from gateway.errors import TooLarge
from gateway.inference.client import FakeInferClient
from gateway.rpc.message_limits import STREAM_ITEMS, Bounds, Contents, contents
from gateway.rpc.service import NAME
from openclip_api.v1 import clip_pb2
from tests.gateway.fakes import unit
from tests.gateway.frames import Connection
from tests.gateway.rpcserver import LIMITS, image, metadata, served, text
from tests.gateway.test_rpc_faults import refused
from tests.gateway.waiting import until

METHODS = clip_pb2.DESCRIPTOR.services_by_name["ClipService"].methods_by_name
NO_MESSAGE = b"\xff"  # at the end of one: to parse it is to fail, though not for its size
TEXT = text("a").SerializeToString()


def delimited(number: int, content: bytes) -> bytes:
    """A field that holds bytes."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes([*written, value])


UNKNOWN = b"\xf8\x3f\x01"  # a number, of field 1023
WITHIN = delimited(2, UNKNOWN * 30_000)
SHAPES = {
    "items": ("Embed", delimited(2, TEXT), "input"),
    "empty items": ("Embed", delimited(2, b""), "input"),
    "a tag in two bytes": ("Embed", b"\x92\x00\x00", "input"),
    "models": ("Embed", delimited(1, b"a"), "model"),
    "flags": ("Embed", b"\x20\x01", "truncate"),
    "unknown fields": ("Embed", UNKNOWN, None),
    "unknown fixed": ("Embed", b"\xfd\x3f" + bytes(4), None),
    "groups": ("Embed", b"\x3b\x3c", None),
    "in one item": ("Embed", WITHIN, "input"),
    "images": ("Classify", delimited(2, b""), "images"),
    "labels": ("Classify", delimited(3, b"a"), "labels"),
    "templates": ("Classify", delimited(5, b"{}"), "templates"),
    "texts": ("Similarity", delimited(2, b"a"), "texts"),
    "images to compare": ("Similarity", delimited(3, b""), "images"),
    "queries": ("Rerank", delimited(2, TEXT), "query"),
    "documents": ("Rerank", delimited(3, TEXT), "documents"),
    "nothing to list": ("ListModels", UNKNOWN, None),
    "items of a stream": ("EmbedStream", delimited(2, b""), "items"),
    "items in items": ("EmbedStream", delimited(2, delimited(2, TEXT)), "items"),
    "options": ("EmbedStream", delimited(1, b""), "options"),
    "ids in one item": ("EmbedStream", delimited(2, delimited(1, b"a") * 30_000), "items"),
}


async def answered(channel: grpc.aio.Channel, method: str, message: bytes) -> Any:
    path = f"/{NAME}/{method}"
    if method == "EmbedStream":
        return await results(channel.stream_stream(path)(iter([message])))
    return await channel.unary_unary(path)(message)


@pytest.mark.parametrize("shape", SHAPES)
async def test_too_many_fields_are_refused_unparsed(shape: str) -> None:
    method, field, param = SHAPES[shape]
    message = field * (1 if len(field) > 30_000 else 30_000) + NO_MESSAGE
    async with served(FakeInferClient(unit)) as gateway:
        raised = await refused(answered(gateway.channel, method, message))
        assert raised.code() == Code.INVALID_ARGUMENT
        assert metadata(raised)["error-code"] == "too_large"
        assert metadata(raised).get("error-param") == param
        assert raised.details().startswith(f"{param or 'the message'}: more than ")
        await until(lambda: gateway.admission.requests == 0)


def test_every_method_is_bounded() -> None:
    bounds = Bounds(LIMITS)
    for method in METHODS.values():
        schema: type[Message] = getattr(clip_pb2, method.input_type.name)
        assert bounds.takes(schema, b"") == 0
        with pytest.raises(TooLarge):
            bounds.takes(schema, UNKNOWN * 30_000)


def test_what_the_limits_allow_is_within_the_bounds() -> None:
    bounds, half = Bounds(LIMITS), LIMITS.max_items // 2
    items = [text("a")] * half + [image()] * half
    labels = [str(number) for number in range(LIMITS.max_labels)]
    entry = clip_pb2.StreamItem(id="1", item=text("a"))
    for message in (
        clip_pb2.EmbedRequest(model="demo", input=items, dimensions=8, skip_errors=True),
        clip_pb2.ClassifyRequest(images=items, labels=labels, templates=["{}", "a {}"]),
        clip_pb2.ClassifyRequest(images=items, labels=["a"], templates=["{}"] * LIMITS.max_prompts),
        clip_pb2.SimilarityRequest(texts=["a"] * half, images=[image()] * half),
        clip_pb2.RerankRequest(query=image(), documents=items, top_n=3),
        clip_pb2.EmbedStreamRequest(
            options=clip_pb2.StreamOptions(model="demo"), items=[entry] * STREAM_ITEMS
        ),
    ):
        bounds.takes(type(message), message.SerializeToString())


async def test_a_little_over_the_limits_is_told_exactly() -> None:
    async with served(FakeInferClient(unit)) as gateway:
        message = clip_pb2.EmbedRequest(input=[text("a")] * (LIMITS.max_items + 1))
        raised = await refused(gateway.stub.Embed(message))
        assert "257 items; the limit (GATEWAY_MAX_ITEMS) is 256" in raised.details()


def test_fields_are_counted() -> None:
    message = clip_pb2.EmbedRequest(
        model="m" * 300, input=[text("a" * 200), image(), clip_pb2.Item()], dimensions=5_000
    )
    found = contents(message.SerializeToString(), message.DESCRIPTOR, 100)
    assert found.fields == 1 + 3 + 2 + 1
    assert found.own == {1: 1, 2: 3, 3: 1}
    assert contents(b"", message.DESCRIPTOR, 100) == Contents()
    assert contents(delimited(2, TEXT) * 1_000, message.DESCRIPTOR, 9).fields == 10


def test_a_number_without_end_is_not_followed() -> None:
    for data in (b"\x80" * 2**20, b"\x08" + b"\x80" * 9):
        assert contents(data, clip_pb2.EmbedRequest.DESCRIPTOR, 100) == Contents()


def test_never_fewer_are_counted_than_are_parsed() -> None:
    rng = random.Random(5)
    pieces = [
        b"\x0a", b"\x12", b"\x1a", b"\x18", b"\x20", b"\x00", b"\x01", b"\x02", b"\x03", b"\x08",
        b"\x3b", b"\x3c", b"\x3d", b"\x39", b"\x92\x00", b"\x80", b"a", bytes(4), TEXT,
        delimited(2, TEXT), UNKNOWN,
    ]  # fmt: skip
    parsed = 0
    for _ in range(30_000):
        data = b"".join(rng.choices(pieces, k=rng.randint(1, 9)))
        message = clip_pb2.RerankRequest()
        try:
            message.ParseFromString(data)
        except DecodeError:
            continue
        parsed += 1
        counted = contents(data, message.DESCRIPTOR, 1_000).fields
        assert counted >= held(message), data.hex()
    assert parsed > 1_000


def held(message: Message) -> int:
    """Fields that have a value, one for each entry of a list."""
    total = 0
    for field, value in message.ListFields():
        entries = value if field.is_repeated else [value]
        total += len(entries)
        total += sum(held(each) for each in entries if isinstance(each, Message))
    return total


async def test_whatever_is_no_item_is_skipped_like_other_bad_ones() -> None:
    wrong = [clip_pb2.Item(), image(b""), clip_pb2.Item(image_url=""), text(""), image(b"bad")]
    async with served(FakeInferClient(unit)) as gateway:
        for items in ([*wrong, text("a")], wrong):
            message = clip_pb2.EmbedRequest(input=items, skip_errors=True, dimensions=8)
            answer = await gateway.stub.Embed(message)
            assert len(answer.results) == len(items)
            for index, result in enumerate(answer.results[: len(wrong)]):
                assert result.error.param == f"input[{index}]"
                assert not result.error.retryable
            assert "give `text`, `image` or `image_url`" in answer.results[0].error.message
            assert all("the image is empty" in answer.results[at].error.message for at in (1, 2))
            assert "the text is empty" in answer.results[3].error.message
            assert all(len(each.embedding.vector) == 4 * 8 for each in answer.results[5:])
        alone = clip_pb2.EmbedRequest(input=[text("a"), clip_pb2.Item()])
        raised = await refused(gateway.stub.Embed(alone))
        assert metadata(raised)["error-param"] == "input[1]"


async def test_health_and_reflection_take_small_messages_alone() -> None:
    reflection = "/grpc.reflection.{}.ServerReflection/ServerReflectionInfo"
    async with served(FakeInferClient(unit)) as gateway:

        async def told(message: bytes) -> list[grpc.aio.AioRpcError]:
            channel = gateway.channel
            streams = (
                channel.unary_stream("/grpc.health.v1.Health/Watch")(message),
                channel.stream_stream(reflection.format("v1"))(iter([message])),
                channel.stream_stream(reflection.format("v1alpha"))(iter([message])),
                channel.unary_stream("/grpc.health.v1.Health/List")(message),
            )
            calls = [results(each) for each in streams]
            return [
                await refused(each)
                for each in (channel.unary_unary("/grpc.health.v1.Health/Check")(message), *calls)
            ]

        for problem in await told(delimited(1, b"a") * 300_000 + NO_MESSAGE):
            assert problem.code() == Code.INVALID_ARGUMENT
            assert "may have 4,096 bytes" in problem.details()
        for problem in await told(NO_MESSAGE):
            assert problem.code() == Code.INVALID_ARGUMENT
            assert "is not a valid grpc." in problem.details()


async def test_a_path_that_is_no_text_does_not_end_the_server() -> None:
    async with served(FakeInferClient(unit)) as gateway:

        def call() -> None:
            with Connection(f"127.0.0.1:{gateway.port}") as connection:
                connection.call(f"/{NAME}/\xff")
                connection.settle(1.0)

        await asyncio.to_thread(call)
        await answered(gateway.channel, "ListModels", b"")


async def results(call: Any) -> list[Any]:
    return [each async for each in call]


def test_a_message_counts_for_what_it_becomes() -> None:
    bounds, schema = Bounds(LIMITS), clip_pb2.EmbedRequest

    def takes(*items: clip_pb2.Item) -> float:
        data = schema(input=items).SerializeToString()
        return bounds.takes(schema, data) / len(data)

    assert takes(text("a")) == 8
    assert takes(image(bytes(10**6))) == pytest.approx(3, abs=0.01)
    assert takes(text("a" * 10**6)) == pytest.approx(5, abs=0.01)
    assert takes(text("é" * 10**5)) == pytest.approx(8, abs=0.01)
    with pytest.raises(TooLarge, match="GATEWAY_MAX_ITEMS"):
        takes(*[clip_pb2.Item()] * 100_000)
    with pytest.raises(TooLarge, match="GATEWAY_MAX_TEXT_CHARACTERS"):
        takes(text("a" * 2**20 + "é"))
