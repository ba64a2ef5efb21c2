"""Encoders that nobody uses are unloaded, and loaded again by the request that needs them."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.errors import DeadlineExceeded, Overloaded, Unavailable
from gateway.inference.client import Encoder
from gateway.inference.control import ModelControl
from gateway.inference.encoders import encoders_of
from gateway.inference.server import Server
from gateway.inference.sleep import FIRST_S, SILENT, Sleepers
from gateway.models.manifest import read_manifest
from server.launcher import TritonServer
from tests.conftest import REPOSITORY, run_gateway
from tests.gateway.tritons import add_copies, client_of, copied, guarded, index, inferences, use
from tests.gateway.waiting import until, wait_until

WITHIN_S = 300.0  # a machine with much else to do starts encoders slowly
LOOKS = 3


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A Triton with two models, and its secret beside the repository."""
    root = copied(tmp_path_factory.mktemp("idle"))
    add_copies(root, "other")
    with guarded(root) as server:
        yield server


def encoders(triton: TritonServer, model: str) -> list[Encoder]:
    root = triton.config.model_repository
    return [*encoders_of(read_manifest(root / f"{model}.manifest.json"))]


def loaded(triton: TritonServer) -> set[str]:
    """The encoders that take memory."""
    ready = {"READY", "LOADING", "UNLOADING"}
    return {name for name, states in index(triton).items() if ready & {*states.values()}}


@pytest.mark.slow
async def test_what_no_gateway_uses_sleeps_until_one_does(triton: TritonServer) -> None:
    demo, other = encoders(triton, "demo"), encoders(triton, "other")
    async with client_of(triton, wake="wait") as ahead, client_of(triton, wake="wait") as behind:
        for _ in range(3 * LOOKS):
            for encoder in demo:  # the one that looks does not use it itself
                await use(behind, encoder)
            for client in (ahead, behind):  # golden vectors wake nothing, and keep nothing awake
                for encoder in (*demo, *other):
                    await client.verify(encoder, WITHIN_S)
            assert await ahead.rest([*demo, *other], LOOKS) == []
        await until(lambda: loaded(triton) == {"demo.image", "demo.text"}, WITHIN_S)
        for client in (ahead, behind):
            for encoder in (*demo, *other):
                await client.verify(encoder, WITHIN_S)
                assert client.asleep(encoder) is (encoder in other)
        image, text = other
        await asyncio.gather(*(use(client, image) for client in (ahead, behind, behind)))
        assert loaded(triton) == {"demo.image", "demo.text", "other.image"}
        await ahead.verify(image, WITHIN_S)
        assert not ahead.asleep(image)
        for _ in range(3 * LOOKS):
            await use(behind, text)
        await until(lambda: text.model in loaded(triton), WITHIN_S)
        ran = inferences(triton)[text.model]
        await ahead.verify(text, WITHIN_S)  # which saw nothing of how it was loaded
        assert inferences(triton)[text.model] == ran + 1


