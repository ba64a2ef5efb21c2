"""The whole check in its CPU form, on the demo model."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from benchmarks.reporting.results import Results, ResultsError, Row
from benchmarks.systems import services
from benchmarks.systems.published import manifests
from benchmarks.traffic.errors import BenchmarkError
from gpu_check import __main__ as program
from gpu_check import environment, lines, service, sessions
from tests.conftest import REPOSITORY

PARTS = ("environment", "encoders", "plans", "service")
RESULTS = "gpu-check.benchmark.json"


def check(output: Path, *words: str) -> list[Row]:
    """The lines of the file after a quick run; none of them may fail."""
    quick = ["--quick", "--seconds", "0.1", "--batches", "1", "8", "--output", str(output)]
    assert program.main(["--repository", str(REPOSITORY), *quick, *words]) == 0
    return list(Results.read(output / RESULTS).rows)


def of(rows: list[Row], part: str) -> list[Row]:
    return [row for row in rows if row.labels["part"] == part]


@pytest.mark.slow
def test_every_part_has_lines_with_verdicts_and_no_gpu_is_invented(tmp_path: Path) -> None:
    rows = check(tmp_path)
    assert list(dict.fromkeys(row.labels["part"] for row in rows)) == list(PARTS)
    for row in rows:
        assert row.labels["verdict"] in (lines.PASS, lines.NOT_HERE)
        assert (row.labels["verdict"] == lines.PASS) or row.labels["why"]
    image, text = (
        [row for row in of(rows, "encoders") if row.labels.get("encoder") == kind]
        for kind in ("image", "text")
    )
    for parity in (image[0], text[0]):
        assert parity.values["min_cosine"] > 0.99999
    for kind, measured in (("image", image[1:]), ("text", text[1:])):
        ran = [row for row in measured if row.labels["CUDA graph"] == "no"]
        assert [row.labels["batch"] for row in ran] == [1, 8]
        assert all(row.values["per_second"] > 0 for row in ran)
        assert all(("percent_of_limit" in row.values) == (kind == "image") for row in ran)
        assert not [row for row in measured if row.labels["CUDA graph"] == "yes" and row.values]
    assert {row.labels["verdict"] for row in of(rows, "plans")} == {lines.NOT_HERE}
    closed = [row for row in of(rows, "service") if "encoder_busy" in row.values]
    assert len(closed) == 4
    assert all(0 < row.values["encoder_busy"] < 3 for row in closed)
    page = (tmp_path / "gpu-check.md").read_text()
    assert "0 fail" in page
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == list(PARTS)


def test_parts_that_run_one_by_one_are_merged(tmp_path: Path) -> None:
    first = check(tmp_path, "--parts", "encoders")
    assert {row.labels["part"] for row in first} == {"encoders"}
    both = check(tmp_path, "--parts", "environment")
    assert of(both, "encoders") == first
    again = check(tmp_path, "--parts", "environment")
    assert again == both


def test_lines_of_another_machine_are_not_mixed_in(tmp_path: Path) -> None:
    check(tmp_path, "--parts", "environment")
    path = tmp_path / RESULTS
    content = json.loads(path.read_text())
    content["machine"]["cpu"] = "another"
    path.write_text(json.dumps(content))
    with pytest.raises(ResultsError, match="from another machine"):
        check(tmp_path, "--parts", "environment")


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(BenchmarkError, match="there are: demo"):
        program.main(["--repository", str(REPOSITORY), "--model", "nothing"])


def test_on_a_gpu_triton_serves_from_a_copy_that_may_not_run_on_the_cpu() -> None:
    manifest = manifests(REPOSITORY)["demo"]
    before = (REPOSITORY / "demo.text" / "config.pbtxt").read_text()
    with service.on_gpu(REPOSITORY, manifest) as folder:
        for name in ("demo.image", "demo.text"):
            assert "kind: KIND_GPU" in (folder / name / "config.pbtxt").read_text()
    assert not folder.exists()
    assert (REPOSITORY / "demo.text" / "config.pbtxt").read_text() == before


def test_a_model_in_openvino_is_served_on_the_cpu_of_a_gpu_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(repository: Path, model: str) -> None:
        assert (repository, model) == (REPOSITORY, "demo")
        raise BenchmarkError("as it is published")

    monkeypatch.setattr(services, "triton", start)
    runtime: Any = SimpleNamespace(device="cuda", used_bytes=lambda: 0)
    manifest = manifests(REPOSITORY)["demo"] | {"runtime": "openvino"}
    with pytest.raises(BenchmarkError, match="as it is published"):
        next(service.lines(REPOSITORY, manifest, runtime, (1,), 0.1, {}))


def test_a_cuda_provider_that_cannot_be_loaded_is_not_replaced_in_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [sessions.CUDA])
    runtime = sessions.Runtime()
    assert runtime.device == "cpu"
    assert "no NVIDIA driver" in runtime.missing
    [line] = [row for row in environment.lines(runtime) if "CUDA" in str(row.labels["what"])]
    assert line.labels["verdict"] == lines.NOT_HERE


def test_a_driver_that_hangs_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hanging = tmp_path / "nvidia-smi"
    hanging.write_text("#!/bin/sh\nexec sleep 60\n")
    hanging.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(environment, "LIMIT_S", 0.1)
    rows = list(environment.lines(sessions.Runtime()))
    [line] = [row for row in rows if row.labels["what"] == "driver"]
    assert line.labels["verdict"] == lines.NOT_HERE
    assert line.labels["why"] == "nvidia-smi does not answer within 0.1 s"


def test_a_wrong_vector_fails(tmp_path: Path) -> None:
    manifest = json.loads((REPOSITORY / "demo.manifest.json").read_text())
    manifest["golden"]["image_features"].reverse()
    (tmp_path / "demo.manifest.json").write_text(json.dumps(manifest))
    for name in ("demo.image", "demo.text"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    words = ["--quick", "--seconds", "0.01", "--batches", "1", "--parts", "encoders"]
    output = tmp_path / "out"
    assert program.main(["--repository", str(tmp_path), *words, "--output", str(output)]) == 1
    rows = Results.read(output / RESULTS).rows
    [failed] = [row for row in rows if row.labels["verdict"] == lines.FAIL]
    assert failed.labels["encoder"] == "image"
    assert failed.labels["why"] == "the lowest cosine is below 0.99999"
