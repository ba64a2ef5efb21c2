"""EmbedStream: each item answered once, memory bounded, and nothing left when a client leaves."""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import StatusCode as Code

from gateway import errors
from gateway.inference.client import Call, FakeInferClient
from gateway.models.values import TextItem, Vectors
from gateway.rpc.window import Pending, Window
from openclip_api.v1 import clip_pb2
from tests.gateway.fakes import Gated, unit
from tests.gateway.rpcserver import image, loaded, metadata, served, text
from tests.gateway.test_rpc_faults import refused
from tests.gateway.waiting import until

BUFFERS = 20_000_000  # bytes that grpc and the kernel may hold of one stream
Request, Options, StreamItem = (
    clip_pb2.EmbedStreamRequest,
    clip_pb2.StreamOptions,
    clip_pb2.StreamItem,
)


def requests(
    items: Iterable[tuple[str, clip_pb2.Item]], per_message: int = 1
) -> list[clip_pb2.EmbedStreamRequest]:
    entries = [StreamItem(id=name, item=item) for name, item in items]
    return [
        Request(items=entries[start : start + per_message])
        for start in range(0, len(entries), per_message)
    ]


async def results(call: Any) -> list[clip_pb2.StreamResult]:
    async with asyncio.timeout(60):
        return [result async for message in call for result in message.results]


async def endless(counter: Counter[str], size: int = 0) -> AsyncIterator[Any]:
    """One item after the other, numbered, each with an id of at least this size."""
    while "stop" not in counter:
        name = str(counter["sent"])
        counter["sent"] += 1
        yield Request(items=[StreamItem(id=name.zfill(size), item=text(f"word {name}"))])
    await asyncio.Event().wait()


@pytest.mark.parametrize("per_message", [1, 7, 1_000])
async def test_each_item_is_answered_once_and_bad_ones_on_their_own(per_message: int) -> None:
    rng = random.Random(4)
    wrong = {
        "image": image(b"not a picture"),
        "text": text(""),
        "item": clip_pb2.Item(),
        "image_url": clip_pb2.Item(image_url="https://example.org/a.png"),
    }
    items, wanted = [], Counter[tuple[str, str]]()
    for number in range(1_000):
        name = str(number % 900)  # a hundred ids come twice
        param = rng.choice(sorted(wrong)) if rng.random() < 0.05 else ""
        good = image() if number % 10 == 0 else text(f"word {number}")
        items.append((name, wrong[param] if param else good))
        wanted[name, param] += 1
    async with served(
        FakeInferClient(unit), stream_window_items=100, max_message_bytes=2**24
    ) as gateway:
        answered = await results(gateway.stub.EmbedStream(requests(items, per_message)))
        assert Counter((each.id, each.error.param) for each in answered) == wanted
        for each in answered:
            if each.error.param:
                codes = {"image": "invalid_image", "image_url": "url_not_allowed"}
                assert each.error.code == codes.get(each.error.param, "invalid_request")
                assert each.error.message
                assert not each.error.retryable
            else:
                assert len(each.embedding.vector) == 4 * 64
        assert gateway.admission.requests == 0
        assert gateway.admission.bytes == 0


async def test_options_hold_for_the_whole_stream() -> None:
    long = " ".join(["word"] * 100)
    async with served(FakeInferClient(unit)) as gateway:
        asked = Request(options=Options(model="demo", dimensions=8, truncate=False))
        later = requests([("short", text("a")), ("long", text(long))])
        messages = [each async for each in gateway.stub.EmbedStream([asked, *later])]
        by_id = {result.id: result for message in messages for result in message.results}
        assert len(by_id["short"].embedding.vector) == 4 * 8
        assert by_id["long"].error.code == "context_length_exceeded"
        for message in messages:
            assert (message.model, message.dimensions) == ("demo", 8)
            assert message.fingerprint == loaded().models.find("demo").manifest.fingerprint
        [cut] = await results(gateway.stub.EmbedStream(requests([("long", text(long))])))
        assert cut.embedding.truncated


async def test_no_dimensions_are_all() -> None:
    asked = [Request(options=Options(dimensions=0)), *requests([("a", text("a"))])]
    async with served(FakeInferClient(unit)) as gateway:
        [result] = await results(gateway.stub.EmbedStream(asked))
        assert len(result.embedding.vector) == 4 * 64