@pytest.mark.slow
async def test_a_check_that_meets_the_moment_of_an_unload_finds_it_asleep(
    triton: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoders(triton, "other")[1]
    rows = ModelControl.rows

    async def unloaded_behind(self: ModelControl, server: Server, model: str) -> dict[int, int]:
        found = await rows(self, server, model)
        await self.unload(server, model)
        await until(lambda: model not in loaded(triton), WITHIN_S)
        return found

    async with client_of(triton, wake="wait") as client:
        await use(client, encoder)
        with monkeypatch.context() as patch:
            patch.setattr(ModelControl, "rows", unloaded_behind)
            await client.verify(encoder, WITHIN_S)
        assert client.asleep(encoder)
        await use(client, encoder)


@pytest.mark.slow
async def test_without_the_secret_the_log_says_so(triton: TritonServer) -> None:
    async with client_of(triton, knows=False, wake="wait") as client:
        [problem] = await client.rest(encoders(triton, "demo")[:1], LOOKS)
    assert problem == f"demo.image: {SILENT}"


@pytest.mark.slow
async def test_a_request_may_be_refused_while_its_encoder_is_loaded(triton: TritonServer) -> None:
    encoder = encoders(triton, "other")[0]
    async with client_of(triton, wake="refuse") as client:
        with contextlib.suppress(Unavailable):  # where it is asleep
            await use(client, encoder)
        await until(lambda: encoder.model in loaded(triton), WITHIN_S)
        for _ in range(LOOKS + 1):
            assert await client.rest([encoder], LOOKS) == []
        await until(lambda: encoder.model not in loaded(triton), WITHIN_S)
        with pytest.raises(Unavailable, match=r"was not in use, and is being loaded") as refused:
            await use(client, encoder)
        assert refused.value.retry_after_s is not None

        async def answered() -> bool:
            try:
                await use(client, encoder)
            except (Unavailable, Overloaded):  # the latter where it is ready a moment later
                return False
            return True

        async with asyncio.timeout(WITHIN_S):
            while not await answered():  # noqa: ASYNC110 - no event says when it is loaded
                await asyncio.sleep(0.05)


@pytest.mark.slow
def test_a_service_stays_ready_while_its_models_sleep(triton: TritonServer) -> None:
    root = triton.config.model_repository
    settings = {
        "triton_address": triton.addresses.grpc, "triton_secret_file": root.parent / "secret",
        "model_repository": root, "models": '["demo"]', "model_idle_s": 0.5, "triton_verify_s": 0.2,
    }  # fmt: skip
    with run_gateway(**settings) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200, within=WITHIN_S)

        def asleep() -> bool:
            answer = client.get("/readyz")
            assert answer.status_code == 200, answer.text
            state = answer.json()["models"]["demo"]
            assert state["ready"], state
            return bool(state["asleep"]) and not loaded(triton) & {"demo.image", "demo.text"}

        wait_until(asleep, within=WITHIN_S)
        assert client.get("/v1/models/demo").json()["asleep"] is True
        answer = client.post("/v1/embeddings", json={"input": "a red circle"}, timeout=WITHIN_S)
        assert answer.status_code == 200, answer.text
        wait_until(asleep, within=WITHIN_S)


class Loads:
    """Stands for the loads of a Triton, which end once `done` is set."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[str] = []
        self.done = asyncio.Event()
        self._error = error

    async def __call__(self, encoder: Encoder, within: float) -> None:
        self.asked.append(encoder.model)
        await self.done.wait()
        if self._error:
            raise self._error


@pytest.fixture
def encoder() -> Encoder:
    return next(iter(encoders_of(read_manifest(REPOSITORY / "demo.manifest.json"))))


async def test_requests_share_a_load_and_one_that_has_no_time_leaves_it(encoder: Encoder) -> None:
    loads = Loads()
    sleepers = Sleepers(loads, wait=True)
    waiting = [asyncio.create_task(sleepers.wake(encoder, WITHIN_S)) for _ in range(3)]
    with pytest.raises(DeadlineExceeded):
        await sleepers.wake(encoder, 0.01)
    loads.done.set()
    await asyncio.gather(*waiting)
    assert loads.asked == [encoder.model]


@pytest.mark.parametrize(
    ("error", "says"),
    [(Unavailable("no such folder"), "no such folder"), (TimeoutError(), "was not loaded within")],
)  # fmt: skip
async def test_a_load_that_fails_is_not_tried_by_every_request(
    encoder: Encoder, error: Exception, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    loads = Loads(error)
    loads.done.set()
    sleepers = Sleepers(loads, wait=True)
    for _ in range(3):
        with pytest.raises(Unavailable, match="loading it failed") as refused:
            await sleepers.wake(encoder, WITHIN_S)
        assert refused.value.retry_after_s is not None
        assert says not in str(refused.value)
    assert says in caplog.text
    assert loads.asked == [encoder.model]


async def test_who_is_refused_learns_when_to_come_back(encoder: Encoder) -> None:
    loads = Loads()
    sleepers = Sleepers(loads, wait=False)

    async def refused() -> float | None:
        with pytest.raises(Unavailable) as error:
            await sleepers.wake(encoder, WITHIN_S)
        return error.value.retry_after_s

    assert await refused() == FIRST_S
    await asyncio.sleep(0)
    loads.done.set()
    await until(lambda: not sleepers._waking, WITHIN_S)
    took = await refused()  # asleep again: the last load has been timed
    assert took is not None
    assert took < FIRST_S
    loads.done.clear()
    await sleepers.close()


def test_looks_count_from_the_last_change(encoder: Encoder) -> None:
    sleepers = Sleepers(Loads(), wait=True)
    seen: list[Any] = [(1, 4), (1, 4), (1, 5), (1, 5), (1, 5), (None, 5), (None, 5)]
    assert [sleepers.looks(encoder, counts) for counts in seen] == [0, 1, 0, 1, 2, 0, 1]
