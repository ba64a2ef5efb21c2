import contextlib
import io
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ladder
from benchmarks.reporting import ladder_table
from benchmarks.systems import rungs, served
from benchmarks.systems.published import manifests
from benchmarks.systems.rungs import Row
from benchmarks.systems.variants import Target, export
from benchmarks.traffic.errors import BenchmarkError
from export import torch_row
from tests.export import models

pytestmark = pytest.mark.slow

SERVED = ("tiny-ladder", "tiny-ladder.fp16")
NAMES = ("PyTorch FP32", *SERVED)
ON_8 = {"1", "8"}  # batch sizes that a tower with at most 8 items can be timed at


@dataclass(frozen=True, slots=True)
class Climbed:
    repository: Path
    output: Path
    printed: str
    rows: dict[str, Any]  # of the JSON file, by name


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    folder = tmp_path_factory.mktemp("model")
    return Target(str(models.write_config(folder, "tiny-ladder", models.vit())))


@pytest.fixture(scope="module")
def climbed(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Climbed:
    """The whole command, once: two variants, each through the real Triton."""
    repository, output = (tmp_path_factory.mktemp(name) for name in ("repository", "output"))
    options = ["--repository", repository, "--output", output, "--seconds", 0.05, "--rounds", 1]
    precisions = ["--precision", "fp16", "--precision", "fp32"]
    passed_on = ["--export-argument=--max-batch=8", "--export-argument=--token-lengths=8"]
    words = ["--model", target.model, *map(str, options), *precisions, *passed_on]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert ladder.main(words) == 0
    content = json.loads((output / "ladder-tiny-ladder.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in content["rows"]}
    return Climbed(repository, output, printed.getvalue(), rows)


def test_every_variant_is_timed(climbed: Climbed) -> None:
    assert tuple(climbed.rows) == NAMES
    for row in climbed.rows.values():
        assert min(row["memory_bytes"]) > 30e6
        for tower in row["towers"].values():
            assert 0 < tower["p50_ms"] <= tower["p99_ms"]
            assert min(tower["calls"].values()) >= served.MIN_CALLS


def test_batches_over_the_limit_of_the_tower_are_left_out(climbed: Climbed) -> None:
    for name, row in climbed.rows.items():
        expected = ON_8 if name in SERVED else {"1", "8", "32"}
        assert {frozenset(tower["calls"]) for tower in row["towers"].values()} == {
            frozenset(expected)
        }


def test_sizes_and_figures_are_those_of_the_manifests(climbed: Climbed) -> None:
    found = manifests(climbed.repository)
    assert set(found) == set(SERVED)
    for name, manifest in found.items():
        gate, row = manifest["gate"], climbed.rows[name]
        assert row["zero_shot_accuracy"] == gate["zero_shot"]["accuracy"]
        assert row["min_cosines"] == [gate[tower]["min_cosine"] for tower in rungs.ENCODERS]
        # Both text lengths share one file.
        towers = (
            climbed.repository / f"{name}.{tower}/1/model.onnx" for tower in ("image", "text-24")
        )
        assert row["size_bytes"] == sum(path.stat().st_size for path in towers)
    fp32, fp16 = (climbed.rows[name] for name in SERVED)
    assert fp16["size_bytes"] < 0.6 * fp32["size_bytes"]
    pytorch = climbed.rows["PyTorch FP32"]
    assert pytorch["size_bytes"] == pytest.approx(fp32["size_bytes"], rel=0.1)
    gate = found["tiny-ladder"]["gate"]
    assert pytorch["zero_shot_accuracy"] == gate["zero_shot"]["pytorch_accuracy"]


def test_the_table_is_printed_and_written(climbed: Climbed) -> None:
    written = (climbed.output / "ladder-tiny-ladder.md").read_text(encoding="utf-8")
    for name in NAMES:
        [line] = [line for line in written.splitlines() if line.startswith(f"| {name} |")]
        assert line in climbed.printed
    assert (climbed.output / "tiny-ladder" / "report.md").is_file()


def test_rounds_take_turns_and_add_up(
    monkeypatch: pytest.MonkeyPatch, target: Target, climbed: Climbed
) -> None:
    turns = []

    def record(row: Row, *_: object) -> None:
        turns.append(row.name)
        row.add("image", {1: [0.001 * len(turns)]})

    monkeypatch.setattr(rungs, "_time_pytorch", record)
    monkeypatch.setattr(rungs, "_time_served", record)
    found = manifests(climbed.repository)
    both = [found[name] for name in SERVED]
    rows = rungs.climb(target, climbed.repository, both, seconds=1, rounds=2)
    assert turns == list(NAMES) * 2
    assert rows[1].seconds["image"] == {1: [0.002, 0.005]}


def test_no_process_of_the_server_is_left(climbed: Climbed) -> None:
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            commands.append(path.read_text(errors="replace"))
    assert not [command for command in commands if str(climbed.repository) in command]


def test_a_server_that_does_not_start_says_why(tmp_path: Path, climbed: Climbed) -> None:
    manifest = manifests(climbed.repository)["tiny-ladder"]
    with (
        pytest.raises(BenchmarkError, match="tiny-ladder: Triton did not start: error:"),
        served.Served(tmp_path, manifest),
    ):
        pytest.fail("it started")


def test_table_and_files(tmp_path: Path) -> None:
    row = Row("a.int8", 25_000_000, (0.991, 0.9992), 0.9525, [300_000_000, 310_000_000])
    row.add("image", {1: [0.004, 0.006], 8: [0.02]})
    row.add("image", {1: [0.005], 8: [0.02, 0.02]})
    plain = Row("PyTorch FP32", 90_000_000)
    text = ladder_table.table([plain, row])
    head, _, first, second = text.splitlines()
    assert "image: p50 / p99 at batch 1, ms" in head
    assert first == "| PyTorch FP32 | 90.0 | – | – | – / – | – / – | – / – | – / – | – |"  # noqa: RUF001
    assert second == (
        "| a.int8 | 25.0 | 0.991000 / 0.999200 | 95.2 "
        "| 5.00 / 5.98 | – / – | 400 / – | – / – | 310 |"  # noqa: RUF001
    )
    path = ladder_table.write(
        tmp_path / "out", Target("/models/My Model.json", "x"), [plain, row], 3
    )
    assert path.name == "ladder-My-Model.md"
    assert text in path.read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    image = content["rows"][1]["towers"]["image"]
    assert image["items_per_second"]["8"] == pytest.approx(400)
    assert image["calls"] == {"1": 3, "8": 3}
    assert image["p50_ms"] == pytest.approx(5)


@pytest.mark.parametrize(
    ("code", "message"), [(0, "no variant"), (1, "the export of m failed"), (2, "no variant")]
)
def test_an_export_that_publishes_nothing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str
) -> None:
    done: subprocess.CompletedProcess[str] = subprocess.CompletedProcess([], code)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(BenchmarkError, match=message):
        export(Target("m"), tmp_path, [])


def test_errors_end_with_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--repository", str(tmp_path), "--export-argument=--max-batch=0"]
    assert ladder.main(["--model", "x", *options]) == 1
    assert capfd.readouterr().err.splitlines()[-1].startswith("error: the export of x failed")
    assert not list(tmp_path.iterdir())


def test_torch_row(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--seconds", "0.01", "--batches", "1", "2"]
    assert torch_row.main([target.model, *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "tiny-ladder", "image encoder, batch 1", "image encoder, batch 2", "text encoder, batch 1",
        "text encoder, batch 2",
    ]  # fmt: skip
    assert torch_row.main(["no-such-model"]) == 1
    assert capsys.readouterr().err.startswith("error: no-such-model: OpenCLIP has no model")
