import contextlib
import io
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from types import SimpleNamespace

import pytest

from benchmarks import ladder
from benchmarks.reporting.results import Results, Row
from benchmarks.systems import rungs
from benchmarks.systems.published import find, manifests
from benchmarks.traffic.errors import BenchmarkError
from export.report import torch_row
from tests.export import models
from tests.forking import Fork

pytestmark = pytest.mark.slow

SERVED = ("tiny-ladder", "tiny-ladder.fp16")
NAMES = ("PyTorch FP32", *SERVED)
LIMIT_S = 600.0  # for an export, on a busy machine


@dataclass(frozen=True, slots=True)
class Climbed:
    repository: Path
    output: Path
    printed: str
    rows: dict[str, Row]  # by variant


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    return str(models.write_config(folder, "tiny-ladder", models.vit()))


@pytest.fixture(scope="module")
def climbed(
    model: str, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Climbed:
    """The whole command, once: two variants, each through the real Triton."""
    repository, output = (tmp_path_factory.mktemp(name) for name in ("repository", "output"))
    options = ["--repository", repository, "--output", output, "--seconds", 0.05, "--repeats", 2]
    precisions = ["--precision", "fp16", "--precision", "fp32"]
    passed_on = ["--max-batch", 8, "--token-lengths=8", "--report", output / "report"]
    words = ["--model", model, *map(str, [*options, *precisions, *passed_on])]
    printed = io.StringIO()
    run = partial(forked, str(pytestconfig.cache.mkdir("traces")))
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(rungs, "subprocess", SimpleNamespace(run=run, PIPE=subprocess.PIPE))
        assert ladder.main(words) == 0
    found = Results.read(output / "ladder.benchmark.json").rows
    rows = {str(row.labels["variant"]): row for row in found}
    return Climbed(repository, output, printed.getvalue(), rows)


def forked(
    traces: str,
    command: Sequence[str],
    *,
    check: bool,
    stdout: int | None = None,
    env: Mapping[str, str] = os.environ,
) -> subprocess.CompletedProcess[bytes]:
    """As `subprocess.run`, by forks of a process that has imported PyTorch; they share traces."""
    assert not check
    with TemporaryFile() as output:
        streams = (0, 1 if stdout is None else output.fileno(), 2)
        words = ("tests.export.traced", traces, *command[2:])
        code = Fork(*words, environment=env, streams=streams).wait(LIMIT_S)
        output.seek(0)
        return subprocess.CompletedProcess(command, code, output.read())


class _Asked(Exception):
    pass


@pytest.mark.parametrize(
    ("given", "drawn"),
    [
        ([], ["--evaluate", "drawn", "--calibrate-images", "drawn"]),
        (["--evaluate", "mine"], ["--calibrate-images", "drawn"]),
        (["--evaluate=mine", "--calibrate-images", "mine"], []),
    ],
)
def test_given_pictures_replace_the_drawn_ones(
    monkeypatch: pytest.MonkeyPatch, given: list[str], drawn: list[str]
) -> None:
    def export(model: object, repository: object, words: list[str]) -> None:
        raise _Asked(words)

    monkeypatch.setattr(rungs, "export", export)
    with pytest.raises(_Asked) as asked:
        ladder.main(["--model", "x", "--precision", "fp32", *given])
    assert asked.value.args[0] == ["--precision", "fp32", *drawn, "--allow-slow", *given]


def test_every_variant_is_timed(climbed: Climbed) -> None:
    assert tuple(climbed.rows) == NAMES
    for row in climbed.rows.values():
        assert row.values["memory_mb"] > 30
        for encoder in rungs.ENCODERS:
            assert 0 < row.values[f"{encoder}_p50_ms"] <= row.values[f"{encoder}_p99_ms"]
            assert row.values[f"{encoder}s_per_second_at_8"] > 0


def test_batches_over_the_limit_of_the_encoder_are_left_out(climbed: Climbed) -> None:
    for name, row in climbed.rows.items():
        rate = row.values["images_per_second_at_32"]
        assert (rate == rate) == (name not in SERVED)  # not a number


def test_sizes_and_figures_are_those_of_the_manifests(climbed: Climbed) -> None:
    found = manifests(climbed.repository)
    assert set(found) == set(SERVED)
    for name, manifest in found.items():
        gate, row = manifest["gate"], climbed.rows[name]
        assert row.labels["zero-shot"] == f"{gate['zero_shot']['accuracy']:.3f}"
        lowest = " / ".join(f"{gate[encoder]['min_cosine']:.6f}" for encoder in rungs.ENCODERS)
        assert row.labels["lowest cosine, image / text"] == lowest
        # Both text lengths share one file.
        files = [
            climbed.repository / f"{name}.{encoder}/1/model.onnx"
            for encoder in ("image", "text-24")
        ]
        assert row.values["size_mb"] == sum(path.stat().st_size for path in files) / 1e6
    sizes = [climbed.rows[name].values["size_mb"] for name in NAMES]
    assert sizes[2] < 0.6 * sizes[1]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)
    gate = found["tiny-ladder"]["gate"]
    accuracy = f"{gate['zero_shot']['pytorch_accuracy']:.3f}"
    assert climbed.rows["PyTorch FP32"].labels["zero-shot"] == accuracy


def test_rounds_take_turns_and_the_table_is_printed_and_written(climbed: Climbed) -> None:
    measured = [line.split(",")[0].split(":")[0] for line in climbed.printed.splitlines()]
    assert [line for line in measured if line in NAMES] == list(NAMES) * 2
    written = (climbed.output / "ladder.md").read_text()
    for name in NAMES:
        [line] = [line for line in written.splitlines() if line.startswith(f"| {name} |")]
        assert line in climbed.printed
    assert (climbed.output / "report" / "report.md").is_file()


def test_no_process_of_the_server_is_left(climbed: Climbed) -> None:
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            commands.append(path.read_text(errors="replace"))
    assert not [command for command in commands if str(climbed.repository) in command]


def test_a_server_that_does_not_start_says_why(tmp_path: Path, climbed: Climbed) -> None:
    manifest = find(climbed.repository, "tiny-ladder")
    with pytest.raises(BenchmarkError, match="tiny-ladder: Triton did not start: error:"):
        rungs.served(tmp_path, manifest, 0.1)


@pytest.mark.parametrize(
    ("code", "message"), [(0, "no variant"), (1, "the export of m failed"), (2, "no variant")]
)
def test_an_export_that_publishes_nothing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str
) -> None:
    done: subprocess.CompletedProcess[str] = subprocess.CompletedProcess([], code)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(BenchmarkError, match=message):
        rungs.export(["m"], tmp_path, [])


def test_options_that_the_export_refuses_end_the_ladder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", "x", "--repository", str(tmp_path), "--max-batch", "0"]
    with pytest.raises(BenchmarkError, match="the export of x failed"):
        ladder.main(words)
    assert "--max-batch: 0 is not 1 or more" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_model_that_pytorch_cannot_load(capsys: pytest.CaptureFixture[str]) -> None:
    assert torch_row.main(["no-such-model"]) == 1
    assert capsys.readouterr().err.startswith("error: no-such-model: OpenCLIP has no model")
