"""Triton gives back the memory of versions and models that no gateway uses any more."""

import contextlib
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from export import versions
from export.publish import repository
from gateway.errors import Unavailable
from gateway.inference.client import Call
from gateway.inference.encoders import encoders_of
from gateway.models.manifest import read_manifest
from server.launcher import TritonServer
from tests.conftest import GatewayClient, Outside, run_gateway
from tests.gateway.proc import children
from tests.gateway.test_rolling_update import (
    OTHER,
    TEXTS,
    Load,
    fingerprint,
    negated,
    publish,
    turned,
)
from tests.gateway.tritons import add_copies, client_of, copied, guarded, index, use
from tests.gateway.waiting import until, wait_until

pytestmark = pytest.mark.slow

UPDATES = int(os.environ.get("UPDATES", "8"))
UNLOAD_S = 1.0
LOOKS = 3
WITHIN_S = UPDATE_S = 300.0  # a machine with much else to do starts encoders slowly
ENCODERS = ("demo.image", "demo.text")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository of its own with the demo model."""
    return copied(tmp_path)


@pytest.fixture
def triton(root: Path) -> Iterator[TritonServer]:
    with guarded(root) as server:
        yield server


@contextlib.contextmanager
def gateway(
    triton: TritonServer, outside: Outside | None = None, /, **settings: object
) -> Iterator[GatewayClient]:
    """A gateway that is ready, and soon has unloaded what is unused."""
    root = triton.config.model_repository
    own = {
        "triton_address": triton.addresses.grpc,
        "triton_secret_file": root.parent / "secret",
        "triton_unload_s": UNLOAD_S,
        "model_repository": root,
        "text_cache_bytes": 0,
    }
    with run_gateway(outside or Outside(), **(own | settings)) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200)
        yield client


def loaded(triton: TritonServer) -> list[set[int]]:
    """The versions of each encoder that take memory."""
    found = index(triton)
    return [
        {version for version, state in found[name].items() if state not in ("", "UNAVAILABLE")}
        for name in ENCODERS
    ]


def memory(triton: TritonServer) -> list[int]:
    """The bytes of tritonserver, and of the process of each model instance.

    Without files that are mapped, such as libraries: who else maps them changes their share.
    """
    assert triton._guard is not None
    found, waiting = [], children(triton._guard.pid)
    for pid in waiting:
        waiting += children(pid)
        with contextlib.suppress(OSError):  # it has ended
            if Path(f"/proc/{pid}/comm").read_text().startswith("triton"):
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                sizes = re.findall(r"^Pss_(?:Anon|Shmem): +(\d+) kB", rollup, re.MULTILINE)
                found.append(1024 * sum(map(int, sizes)))
    return found


def test_an_update_and_a_roll_back_under_load_leave_one_version(
    root: Path, triton: TritonServer
) -> None:
    with gateway(triton) as client:
        traffic = Load(client)
        traffic.learn()
        with traffic.running():
            publish(root, 2)
            wait_until(lambda: fingerprint(client) == OTHER, "the new version", UPDATE_S)
            wait_until(lambda: loaded(triton) == [{2}, {2}], "one version", UPDATE_S)
            reached = traffic.total
            versions.use(root, "demo", 1)
            wait_until(lambda: fingerprint(client) != OTHER, "the old version", UPDATE_S)
            wait_until(lambda: loaded(triton) == [{1}, {1}], "one version", UPDATE_S)
            wait_until(lambda: traffic.total > reached + 100 or traffic.failures)
        assert not traffic.failures, traffic.failures[:5]
        assert len(traffic.seen) == 2


def test_updates_take_no_memory(root: Path, triton: TritonServer) -> None:
    """The bound is half of what one version takes, and each that stayed would take all of it."""
    sizes = []
    with gateway(triton):
        for version in range(2, UPDATES + 2):
            publish(root, version, same=True)
            one = [{version}] * len(ENCODERS)
            wait_until(lambda one=one: loaded(triton) == one, within=UPDATE_S)  # type: ignore[misc]
            sizes.append(memory(triton))
    assert {len(each) for each in sizes} == {1 + len(ENCODERS)}
    totals, [_, *encoders] = [sum(each) for each in sizes], sizes[-1]
    assert totals[-1] - totals[0] < sum(encoders) / 2, totals


def test_a_removed_model_is_unloaded_and_may_come_back_as_another(
    root: Path, triton: TritonServer
) -> None:
    add_copies(root, "other")
    with gateway(triton, reload_s=0) as client:
        before = Load(client).rest(client, 0)[1]
        repository.remove(root, "other")
        reload(client)
        wait_until(lambda: instances(triton) == len(ENCODERS), "the other is unloaded", UPDATE_S)
        add_copies(root, "other")
        reload(client)
        assert instances(triton) == 2 * len(ENCODERS)
        repository.remove(root, "other")
        reload(client)
        add_copies(root, "other")  # under the same number, before Triton has unloaded it
        turn_round(root, "other")
        reload(client)
        answer = client.post("/v1/embeddings", json={"input": TEXTS[0], "model": "other"}).json()
        np.testing.assert_allclose(answer["data"][0]["embedding"], -before, atol=1e-5)
        assert loaded(triton) == [{1}, {1}]
        repository.remove(root, "other")
        reload(client)
        wait_until(lambda: instances(triton) == len(ENCODERS), "the other is unloaded", UPDATE_S)


def instances(triton: TritonServer) -> int:
    """The number of processes of model instances; Triton's index knows none without its folder."""
    return len(memory(triton)) - 1


