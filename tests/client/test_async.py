"""`AsyncClient`: the calls of `Client`, which end as theirs do, and streams that leave nothing."""

import asyncio
import gc
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import astuple, is_dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from openclip_triton import (
    AsyncClient,
    Client,
    ClientError,
    ConnectionFailed,
    DeadlineExceeded,
    ModelChanged,
    Result,
    UnreadableFile,
)
from openclip_triton.values import Content

from tests.client.conftest import FAST
from tests.client.fake import Fake, vector_of
from tests.conftest import SAMPLES
from tests.gateway.waiting import until

IMAGE = SAMPLES / "red-circle.png"
BLUE = SAMPLES / "blue-star.jpg"
LABELS = ["red circle", "blue star", "green heart"]
TEXTS = [f"text {number}" for number in range(500)]
GONE = Path("gone.png")

Ask = Callable[[Any], Any]  # of either client


def public(kind: type) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(kind).items()
        if inspect.isfunction(value) and (name == "__init__" or not name.startswith("_"))
    }


def test_both_clients_have_the_same_calls() -> None:
    theirs, ours = public(Client), public(AsyncClient)
    assert theirs.keys() == ours.keys()
    for name, call in theirs.items():
        if name not in ("__init__", "close"):
            assert str(inspect.getdoc(ours[name])).startswith(f"See `Client.{name}`")
        expected, found = inspect.signature(call), inspect.signature(ours[name])
        assert list(found.parameters) == list(expected.parameters), name
        for parameter, one in found.parameters.items():
            other = expected.parameters[parameter]
            assert (one.kind, one.default) == (other.kind, other.default)
            if (name, parameter) != ("stream", "items"):  # takes an asynchronous iterable as well
                assert one.annotation == other.annotation, (name, parameter)
        if name == "stream":
            assert inspect.isfunction(ours[name])
            assert not inspect.iscoroutinefunction(ours[name])  # to iterate over, as theirs
        elif name != "__init__":
            assert inspect.iscoroutinefunction(ours[name]), name
            assert found.return_annotation == expected.return_annotation, name


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.embed_texts(LABELS, dimensions=16),
        lambda client: client.embed_texts([f"{n} {label}" for n in range(30) for label in LABELS]),
        lambda client: client.embed_texts(np.array(LABELS)),
        lambda client: client.embed_images([IMAGE, IMAGE.read_bytes(), BLUE]),
        lambda client: client.embed_images([IMAGE] * 70),
        lambda client: client.space(dimensions=8),
        lambda client: client.classify([IMAGE, BLUE], LABELS, templates=["a {}"], top_k=2),
        lambda client: client.similarity(LABELS, [IMAGE, BLUE]),
        lambda client: client.rerank("a blue star", [IMAGE, BLUE, "green heart"], top_n=2),
        lambda client: client.models(),
        # Mistakes, and what the service refuses.
        lambda client: client.embed_texts([]),
        lambda client: client.embed_texts("a red circle"),
        lambda client: client.embed_texts(["a", IMAGE]),
        lambda client: client.embed_texts(each for each in "ab"),
        lambda client: client.embed_texts(["a"], model="nope"),
        lambda client: client.embed_texts([*["a"] * 70, ""]),
        lambda client: client.embed_images(IMAGE),
        lambda client: client.embed_images([str(IMAGE)]),
        lambda client: client.embed_images([IMAGE, b"no image"]),
        lambda client: client.embed_images([IMAGE, GONE]),
        lambda client: client.embed_images([*[IMAGE] * 70, GONE]),
        lambda client: client.classify([IMAGE], label_set="nope"),
        lambda client: client.classify([IMAGE], ["a"], top_k=0),
        lambda client: client.classify(GONE, ["a"]),
        lambda client: client.similarity("cat", [IMAGE]),
        lambda client: client.rerank(GONE, LABELS),
        lambda client: client.rerank(7, LABELS),
    ],
)
async def test_a_call_ends_as_the_other_clients(real: Client, real_address: str, ask: Ask) -> None:
    expected: object
    try:
        expected = await asyncio.to_thread(ask, real)
    except (TypeError, ClientError) as error:
        expected = error
    async with AsyncClient(real_address) as client:
        if not isinstance(expected, Exception):
            assert_same(await ask(client), expected)
            return
        with pytest.raises(type(expected)) as raised:
            await ask(client)
    assert raised.type is type(expected)
    assert vars(raised.value) == vars(expected)
    assert str(raised.value) == str(expected)


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if is_dataclass(expected) and not isinstance(expected, type):
        found, expected = astuple(found), astuple(expected)
    if isinstance(expected, np.ndarray | float):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


