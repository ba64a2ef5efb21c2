"""A graph that crashes ONNX Runtime ends a child process, and no export."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from export.__main__ import main
from export.errors import CrashError
from export.gate import probe, runners
from gateway.models.manifest import PIXELS, read_repository
from tests.export.conftest import Exported

# Stands in for the child: it really dies of a signal, on the graphs that a test chooses.
CRASHES = """
import os, pathlib, signal, sys
log = pathlib.Path({log!r})
seen = log.read_text().count("x") if log.exists() else 0
log.write_text("x" * (seen + 1))
if {first} <= seen < {end}:
    os.kill(os.getpid(), signal.SIGSEGV)
"""


@pytest.fixture
def crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Have the graphs that are probed from the nth to the mth crash."""

    def stage(first: int, end: int) -> None:
        child = tmp_path / "child.py"
        child.write_text(CRASHES.format(log=str(tmp_path / "log"), first=first, end=end))
        monkeypatch.setattr(probe, "CHILD", child)

    return stage


def image_graph(exported: Callable[[str], Exported]) -> Path:
    manifest, root = exported("vit")
    return root / manifest.triton.image.name / "1" / "model.onnx"


def test_a_good_graph_runs(exported: Callable[[str], Exported]) -> None:
    graph = image_graph(exported)
    assert probe.crash_of(graph, [(1, 32, 32, 3), (4, 32, 32, 3)], {}) is None
    command = [sys.executable, "-I", str(probe.CHILD), str(graph)]
    right = subprocess.run([*command, "[[2, 32, 32, 3]]", "{}"], check=False, timeout=300)
    assert right.returncode == 0
    wrong = subprocess.run(
        [*command, "[[2, 32, 32, 4]]", "{}"], capture_output=True, check=False, timeout=300
    )
    assert wrong.returncode == 1
    assert b"Invalid dimensions" in wrong.stderr or b"INVALID_ARGUMENT" in wrong.stderr


def test_a_signal_is_named(
    exported: Callable[[str], Exported], crash: Callable[[int, int], None]
) -> None:
    crash(0, 1)
    with pytest.raises(CrashError) as raised:
        runners.check_runs(image_graph(exported), [(1, 32, 32, 3)])
    assert str(raised.value) == (
        "this variant cannot run here: ONNX Runtime ended with signal 11 (SIGSEGV) on model.onnx"
    )


def test_a_graph_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = tmp_path / "child.py"
    child.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(probe, "CHILD", child)
    monkeypatch.setattr(probe, "TIMEOUT_S", 0.5)
    why = probe.crash_of(tmp_path / "model.onnx", [(1, 32, 32, 3)], {})
    assert why == "ONNX Runtime had not finished after 0.5 s"


def test_errors_that_are_no_crash_keep_their_words(tmp_path: Path) -> None:
    (tmp_path / "torn.onnx").write_bytes(b"nothing")
    assert probe.crash_of(tmp_path / "torn.onnx", [(1, 2)], {}) is None
    with pytest.raises(Exception, match="cannot load it"):
        runners.onnx_runner(tmp_path / "torn.onnx", PIXELS)


def export(model: str, root: Path, *options: str) -> int:
    places = ["--repository", str(root), "--report", str(root / "report"), "--max-batch", "2"]
    words = [model, *places, "--id", "m", "--token-lengths", "full", "--allow-slow"]
    return main([*words, *options])


def test_only_the_variant_that_crashes_fails(
    model_of: Callable[[str], str],
    tmp_path: Path,
    crash: Callable[[int, int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    crash(0, 99)
    root = tmp_path / "models"
    assert export(model_of("vit"), root, "--precision", "fp16", "--precision", "fp32") == 2
    assert set(read_repository(root)) == {"m"}
    out, err = capsys.readouterr()
    line = "this variant cannot run here: ONNX Runtime ended with signal 11 (SIGSEGV)"
    assert f"refused: m.fp16: {line} on model.onnx; not published" in err
    assert "refused      m.fp16" in out
    assert f"- `m.fp16`: {line}" in (root / "report" / "report.md").read_text()
    assert not list(root.glob(".staging-*"))


def test_nothing_that_runs_leaves_no_report(
    model_of: Callable[[str], str], tmp_path: Path, crash: Callable[[int, int], None]
) -> None:
    crash(0, 99)
    assert export(model_of("vit"), tmp_path / "models", "--precision", "fp16") == 2
    assert not (tmp_path / "models" / "report").exists()


def test_the_search_goes_on_after_a_crash(
    model_of: Callable[[str], str],
    tmp_path: Path,
    crash: Callable[[int, int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    crash(0, 1)  # the plain recipe of the image encoder
    root = tmp_path / "models"
    options = ["--precision", "int8", "--calibrate-images", "drawn", "--mean-cosine", "0.5"]
    assert export(model_of("vit"), root, *options) == 0
    recipe = read_repository(root)["m.int8"].recipe
    assert "SmoothQuant" in recipe["image"]
    assert "SmoothQuant" not in recipe["text"]
    note = (
        "note: zero-shot accuracy was not measured (no --evaluate): m.int8 was judged by its "
        "cosines alone"
    )
    assert note in capsys.readouterr().err
    assert note in (root / "report" / "report.md").read_text()