def reload(client: GatewayClient) -> None:
    """Have the gateway take up what is published, again where a starved Triton fails at it."""
    wait_until(
        lambda: client.post("/v1/admin/reload", timeout=UPDATE_S).is_success,
        "what is published is refused",
        UPDATE_S,
    )


def turn_round(root: Path, model: str) -> None:
    """Write encoders with opposite vectors in the place of a model's."""
    path = root / f"{model}.manifest.json"
    manifest = read_manifest(path)
    for encoder in encoders_of(manifest):
        graph = root / encoder.model / str(manifest.version) / "model.onnx"
        negated(graph, graph)
    path.write_text(
        manifest.model_copy(
            update={"golden": turned(manifest.golden), "fingerprint": OTHER}
        ).model_dump_json()
    )


def test_a_gateway_that_lags_gets_its_version_back_or_moves(
    root: Path, triton: TritonServer
) -> None:
    log = root.parent / "log"
    with gateway(triton, Outside(log=log)) as ahead, gateway(triton, reload_s=0) as behind:
        first, vector = Load(behind).rest(behind, 0)
        publish(root, 2)
        wait_until(lambda: fingerprint(ahead) == OTHER, "the new version", UPDATE_S)
        wait_until(lambda: "unloads demo.text, version 1: unused" in log.read_text())

        def answered() -> bool:
            answer = behind.post("/v1/embeddings", json={"input": TEXTS[0]})
            # 429: a call that meets the unload looks like one to a full queue.
            assert answer.status_code in (200, 429, 503), answer.text
            if answer.status_code == 200:
                assert answer.headers["x-model-fingerprint"] == first
                np.testing.assert_allclose(answer.json()["data"][0]["embedding"], vector, atol=1e-5)
            return answer.is_success

        wait_until(answered, "the old version again", UPDATE_S)
        reload(behind)
        assert fingerprint(behind) == OTHER
        np.testing.assert_allclose(Load(behind).rest(behind, 0)[1], -vector, atol=1e-5)
        wait_until(lambda: loaded(triton) == [{2}, {2}], "one version", UPDATE_S)


def test_without_the_secret_what_is_unused_stays(root: Path, triton: TritonServer) -> None:
    log = root.parent / "log"
    settings = {"triton_secret_file": "", "triton_unload_s": 0.1}
    with gateway(triton, Outside(log=log), **settings):
        wait_until(lambda: "not unloaded what is unused: Triton at" in log.read_text())
    assert log.read_text().count("GATEWAY_TRITON_SECRET_FILE is not set") == 1


async def test_a_version_in_use_is_not_unloaded(root: Path, triton: TritonServer) -> None:
    old = [*encoders_of(read_manifest(root / "demo.manifest.json"))]
    new = [*encoders_of(publish(root, 2))]
    async with client_of(triton) as ahead, client_of(triton) as behind:
        for encoder in new:
            await ahead.load(encoder, WITHIN_S)
        for _ in range(3 * LOOKS):
            for encoder in old:
                await behind.infer(Call(encoder, encoder.golden().batch), WITHIN_S)
            assert await ahead.release(new, (), LOOKS) == []
        assert loaded(triton) == [{1, 2}, {1, 2}]
        for _ in range(LOOKS):
            assert await ahead.release(new, (), LOOKS) == []
        await until(lambda: loaded(triton) == [{2}, {2}])
        for encoder in old:
            with pytest.raises(Unavailable, match="does not serve"):
                await behind.infer(Call(encoder, encoder.golden().batch), WITHIN_S)
        assert await behind.release(old, (), math.inf) == []
        for encoder in old:
            await use(behind, encoder)


async def test_what_cannot_be_unloaded_is_named(
    root: Path, triton: TritonServer, tmp_path: Path
) -> None:
    encoders = [*encoders_of(read_manifest(root / "demo.manifest.json"))]
    new = [*encoders_of(publish(root, 2))]
    async with client_of(triton) as client:
        for encoder in new:
            await client.load(encoder, WITHIN_S)
    async with client_of(triton, knows=False) as client:
        [problem] = await client.release(encoders, (), 0)
        assert "GATEWAY_TRITON_SECRET_FILE is not set" in problem
        await client.load(encoders[0], WITHIN_S)  # it is loaded already
    async with client_of(triton, tmp_path / "nothing") as client:
        assert await client.release(encoders, (), 1) == []  # the first look
        problems = await client.release(encoders, (), 1)
        assert [problem.partition(":")[0] for problem in problems] == [
            str(tmp_path / "nothing" / name / "config.pbtxt") for name in ENCODERS
        ]
