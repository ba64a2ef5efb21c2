from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest

from benchmarks import gateway_cpu, null_encoder, services, stage_budget
from benchmarks.errors import BenchmarkError
from benchmarks.published import CONFIG, find, manifests, towers
from benchmarks.results import Row
from benchmarks.stages import shares
from tests.conftest import REPOSITORY

NAMES = {tower["name"] for tower in towers(manifests(REPOSITORY)["demo"])}


@pytest.fixture(scope="module")
def null(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("null") / "repository"
    null_encoder.write_repository(REPOSITORY, find(REPOSITORY, None), target)
    return target


@pytest.fixture(scope="module")
def behind(null: Path) -> Iterator[services.Triton]:
    with services.triton(null, "demo") as triton:
        yield triton


def session(repository: Path, name: str) -> Any:
    return onnxruntime.InferenceSession(repository / name / "1" / "model.onnx")


@pytest.mark.parametrize("name", sorted(NAMES))
def test_inputs_and_outputs_are_those_of_the_encoder(null: Path, name: str) -> None:
    real, fake = session(REPOSITORY, name), session(null, name)
    assert (null / name / CONFIG).read_text() == (REPOSITORY / name / CONFIG).read_text()
    for one, other in ((real.get_inputs(), fake.get_inputs()),
                       (real.get_outputs(), fake.get_outputs())):  # fmt: skip
        assert [(each.name, each.type) for each in one] == [(o.name, o.type) for o in other]
        assert [len(each.shape) for each in one] == [len(each.shape) for each in other]


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_row_gets_the_vector(null: Path, name: str) -> None:
    fake = session(null, name)
    [given] = fake.get_inputs()
    kind = np.uint8 if "uint8" in given.type else np.int32
    vector = null_encoder.unit_vector(manifests(null)["demo"]["embedding_size"])
    for rows in (1, 7):
        [answer] = fake.run(None, {given.name: np.ones((rows, *given.shape[1:]), kind)})
        np.testing.assert_array_equal(answer, np.repeat(vector[None], rows, axis=0))
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


def test_the_gateway_takes_it_for_a_model(null: Path, behind: services.Triton) -> None:
    with (
        services.gateway(null, "demo", behind.grpc) as served,
        httpx.Client(base_url=f"http://{served.target.http}") as client,
    ):
        answer = client.post("/v1/embeddings", json={"input": "a red circle"}).json()
        vector = null_encoder.unit_vector(manifests(null)["demo"]["embedding_size"])
        np.testing.assert_allclose(answer["data"][0]["embedding"], vector, atol=1e-6)
        assert 0 < gateway_cpu.median_ms(served, "rest-text", 0.3, repeats=1) < 100
    real = manifests(REPOSITORY)["demo"]
    assert manifests(null)["demo"]["fingerprint"] != real["fingerprint"]


def test_stages_add_up_to_the_whole(null: Path, behind: services.Triton, tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    launcher = ("-m", "benchmarks.sampler", str(file), "gateway")
    with services.gateway(null, "demo", behind.grpc, launcher=launcher) as served:
        parts = shares(gateway_cpu.profiled(served, "rest-image", 0.5, file))
    assert sum(parts.values()) == pytest.approx(1)
    assert parts["decode"] > 0.2
    assert parts["HTTP"] > 0


def test_metrics_of_several_workers_add_up(null: Path, behind: services.Triton) -> None:
    with services.gateway(null, "demo", behind.grpc, {"GATEWAY_WORKERS": "2"}) as served:
        assert gateway_cpu.metrics_error(served, "rest-text", 0.5) == 0


def test_what_cannot_be_made_is_refused(null: Path, tmp_path: Path) -> None:
    manifest = find(REPOSITORY, "demo")
    with pytest.raises(BenchmarkError, match="exists already"):
        null_encoder.write_repository(REPOSITORY, manifest, null)
    with pytest.raises(BenchmarkError, match="its runtime is tensorrt"):
        null_encoder.write_repository(
            REPOSITORY, manifest | {"runtime": "tensorrt"}, tmp_path / "x"
        )
    with pytest.raises(BenchmarkError, match="choose a model with --model; there are: demo"):
        find(REPOSITORY, "other")


def test_checks_of_the_budget() -> None:
    rows = [
        Row({"kind": stage_budget.ALONE}, {"cpu_ms": 3.0}),
        Row({"kind": "rest-text"}, {"cpu_ms": 0.8}),
        Row({"kind": "rest-text", "stage": "HTTP"}, {"cpu_ms": 0.2, "share": 0.25}),
        Row({"kind": "rest-image"}, {"cpu_ms": 4.5}),
        Row({"kind": "grpc-text"}, {"cpu_ms": 0.4}),
        Row({"kind": "rest-text", "workers": 2}, {"cpu_ms": 1.0, "metrics_error": 0.0}),
    ]
    found = {check.name: (check.value, check.passed) for check in stage_budget.checks(rows)}
    assert found == {
        "gateway CPU per text request, REST, ms": (0.8, True),
        "gateway CPU per image request beside decoding, REST, ms": (1.5, False),
        "gateway CPU per text request, gRPC / REST": (0.5, True),
        "gateway CPU per request, rest-text, 2 workers / 1": (1.25, False),
        "requests that the metrics of 2 workers miscount, rest-text": (0.0, True),
    }
    assert "| HTTP | 0.20 |" in stage_budget.table(rows)