async def test_an_empty_stream_is_answered_with_nothing() -> None:
    async with served(FakeInferClient(unit)) as gateway:
        for messages in ([], [Request()], [Request(options=Options())]):
            call = gateway.stub.EmbedStream(messages)
            assert await results(call) == []
            assert await call.code() == Code.OK


@pytest.mark.parametrize(
    ("messages", "code", "param"),
    [
        ([Request(options=Options(model="none"))], Code.NOT_FOUND, "model"),
        ([Request(options=Options(dimensions=65))], Code.INVALID_ARGUMENT, "dimensions"),
        (
            [Request(options=Options(dimensions=65)), *requests([("a", clip_pb2.Item())])],
            Code.INVALID_ARGUMENT,
            "dimensions",
        ),
        (
            [*requests([("a", text("a"))]), Request(options=Options())],
            Code.INVALID_ARGUMENT,
            "options",
        ),
    ],
)
async def test_wrong_options_end_the_stream(
    messages: list[clip_pb2.EmbedStreamRequest], code: Code, param: str
) -> None:
    async with served(FakeInferClient(unit)) as gateway:
        raised = await refused(results(gateway.stub.EmbedStream(messages)))
        assert raised.code() == code
        assert metadata(raised)["error-param"] == param
        await until(lambda: gateway.admission.requests == 0)


