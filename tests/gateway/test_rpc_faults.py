"""Faults behind the gRPC edge, staged at the client of Triton, and the statuses they become."""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from grpc import StatusCode as Code

from gateway import errors
from gateway.inference.client import FakeInferClient
from gateway.rpc.problems import STATUS
from gateway.rpc.service import NAME, ClipService
from openclip_api.v1 import clip_pb2
from tests.gateway.fakes import Gated, error_classes, failing, unit
from tests.gateway.rpcserver import image, metadata, served, text
from tests.gateway.waiting import until

EMBED = clip_pb2.EmbedRequest(input=[text("x")])


async def refused(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value


def test_every_error_has_a_status() -> None:
    assert error_classes() == set(STATUS)


async def test_every_method_of_the_proto_is_served() -> None:
    methods = clip_pb2.DESCRIPTOR.services_by_name["ClipService"].methods
    async with served(FakeInferClient(unit)) as gateway:
        for method in methods:
            call = gateway.channel.stream_stream(f"/{NAME}/{method.name}")()
            await call.write(b"\xff")  # no message of any kind
            await call.done_writing()
            assert await call.code() == Code.INVALID_ARGUMENT, method.name
            assert method.input_type.full_name in await call.details()
    assert ClipService.__name__ == NAME.rpartition(".")[2]


@pytest.mark.parametrize(
    ("error", "status", "retried"),
    [
        (errors.Unavailable("gone"), Code.UNAVAILABLE, True),
        (errors.DeadlineExceeded("late"), Code.DEADLINE_EXCEEDED, False),
        (errors.Overloaded("full"), Code.RESOURCE_EXHAUSTED, True),
        (errors.InferenceFailed("secret 10.0.0.7"), Code.INTERNAL, False),
        (RuntimeError("secret 10.0.0.7"), Code.INTERNAL, False),
    ],
)
async def test_failing_triton(
    error: Exception, status: Code, retried: bool, caplog: pytest.LogCaptureFixture
) -> None:
    calls = [
        ("Embed", EMBED),
        ("Classify", clip_pb2.ClassifyRequest(images=[image()], labels=["a"])),
        ("Similarity", clip_pb2.SimilarityRequest(images=[image()], texts=["a"])),
        ("Rerank", clip_pb2.RerankRequest(query=text("a"), documents=[image()])),
    ]
    async with served(FakeInferClient(failing(error))) as gateway:
        for name, message in calls:
            caplog.clear()
            raised = await refused(getattr(gateway.stub, name)(message))
            told = metadata(raised)
            assert raised.code() == status
            assert told["error-code"] == getattr(error, "code", "internal_error")
            assert told.get("retry-after") == ("1" if retried else None)
            assert "error-param" not in told
            assert (told["x-request-id"] in raised.details()) == (status == Code.INTERNAL)
            if status == Code.INTERNAL:
                assert "secret" not in raised.details()
                assert "secret 10.0.0.7" in caplog.text
                assert told["x-request-id"] in caplog.text
            else:
                assert raised.details() == str(error)
        assert gateway.admission.requests == 0


async def test_a_request_error_names_the_field() -> None:
    async with served(FakeInferClient(unit)) as gateway:
        message = clip_pb2.EmbedRequest(input=[text("a"), image(b"no picture \xe9")])
        raised = await refused(gateway.stub.Embed(message))
        assert raised.code() == Code.INVALID_ARGUMENT
        assert metadata(raised)["error-code"] == "invalid_image"
        assert metadata(raised)["error-param"] == "input[1]"


async def test_request_ids() -> None:
    async with served(FakeInferClient(unit)) as gateway:

        async def answered_id(*offered: str) -> str:
            sent = tuple(("x-request-id", each) for each in offered)
            call = gateway.stub.Embed(EMBED, metadata=sent)
            await call
            told = dict(await call.trailing_metadata())
            return str(told["x-request-id"])

        assert await answered_id("mine-1.A_b") == "mine-1.A_b"
        assert await answered_id("not plain", "mine-2") == "mine-2"
        assert len(await answered_id("a" * 129)) == 32
        assert await answered_id() != await answered_id()


async def test_stages_are_timed() -> None:
    async with served(FakeInferClient(unit)) as gateway:
        call = gateway.stub.Embed(EMBED)
        await call
        timing = dict(await call.trailing_metadata())["server-timing"]
        assert {"tokenize", "infer"} <= {part.split(";")[0] for part in timing.split(", ")}


async def test_long_and_foreign_messages_arrive() -> None:
    async with served(FakeInferClient(unit)) as gateway:
        for name in ("é" * 50, "模" * 50_000, "a" * 100_000):
            raised = await refused(gateway.stub.Embed(clip_pb2.EmbedRequest(model=name)))
            assert raised.code() == Code.NOT_FOUND
            assert f"the model '{name[:50]}" in raised.details()


async def test_messages_over_the_limit() -> None:
    async with served(FakeInferClient(unit), max_message_bytes=10_000) as gateway:
        fits = clip_pb2.EmbedRequest(input=[text("a" * 4_000)] * 2)
        assert len((await gateway.stub.Embed(fits)).results) == 2
        over = clip_pb2.EmbedRequest(input=[text("a" * 4_000)] * 3)
        raised = await refused(gateway.stub.Embed(over))
        assert raised.code() == Code.INVALID_ARGUMENT
        assert metadata(raised)["error-code"] == "too_large"
        assert "GATEWAY_MAX_BODY_BYTES" in raised.details()
        far_over = clip_pb2.EmbedRequest(input=[text("a" * 2_000_000)])
        assert (await refused(gateway.stub.Embed(far_over))).code() == Code.RESOURCE_EXHAUSTED


async def test_our_deadline_ends_a_slow_call() -> None:
    async with served(FakeInferClient(unit, delay=60), timeout_s=0.2) as gateway:
        raised = await refused(gateway.stub.Embed(EMBED))
        assert raised.code() == Code.DEADLINE_EXCEEDED
        assert metadata(raised)["error-code"] == "deadline_exceeded"
        assert gateway.admission.requests == 0


async def test_the_clients_deadline_frees_the_work() -> None:
    client = FakeInferClient(unit, delay=60)
    async with served(client) as gateway:
        raised = await refused(gateway.stub.Embed(EMBED, timeout=2))
        assert raised.code() == Code.DEADLINE_EXCEEDED
        assert client.calls
        await until(lambda: gateway.admission.requests == 0)


async def test_an_error_after_the_call_is_over_is_not_a_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def over(*_: object) -> None:
        raise grpc.aio.InternalError("ExecuteBatchError: the call is over")

    monkeypatch.setattr("gateway.rpc.calls.abort", over)
    async with served(FakeInferClient(failing(errors.Unavailable("gone")))) as gateway:
        await refused(gateway.stub.Embed(EMBED, timeout=2))
        await until(lambda: gateway.admission.requests == 0)
    assert not caplog.records


async def test_a_message_that_is_late_at_once() -> None:
    async with served(FakeInferClient(unit), timeout_s=0) as gateway:
        raised = await refused(gateway.stub.Embed(EMBED))
        assert raised.code() == Code.DEADLINE_EXCEEDED
        assert "within 0 seconds" in raised.details()


async def test_a_client_that_cancels_frees_the_work() -> None:
    client = FakeInferClient(unit, delay=60)
    async with served(client) as gateway:
        call = gateway.stub.Embed(EMBED)
        asking = asyncio.ensure_future(call)
        await until(lambda: bool(client.calls))
        assert gateway.admission.requests == 1
        call.cancel()
        await until(lambda: gateway.admission.requests == 0)
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_no_room_is_told_at_once_and_room_comes_back() -> None:
    client = Gated()
    async with served(client, max_inflight=3) as gateway:

        async def ask(content: str) -> Any:
            return await gateway.stub.Embed(clip_pb2.EmbedRequest(input=[text(content)])).code()

        tasks = [asyncio.create_task(ask(f"text {number}")) for number in range(10)]
        await until(lambda: sum(task.done() for task in tasks) == 7)
        client.gate.set()
        codes = await asyncio.gather(*tasks)
        assert codes.count(Code.OK) == 3
        assert codes.count(Code.RESOURCE_EXHAUSTED) == 7
        assert len(client.calls) == 3  # refused before any work
        assert await ask("later") == Code.OK


async def test_a_taken_port_is_told() -> None:
    async with served(FakeInferClient(unit)) as gateway:
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{gateway.port}"):
            async with served(FakeInferClient(unit), port=gateway.port):
                pass


async def test_calls_in_progress_are_answered_while_draining(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = Gated()
    async with served(client) as gateway:
        asking = asyncio.ensure_future(gateway.stub.Embed(EMBED))
        await until(lambda: bool(client.calls))
        stopping = asyncio.create_task(gateway.server.stop(20))
        await asyncio.sleep(0.2)
        assert not stopping.done()
        client.gate.set()
        await stopping
        assert len((await asking).results) == 1
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]
