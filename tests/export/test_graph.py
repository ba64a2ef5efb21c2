from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from export.errors import GraphError
from export.precision import half
from export.source import graph


class Plain(nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows @ self.weight


class Stubborn(Plain):
    """The dynamo exporter gives up on it, since what it does depends on the values."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows @ self.weight if rows.sum().item() > 0 else rows @ -self.weight


class Hopeless(Plain):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no way to trace this")


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(64, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def rows() -> torch.Tensor:
    return torch.rand(2, 64, generator=torch.Generator().manual_seed(2))


def answer(path: Path, rows: torch.Tensor) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"rows": rows.numpy()})[0])


def test_compact_changes_no_bit(tmp_path: Path, weight: torch.Tensor, rows: torch.Tensor) -> None:
    proto = graph.trace(Plain(weight.half().float()), rows, "out").proto
    graph.save(proto, tmp_path / "plain.onnx", "m")
    graph.save(half.compact(proto), tmp_path / "compact.onnx", "m")
    before, after = (answer(tmp_path / f"{n}.onnx", rows) for n in ("plain", "compact"))
    assert before.tobytes() == after.tobytes()
    small, large = ((tmp_path / f"{n}.onnx").stat().st_size for n in ("compact", "plain"))
    assert small < 0.6 * large


def test_compact_leaves_what_fp16_cannot_hold(weight: torch.Tensor, rows: torch.Tensor) -> None:
    exact = weight.half().float()
    for value in (1 + 2**-20, 1e6):
        exact[3, 4] = value
        proto = graph.trace(Plain(exact), rows, "out").proto
        assert half.compact(proto) == proto


def test_large_weights_move_with_their_folder(
    tmp_path: Path, weight: torch.Tensor, rows: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "EXTERNAL_BYTES", 1000)
    (tmp_path / "1").mkdir()
    proto = graph.trace(Plain(weight), rows, "out").proto
    graph.save(proto, tmp_path / "1/model.onnx", "m")
    files = sorted((tmp_path / "1").iterdir())
    assert [path.name for path in files] == ["model.onnx", "model.onnx.data"]
    assert files[0].stat().st_size < 1500
    assert files[0].stat().st_mode == files[1].stat().st_mode
    assert proto.graph.initializer[0].raw_data  # for the variants that follow
    (tmp_path / "1").rename(tmp_path / "2")
    np.testing.assert_allclose(
        answer(tmp_path / "2/model.onnx", rows), (rows @ weight).numpy(), atol=1e-5
    )


def test_other_exporter_is_used_and_named(
    tmp_path: Path, weight: torch.Tensor, rows: torch.Tensor
) -> None:
    traced = graph.trace(Stubborn(weight), rows, "out")
    assert traced.notice
    assert "TorchScript" in traced.notice
    graph.save(traced.proto, tmp_path / "model.onnx", "m")
    more = torch.cat([rows, rows, rows])
    np.testing.assert_allclose(
        answer(tmp_path / "model.onnx", more), (more @ weight).numpy(), atol=1e-5
    )


def test_what_cannot_be_traced_says_so(weight: torch.Tensor, rows: torch.Tensor) -> None:
    with pytest.raises(GraphError, match="no way to trace this"):
        graph.trace(Hopeless(weight), rows, "out")


def test_metadata(tmp_path: Path, weight: torch.Tensor, rows: torch.Tensor) -> None:
    graph.save(graph.trace(Plain(weight), rows, "out").proto, tmp_path / "m.onnx", "my-id")
    proto = onnx.load(tmp_path / "m.onnx")
    assert proto.producer_name == "openclip-triton"
    assert {item.key: item.value for item in proto.metadata_props} == {"model_id": "my-id"}
    assert [item.version for item in proto.opset_import if not item.domain] == [graph.OPSET]
