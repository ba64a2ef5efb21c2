"""Plans built by TensorRT-RTX ahead of time, which needs no GPU; what goes wrong without one."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import helper

from export.tensorrt.errors import NoGpuError, PlanError, TensorRtMissingError
from export.tensorrt.plan import WORKSPACE_BYTES, build_plan, import_tensorrt
from tests.export.fake_tensorrt import FakeTensorRt, Level

BATCH = 4
AHEAD: dict[str, Any] = {"compute_capability": "8.9"}
PIXELS = {"pixels": (8, 8, 3)}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a graph of nodes `pixels` -> `out`."""

    def write(*nodes: onnx.NodeProto, batch: int | str = "batch") -> Path:
        shape = [batch, *PIXELS["pixels"]]
        graph = helper.make_graph(
            list(nodes),
            "graph",
            [helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, shape)],
            [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)],
        )
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
        path = tmp_path / "model.onnx"
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
        return path

    return write


def node(operator: str, source: str, target: str, **more: Any) -> onnx.NodeProto:
    return helper.make_node(operator, [source], [target], name=f"the_{operator}", **more)


CAST = node("Cast", "pixels", "floats", to=onnx.TensorProto.FLOAT)
RELU = node("Relu", "floats", "out")


def test_uint8_pixels_are_taken_into_a_cast(rtx: ModuleType, write: Callable[..., Path]) -> None:
    assert len(build_plan(rtx, write(CAST, RELU), PIXELS, BATCH, **AHEAD)) > 10_000


def test_uint8_pixels_are_taken_into_nothing_else(
    rtx: ModuleType, write: Callable[..., Path]
) -> None:
    turned = node("Transpose", "pixels", "turned", perm=[0, 3, 1, 2])
    path = write(turned, node("Cast", "turned", "out", to=onnx.TensorProto.FLOAT))
    with pytest.raises(PlanError, match=r"the_Transpose \(operator Transpose\).*UInt8"):
        build_plan(rtx, path, PIXELS, BATCH, **AHEAD)


def test_batches_and_gpu_reach_the_plan(rtx: ModuleType, write: Callable[..., Path]) -> None:
    path = write(CAST, RELU)
    plan = build_plan(rtx, path, PIXELS, BATCH, **AHEAD)
    assert build_plan(rtx, path, PIXELS, BATCH, **AHEAD) == plan
    assert build_plan(rtx, path, PIXELS, 5, **AHEAD) != plan
    assert build_plan(rtx, path, PIXELS, BATCH, compute_capability="8.0") != plan


def test_unknown_operator_is_named(rtx: ModuleType, write: Callable[..., Path]) -> None:
    path = write(CAST, node("Wibble", "floats", "out", domain="com.example"))
    with pytest.raises(PlanError) as refusal:
        build_plan(rtx, path, PIXELS, BATCH, **AHEAD)
    assert f"{path}: TensorRT does not support node the_Wibble (operator Wibble)" in str(
        refusal.value
    )


def test_operator_that_tensorrt_lacks_is_named(rtx: ModuleType, write: Callable[..., Path]) -> None:
    path = write(CAST, node("Det", "floats", "out"))
    with pytest.raises(PlanError, match=r"node the_Det \(operator Det\)"):
        build_plan(rtx, path, PIXELS, BATCH, **AHEAD)


def test_corrupt_file(rtx: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"garbage")
    with pytest.raises(PlanError, match=r"model\.onnx: TensorRT cannot read this ONNX file"):
        build_plan(rtx, path, PIXELS, BATCH, **AHEAD)


