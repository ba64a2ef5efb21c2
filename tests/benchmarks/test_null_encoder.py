import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest

from benchmarks import stage_budget
from benchmarks.reporting.results import Row
from benchmarks.reporting.stages import ALONE, checks, shares, table
from benchmarks.systems import null_encoder, services
from benchmarks.systems.published import CONFIG, encoders, find, manifests, packed
from benchmarks.traffic.errors import BenchmarkError
from tests.benchmarks.forms import FORMS, write_form
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

Both = tuple[Path, Path]


@pytest.fixture(scope="module")
def null(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("null") / "repository"
    null_encoder.write_repository(REPOSITORY, find(REPOSITORY, None), target)
    return target


@pytest.fixture(scope="module")
def behind(null: Path) -> Iterator[services.Triton]:
    with services.triton(null, "demo") as triton:
        yield triton


@pytest.fixture(scope="module", params=FORMS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """The demo in each form, and its copy whose encoders do no work."""
    folder = tmp_path_factory.mktemp(request.param)
    manifest = write_form(folder / "real", request.param)
    null_encoder.write_repository(folder / "real", manifest, folder / "null")
    return folder / "real", folder / "null"


def sessions(repository: Path) -> dict[str, Any]:
    """By the name of the tower."""
    manifest = manifests(repository)["demo"]
    files = {t["name"]: Path(t["name"], str(manifest["version"])) for t in encoders(manifest)}
    return {
        name: onnxruntime.InferenceSession(repository / file / "model.onnx")
        for name, file in files.items()
    }


def test_inputs_and_outputs_are_those_of_the_encoder(both: Both) -> None:
    real, null = both
    fakes = sessions(null)
    for name, tower in sessions(real).items():
        assert (null / name / CONFIG).read_text() == (real / name / CONFIG).read_text()
        for one, other in ((tower.get_inputs(), fakes[name].get_inputs()),
                           (tower.get_outputs(), fakes[name].get_outputs())):  # fmt: skip
            assert [(each.name, each.type) for each in one] == [(o.name, o.type) for o in other]
            assert [len(each.shape) for each in one] == [len(each.shape) for each in other]


def test_every_row_gets_the_vector(both: Both) -> None:
    manifest = manifests(both[1])["demo"]
    vector = null_encoder.unit_vector(manifest["embedding_size"])
    lengths = {tower["name"]: tower["length"] for tower in manifest["triton"]["text"]}
    for name, fake in sessions(both[1]).items():
        [given] = fake.get_inputs()
        kind = np.uint8 if "uint8" in given.type else np.int32
        shapes = [given.shape[1:]] if name not in lengths else [[lengths[name]]]
        shapes += [[5]] if name in lengths and packed(manifest) else []
        for rows, shape in itertools.product((1, 7), shapes):
            [answer] = fake.run(None, {given.name: np.ones((rows, *shape), kind)})
            np.testing.assert_array_equal(answer, np.repeat(vector[None], rows, axis=0))
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


def test_the_gateway_takes_it_for_a_model(null: Path, behind: services.Triton) -> None:
    with (
        services.gateway(null, "demo", behind) as served,
        httpx.Client(base_url=f"http://{served.target.http}", timeout=60) as client,
    ):
        answer = client.post("/v1/embeddings", json={"input": "a red circle"}).json()
        vector = null_encoder.unit_vector(manifests(null)["demo"]["embedding_size"])
        np.testing.assert_allclose(answer["data"][0]["embedding"], vector, atol=1e-6)
        assert 0 < stage_budget.medians_ms(served, ["rest-text"], 0.3, 1)["rest-text"] < 100
    real = manifests(REPOSITORY)["demo"]
    assert manifests(null)["demo"]["fingerprint"] != real["fingerprint"]


def test_stages_add_up_to_the_whole(null: Path, behind: services.Triton, tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    launcher = ("-m", "benchmarks.systems.sampler", str(file), "gateway")
    with services.gateway(null, "demo", behind, launcher=launcher) as served:
        parts = shares(stage_budget.profiled(served, "rest-image", 0.5, file))
    assert sum(parts.values()) == pytest.approx(1)
    assert parts["decode"] > 0.2
    assert parts["HTTP"] > 0


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
        Row({"kind": ALONE}, {"cpu_ms": 3.0}),
        Row({"kind": "rest-text"}, {"cpu_ms": 0.8}),
        Row({"kind": "rest-text", "stage": "HTTP"}, {"cpu_ms": 0.2, "share": 0.25}),
        Row({"kind": "rest-image"}, {"cpu_ms": 4.5}),
        Row({"kind": "grpc-text"}, {"cpu_ms": 0.4}),
        Row({"kind": "rest-text", "workers": 2}, {"cpu_ms": 1.0}),
    ]
    found = {check.name: (check.value, check.passed) for check in checks(rows)}
    assert found == {
        "gateway CPU per text request, REST, ms": (0.8, True),
        "gateway CPU per image request without decoding, REST, ms": (1.5, False),
        "gateway CPU per text request, gRPC / REST": (0.5, True),
        "gateway CPU per request, rest-text, 2 workers / 1": (1.25, False),
    }
    assert "| HTTP | 0.20 |" in table(rows)