@asynccontextmanager
async def nothing_left(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """No task that was not there before, and nothing that asyncio had to say."""
    before = asyncio.all_tasks()
    yield
    await until(lambda: asyncio.all_tasks() == before)  # gRPC's own end a little later
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


@pytest.fixture
def held(fake: Fake) -> Iterator[threading.Event]:
    """Until it is set, the service answers nothing."""
    fake.hold = threading.Event()
    yield fake.hold
    fake.hold.set()


async def settled(calls: list[asyncio.Task[Any]]) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


async def test_two_thousand_calls_hold_their_deadlines_and_are_cancelled(
    address: str, held: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        nothing_left(caplog),
        AsyncClient(address, timeout=0.5) as hasty,
        AsyncClient(address, timeout=300) as patient,
    ):

        def ask(client: AsyncClient, count: int) -> list[asyncio.Task[Any]]:
            return [
                asyncio.create_task(client.embed_texts([f"text {number}"]))
                for number in range(count)
            ]

        late, cancelled, patiently = ask(hasty, 2_000), ask(patient, 1_000), ask(patient, 1_000)
        # The service answers nothing yet: what ends, ends by its own deadline.
        assert {type(outcome) for outcome in await settled(late)} == {DeadlineExceeded}
        assert [call for call in [*cancelled, *patiently] if call.done()] == []
        for call in cancelled:
            call.cancel()
        assert {type(each) for each in await settled(cancelled)} == {asyncio.CancelledError}
        assert [call for call in patiently if call.done()] == []
        held.set()
        for number, vectors in enumerate(await settled(patiently)):
            np.testing.assert_array_equal(vectors, [vector_of(f"text {number}")])


async def test_what_the_other_side_cancels_is_a_lost_connection(address: str, fake: Fake) -> None:
    fake.refuse = (grpc.StatusCode.CANCELLED, "", "a proxy went away")
    async with AsyncClient(address) as client:
        with pytest.raises(ConnectionFailed, match="a proxy went away"):
            await client.models()
        with pytest.raises(ConnectionFailed, match="a proxy went away"):
            await embedded(client, ["a"], settings=FAST)


async def test_a_call_waits_as_long_as_it_is_told(address: str, fake: Fake) -> None:
    fake.unary_failures, fake.pushback = 2, ("grpc-retry-pushback-ms", "20")
    async with AsyncClient(address) as client:
        assert [model.id for model in await client.models()] == ["fake"]


async def test_nobody_is_there() -> None:
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:1"):
            await client.models()
    await AsyncClient().close()  # was never used


def test_half_of_a_certificate_is_refused() -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="both tls_cert and tls_key"):
            kind(tls_cert=Path("certificate.pem"))
        with pytest.raises(UnreadableFile):
            kind(tls_ca=GONE)


async def embedded(client: AsyncClient, texts: list[str], **options: object) -> list[Result[int]]:
    given: Any = {"settings": FAST} | options
    return [result async for result in client.stream(enumerate(texts), **given)]


def assert_right(results: list[Result[int]], texts: list[str] = TEXTS) -> None:
    assert sorted(result.id for result in results) == list(range(len(texts)))
    for result in results:
        assert result.vector is not None, result.error
        assert np.array_equal(result.vector, vector_of(texts[result.id]))