def test_missing_file(rtx: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no such file"):
        build_plan(rtx, tmp_path / "model.onnx", PIXELS, BATCH, **AHEAD)


@pytest.mark.parametrize(
    ("batch", "shapes", "words"),
    [
        ("batch", {"token_ids": (16,)}, r"inputs are \['pixels'\], not \['token_ids'\]"),
        ("batch", {"pixels": (16, 16, 3)}, r"\[-1, 8, 8, 3\], not \[-1, 16, 16, 3\]"),
        ("batch", {"pixels": (8, 8)}, r"\[-1, 8, 8, 3\], not \[-1, 8, 8\]"),
        (4, PIXELS, r"\[4, 8, 8, 3\], not \[-1, 8, 8, 3\]"),
    ],
)
def test_shapes_that_do_not_fit(
    rtx: ModuleType,
    write: Callable[..., Path],
    batch: int | str,
    shapes: dict[str, tuple[int, ...]],
    words: str,
) -> None:
    with pytest.raises(PlanError, match=words):
        build_plan(rtx, write(CAST, RELU, batch=batch), shapes, BATCH, **AHEAD)


def test_without_gpu(rtx: ModuleType, write: Callable[..., Path]) -> None:
    def none() -> None:
        raise NoGpuError("no NVIDIA driver")

    with pytest.raises(NoGpuError, match="no NVIDIA driver"):
        build_plan(rtx, write(CAST, RELU), PIXELS, BATCH, gpus=none)


def fake_plan(
    fake: FakeTensorRt, tmp_path: Path, cache: Path | None = None, **options: Any
) -> bytes:
    path = tmp_path / "model.onnx"
    path.touch()
    return build_plan(fake, path, PIXELS, BATCH, cache, gpus=lambda: None, **options)


@pytest.mark.parametrize(("major", "flags"), [(10, 0b10), (11, 0)])
def test_strong_typing_is_asked_for_where_it_must_be(
    tmp_path: Path, major: int, flags: int
) -> None:
    fake = FakeTensorRt(major)
    assert fake_plan(fake, tmp_path) == b"plan"
    shapes = {"pixels": ((1, 8, 8, 3), (4, 8, 8, 3), (4, 8, 8, 3))}
    assert fake.seen == {
        "flags": flags, "workspace": WORKSPACE_BYTES, "cleared": ["tf32"], "profile": shapes
    }  # fmt: skip


def test_timing_cache_is_begun_and_renewed(tmp_path: Path) -> None:
    cache = tmp_path / "caches" / "timing.cache"
    for content in (b"+1", b"+1+1"):
        fake_plan(FakeTensorRt(), tmp_path, cache)
        assert cache.read_bytes() == content
    assert [path.name for path in cache.parent.iterdir()] == ["timing.cache"]


@pytest.mark.parametrize("content", [b"damaged", b"of another GPU"])
def test_timing_cache_that_does_not_fit_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(content)
    fake_plan(FakeTensorRt(), tmp_path, cache)
    assert cache.read_bytes() == b"+1"


def test_timing_cache_that_cannot_be_written_costs_no_plan(tmp_path: Path) -> None:
    cache = tmp_path / "model.onnx" / "timing.cache"
    assert fake_plan(FakeTensorRt(), tmp_path, cache) == b"plan"


def test_out_of_memory_says_what_to_do(tmp_path: Path) -> None:
    fake = FakeTensorRt()
    fake.plan = None
    fake.says = [
        (Level.INFO, "fine so far"),
        (Level.ERROR, "[virtualMemoryBuffer.cpp::resizePhysical::145] Error Code 2: OutOfMemory "
         "(Requested size was 8589934592 bytes.)"),
    ]  # fmt: skip
    with pytest.raises(PlanError) as refusal:
        fake_plan(fake, tmp_path)
    words = str(refusal.value)
    assert "batches of 4 (workspace limit: 4096 MiB)" in words
    assert "Error Code 2: OutOfMemory (Requested size was 8589934592 bytes.)" in words
    assert "virtualMemoryBuffer.cpp" not in words


def test_other_failure_is_told_in_the_words_of_this_build(tmp_path: Path) -> None:
    fake = FakeTensorRt()
    fake.says = [(Level.ERROR, "of an earlier build")]
    fake_plan(fake, tmp_path)
    fake.plan, fake.says = None, [(Level.ERROR, "Could not find any implementation for node x")]
    with pytest.raises(PlanError, match="implementation for node x") as refusal:
        fake_plan(fake, tmp_path)
    assert "earlier" not in str(refusal.value)


def test_builder_that_cannot_start_means_no_gpu(tmp_path: Path) -> None:
    fake = FakeTensorRt()

    def builder(logger: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    fake.Builder = builder
    with pytest.raises(NoGpuError, match="cannot use the GPU"):
        fake_plan(fake, tmp_path)


def test_tensorrt_itself_does_not_build_ahead_of_time(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="only TensorRT-RTX builds ahead of time"):
        fake_plan(FakeTensorRt(), tmp_path, **AHEAD)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (None, "cannot be imported"),
        (SimpleNamespace(), "cannot be imported"),  # a stub whose libraries were never fetched
        (SimpleNamespace(__version__="8.6.1"), r"TensorRT 8\.6\.1 is older than 10\.0"),
    ],
)
def test_missing_or_old_tensorrt_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, module: object, words: str
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    with pytest.raises(TensorRtMissingError, match=f"{words}.*NVIDIA's Triton or TensorRT"):
        import_tensorrt()


def test_tensorrt_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRt()
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    assert import_tensorrt() is fake