async def test_a_message_over_the_limit_ends_the_stream() -> None:
    async with served(FakeInferClient(unit), max_message_bytes=1_000) as gateway:
        messages = requests([("a", text("a")), ("b", text("b" * 1_000))])
        raised = await refused(results(gateway.stub.EmbedStream(messages)))
        assert raised.code() == Code.INVALID_ARGUMENT
        assert metadata(raised)["error-code"] == "too_large"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.Unavailable("gone"), "unavailable"),
        (errors.DeadlineExceeded("late"), "deadline_exceeded"),
        (errors.Overloaded("full"), "overloaded"),
        (errors.InferenceFailed("secret"), "internal_error"),
        (RuntimeError("secret"), "internal_error"),
    ],
)
async def test_a_failed_batch_fails_its_items_alone(
    error: Exception, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    def behave(call: Call) -> Vectors:
        if call.encoder.input_name == "pixels":
            raise error
        return unit(call)

    async with served(FakeInferClient(behave), stream_batch_items=1) as gateway:
        items = [("t", text("a")), ("i", image()), ("u", text("b")), ("bad", text(""))]
        answered = {each.id: each for each in await results(
            gateway.stub.EmbedStream(requests(items))
        )}  # fmt: skip
        assert answered["t"].HasField("embedding")
        assert answered["u"].HasField("embedding")
        assert not answered["bad"].error.retryable
        failed = answered["i"].error
        assert (failed.code, failed.retryable) == (code, code != "internal_error")
        assert "secret" not in failed.message
        assert ("secret" in caplog.text) == (code == "internal_error")


async def test_a_slow_batch_ends_at_its_own_deadline_and_the_stream_goes_on() -> None:
    client = FakeInferClient(unit, delay=60)
    async with served(client, timeout_s=0.2, stream_batch_items=1) as gateway:
        items = [(str(number), text(f"word {number}")) for number in range(6)]
        answered = await results(gateway.stub.EmbedStream(requests(items)))
        assert sorted(each.id for each in answered) == [name for name, _ in items]
        assert {each.error.code for each in answered} == {"deadline_exceeded"}


async def test_the_clients_deadline_ends_the_stream() -> None:
    async with served(FakeInferClient(unit, delay=60)) as gateway:
        call = gateway.stub.EmbedStream(timeout=2)
        await call.write(requests([("a", text("a"))])[0])
        assert await call.code() == Code.DEADLINE_EXCEEDED
        await until(lambda: gateway.admission.requests == 0)


async def test_a_call_that_ends_while_it_is_answered_is_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with served(FakeInferClient(unit)) as gateway:
        for _ in range(5):
            call = gateway.stub.EmbedStream(endless(Counter()), timeout=0.3)
            await refused(results(call))
            await until(lambda: gateway.admission.requests == 0)
    assert not [each.message for each in caplog.records if each.levelno >= logging.WARNING]


async def test_a_batch_waits_for_its_quota_any_number_of_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refusals = iter(range(2_000))
    async with served(FakeInferClient(unit)) as gateway:
        embed = gateway.engine.embed

        def spent(*arguments: Any) -> Any:
            if next(refusals, None) is not None:
                raise errors.QuotaExceeded("it is spent", retry_after_s=0.0)
            return embed(*arguments)

        monkeypatch.setattr(gateway.engine, "embed", spent)
        [result] = await results(gateway.stub.EmbedStream(requests([("1", text("a"))])))
        assert result.HasField("embedding")


async def test_items_that_wait_go_together() -> None:
    client = FakeInferClient(unit, delay=0.1)
    async with served(client, stream_batch_items=16) as gateway:
        items = [(str(number), text(f"word {number}")) for number in range(320)]
        await results(gateway.stub.EmbedStream(requests(items, 320)))
    assert gateway.engine.asked == [16] * 20


async def test_one_item_does_not_wait_for_others() -> None:
    async with served(FakeInferClient(unit)) as gateway:
        call = gateway.stub.EmbedStream()
        for name in ("a", "b"):
            await call.write(Request(items=[StreamItem(id=name, item=text(name))]))
            async with asyncio.timeout(20):
                assert [each.id for each in (await call.read()).results] == [name]
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


async def test_a_slow_triton_holds_the_reader_at_the_window() -> None:
    client, counter = Gated(), Counter[str]()
    async with served(client, stream_window_items=10, stream_batch_items=4) as gateway:
        call = gateway.stub.EmbedStream(endless(counter, 5_000))
        await until(lambda: sum(gateway.engine.asked) == 10)
        sent = await _settled(counter)
        assert gateway.engine.asked == [1, 4, 4, 1]  # at once; full; full; and the window is full
        # What was sent beyond the window lies in HTTP/2's buffers.
        assert sent * 5_000 < BUFFERS
        client.gate.set()
        async with asyncio.timeout(60):
            async for _ in call:
                if counter["sent"] > sent + 1_000:  # it goes on
                    break
        call.cancel()
        await until(lambda: gateway.admission.requests == 0)


async def test_a_client_that_does_not_read_is_not_answered_from_memory() -> None:
    client = FakeInferClient(unit)
    counter = Counter[str]()
    async with served(client, stream_window_items=64, stream_batch_items=16) as gateway:
        call = gateway.stub.EmbedStream(endless(counter, 5_000))
        await _settled(counter)
        embedded = sum(len(each.batch) for each in client.calls)
        # Answers beyond the window lie in HTTP/2's buffers.
        assert embedded * 5_000 < BUFFERS
        async with asyncio.timeout(60):
            async for _ in call:
                if sum(len(each.batch) for each in client.calls) > embedded + 1_000:
                    break
        call.cancel()
        await until(lambda: gateway.admission.requests == 0)


async def _settled(counter: Counter[str]) -> int:
    """How many were sent, once no more are."""
    before = -1
    async with asyncio.timeout(60):
        while counter["sent"] != before:
            before = counter["sent"]
            await asyncio.sleep(0.5)
    return before


async def test_a_client_that_leaves_frees_everything_at_once() -> None:
    client, counter = FakeInferClient(unit, delay=60), Counter[str]()
    async with served(client, stream_batch_items=4, stream_window_bytes=10_000) as gateway:
        call = gateway.stub.EmbedStream(endless(counter))
        await until(lambda: len(gateway.engine.asked) == 4)
        calls = len(client.calls)
        assert gateway.admission.requests == 1
        assert 10_000 < gateway.admission.bytes < 11_000  # its window, and a message
        call.cancel()
        await until(lambda: gateway.engine.cancelled == 4)
        await until(lambda: gateway.admission.requests == 0)
        assert gateway.admission.bytes == 0
        await _settled(counter)
        assert len(gateway.engine.asked) == 4
        assert len(client.calls) == calls  # nothing more goes to Triton


async def test_a_connection_that_breaks_frees_everything() -> None:
    client, counter = FakeInferClient(unit, delay=60), Counter[str]()
    async with served(client) as gateway:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
            method = channel.stream_stream(
                "/openclip.v1.ClipService/EmbedStream",
                request_serializer=Request.SerializeToString,
            )
            method(endless(counter))
            await until(lambda: len(client.calls) > 0)
            assert gateway.admission.requests == 1
        await until(lambda: gateway.admission.requests == 0)


async def test_an_idle_stream_gives_its_permit_back() -> None:
    async with served(FakeInferClient(unit), stream_idle_s=1.0) as gateway:
        silent = gateway.stub.EmbedStream()
        began = gateway.stub.EmbedStream()
        await began.write(requests([("a", text("a"))])[0])
        assert (await began.read()).results[0].id == "a"
        for call in (silent, began):
            assert await call.code() == Code.DEADLINE_EXCEEDED
            assert "GATEWAY_STREAM_IDLE_S" in await call.details()
        await until(lambda: gateway.admission.requests == 0)


async def test_a_stream_that_waits_for_the_service_is_not_idle() -> None:
    async with served(FakeInferClient(unit, delay=2.0), stream_idle_s=1.0) as gateway:
        call = gateway.stub.EmbedStream()
        await call.write(requests([("a", text("a"))])[0])
        assert (await call.read()).results[0].id == "a"
        await call.done_writing()
        assert await call.code() == Code.OK


async def test_a_stream_takes_one_permit_while_it_sends() -> None:
    client, [message] = Gated(), requests([("a", text("a"))])
    async with served(client, max_inflight=1) as gateway:
        silent, first = gateway.stub.EmbedStream(), gateway.stub.EmbedStream()
        await silent.initial_metadata()
        assert gateway.admission.requests == 0
        await first.write(message)
        await until(lambda: client.calls)
        assert gateway.admission.requests == 1
        raised = await refused(results(gateway.stub.EmbedStream([message])))
        assert raised.code() == Code.RESOURCE_EXHAUSTED
        client.gate.set()
        await first.read()
        await until(lambda: gateway.admission.requests == 0)
        [answer] = await results(gateway.stub.EmbedStream([message]))
        assert answer.id == "a"


async def test_a_stream_that_was_silent_waits_for_room() -> None:
    client, [message] = Gated(), requests([("a", text("a"))])
    client.gate.set()
    async with served(client, max_inflight=1) as gateway:
        silent, other = gateway.stub.EmbedStream(), gateway.stub.EmbedStream()
        await silent.write(message)
        await silent.read()
        await until(lambda: gateway.admission.requests == 0)
        client.gate.clear()
        await other.write(message)
        await until(lambda: len(client.calls) == 2)
        await silent.write(message)
        await asyncio.sleep(0.3)
        assert len(client.calls) == 2
        client.gate.set()
        await other.read()
        assert (await silent.read()).results[0].id == "a"


async def test_a_stream_that_finds_no_room_for_long_is_refused() -> None:
    client, [message] = Gated(), requests([("a", text("a"))])
    client.gate.set()
    async with served(client, max_inflight=1, timeout_s=1.0, stream_idle_s=60.0) as gateway:
        silent = gateway.stub.EmbedStream()
        await silent.write(message)
        await silent.read()
        await until(lambda: gateway.admission.requests == 0)
        with gateway.admission.permit(0):
            await silent.write(message)
            assert await silent.code() == Code.RESOURCE_EXHAUSTED
            assert "GATEWAY_MAX_INFLIGHT" in await silent.details()


async def test_draining_answers_what_was_read_and_ends_the_stream() -> None:
    client, counter = FakeInferClient(unit, delay=0.01), Counter[str]()
    async with served(client, stream_window_items=32) as gateway:
        call = gateway.stub.EmbedStream(endless(counter))
        answered: list[str] = []

        async def read() -> None:
            async for message in call:
                answered.extend(result.id for result in message.results)

        reading = asyncio.ensure_future(read())
        await until(lambda: len(answered) > 100)
        counter["stop"] = 1  # grpc's client for asyncio reports a failed write, not the status
        await gateway.server.stop(20)
        raised = await refused(reading)
        assert raised.code() == Code.UNAVAILABLE
        assert metadata(raised)["retry-after"] == "1"
        assert len(answered) == sum(len(each.batch) for each in client.calls)
        assert sorted(map(int, answered)) == list(range(len(answered)))


async def test_draining_ends_a_stream_that_waits_for_its_client() -> None:
    async with served(FakeInferClient(unit)) as gateway:
        call = gateway.stub.EmbedStream()
        await call.write(requests([("a", text("a"))])[0])
        assert len((await call.read()).results) == 1
        await gateway.server.stop(20)
        assert await call.code() == Code.UNAVAILABLE
        assert "shutting down" in await call.details()


async def test_draining_does_not_fail_a_stream_that_was_sent_whole() -> None:
    client, sent = Gated(), asyncio.Event()

    async def whole() -> AsyncIterator[Any]:
        for message in requests([("a", text("a")), ("b", text("b"))]):
            yield message
        sent.set()

    async with served(client) as gateway:
        reading = asyncio.ensure_future(results(gateway.stub.EmbedStream(whole())))
        await until(lambda: sent.is_set() and client.calls)
        await asyncio.sleep(0.5)  # until the end of the requests has come through
        stopping = asyncio.create_task(gateway.server.stop(20))
        await asyncio.sleep(0.1)
        client.gate.set()
        await stopping
        assert sorted(each.id for each in await reading) == ["a", "b"]


async def test_draining_ends_a_stream_that_has_not_begun() -> None:
    async with served(FakeInferClient(unit)) as gateway:
        call = gateway.stub.EmbedStream()
        await call.initial_metadata()
        await gateway.server.stop(20)
        assert await call.code() == Code.UNAVAILABLE


async def test_two_streams_share_the_engine() -> None:
    def first_number(call: Call) -> Vectors:
        rows = np.zeros((len(call.batch), call.encoder.embedding_size), dtype=np.float32)
        rows[:, 0], rows[:, 1] = call.batch[:, 2], call.batch[:, 1]  # tells texts apart
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    async with served(FakeInferClient(first_number)) as gateway:
        items = [(f"{number}", text(f"word {number % 50}")) for number in range(200)]
        streams = await asyncio.gather(
            *(results(gateway.stub.EmbedStream(requests(items, 9))) for _ in range(2))
        )
    one, other = ({each.id: each.embedding.vector for each in stream} for stream in streams)
    assert one == other
    assert one["3"] == one["53"] != one["4"]


async def test_the_window_counts_items_and_bytes() -> None:
    def pending(size: int) -> Pending:
        return Pending("", TextItem("", ""), size)

    async def fits(window: Window, size: int) -> bool:
        putting = asyncio.ensure_future(window.put(pending(size)))
        await asyncio.sleep(0)
        putting.cancel()
        return putting.done()

    window = Window(max_items=3, max_bytes=100, batch_items=2)
    assert await fits(window, 1_000)  # alone, whatever its size
    assert not await fits(window, 1)
    window.release(await window.take())
    assert [await fits(window, size) for size in (50, 50, 1)] == [True, True, False]
    window.release(await window.take())
    assert [await fits(window, size) for size in (1, 1, 1)] == [True, True, True]
    assert not await fits(window, 1)
    assert (window.items, window.bytes) == (3, 3)
    window.close()
    assert [len(await window.take()) for _ in range(3)] == [2, 1, 0]


async def test_items_wait_for_a_batch_only_while_one_runs() -> None:
    async def taken(window: Window) -> int | None:
        taking = asyncio.ensure_future(window.take())
        await asyncio.sleep(0)
        if not taking.done():
            taking.cancel()
            return None
        return len(taking.result())

    window = Window(max_items=5, max_bytes=1_000, batch_items=3)
    item = Pending("", TextItem("", ""), 1)
    assert await taken(window) is None
    await window.put(item)
    assert await taken(window) == 1  # nothing runs
    await window.put(item)
    assert await taken(window) is None
    await window.put(item)
    await window.put(item)
    assert await taken(window) == 3  # a full batch
    await window.put(item)
    assert await taken(window) is None
    waits = asyncio.ensure_future(window.put(item))
    await asyncio.sleep(0)
    assert await taken(window) == 1  # no more can come before
    window.release([item, item, item])
    await waits
    window.release([item])
    assert await taken(window) is None
    window.release([item])
    assert await taken(window) == 1  # the work before is done