async def test_a_stream_answers_each_item_once(
    address: str, fake: Fake, caplog: pytest.LogCaptureFixture
) -> None:
    fake.overloaded = {TEXTS[3]: 2, TEXTS[250]: 1}
    fake.break_after = [100, 0, 57]
    async with nothing_left(caplog), AsyncClient(address) as client:
        results = await embedded(client, TEXTS, ordered=True, settings=replace(FAST, max_items=64))
        assert [result.id for result in results] == list(range(len(TEXTS)))
        assert_right(results)
        assert (fake.streams, fake.ended_streams) == (4, 1)
        assert await embedded(client, []) == []


async def test_a_silent_connection_is_replaced(address: str, fake: Fake) -> None:
    fake.silent_streams = 1
    async with AsyncClient(address) as client:
        assert_right(await embedded(client, TEXTS, settings=replace(FAST, idle_s=0.5)))
    assert fake.streams == 2


async def test_items_come_from_files_and_asynchronous_iterables(
    address: str, tmp_path: Path
) -> None:
    (tmp_path / "good.png").write_bytes(b"good")
    contents: list[Content] = [tmp_path / "good.png", b"bytes", b"bad", tmp_path / GONE, "a text"]

    async def items() -> AsyncIterator[tuple[int, Content]]:
        for number, content in enumerate(contents):
            await asyncio.sleep(0)
            yield number, content

    async with AsyncClient(address) as client:
        found = [result async for result in client.stream(items(), ordered=True, settings=FAST)]
    assert [type(result.error).__name__ for result in found] == [
        "NoneType", "NoneType", "InvalidRequest", "UnreadableFile", "NoneType",
    ]  # fmt: skip
    np.testing.assert_array_equal(found[0].vector, vector_of(b"good"))


async def test_a_stream_ends_with_the_error_of_its_items_or_of_all(
    address: str, fake: Fake, caplog: pytest.LogCaptureFixture
) -> None:
    def failing() -> Iterator[tuple[int, str]]:
        yield from enumerate(TEXTS)
        raise RuntimeError("the list is torn")

    async with nothing_left(caplog), AsyncClient(address) as client:
        seen: list[Result[int]] = []
        with pytest.raises(RuntimeError, match="torn"):
            seen.extend([result async for result in client.stream(failing(), settings=FAST)])
        with pytest.raises(TypeError, match="pairs of an id and an item"):
            await anext(client.stream("ab"))  # type: ignore[arg-type]
        with pytest.raises(ModelChanged):
            await embedded(client, TEXTS, fingerprint="other")
        fake.break_after = [0] * 100
        with pytest.raises(ConnectionFailed):
            await embedded(client, TEXTS, settings=replace(FAST, retries=2))


async def test_a_stream_is_left_early_or_cancelled(
    address: str, fake: Fake, caplog: pytest.LogCaptureFixture
) -> None:
    taken = 0

    def endless() -> Iterator[tuple[int, str]]:
        nonlocal taken
        while True:
            yield taken, f"text {taken}"
            taken += 1

    async with nothing_left(caplog), AsyncClient(address) as client:
        async with aclosing(client.stream(endless(), settings=FAST)) as results:
            assert (await anext(results)).vector is not None
        assert await asyncio.to_thread(fake.cancelled.wait, 30)
        assert taken <= 2 * FAST.max_items  # what is not taken keeps items from being read

        async def forever() -> None:
            async for _ in client.stream(endless(), settings=FAST):
                pass

        before = taken
        task = asyncio.create_task(forever())
        await until(lambda: taken > before)
        task.cancel()
        assert [type(each) for each in await settled([task])] == [asyncio.CancelledError]


async def test_streams_of_many_callers_share_a_connection(address: str) -> None:
    async with AsyncClient(address) as client:
        batches = [[f"{caller} {number}" for number in range(100)] for caller in range(20)]
        found = await asyncio.gather(*map(client.embed_texts, batches))
    for vectors, texts in zip(found, batches, strict=True):
        np.testing.assert_array_equal(vectors, [vector_of(text) for text in texts])
