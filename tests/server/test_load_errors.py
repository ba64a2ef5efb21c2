"""Models that cannot be served: the error names every reason, and the launcher exits."""

import re
from pathlib import Path

import onnx
import pytest

from server.config import ServerConfig
from server.errors import ModelLoadError
from server.launcher import TritonServer
from tests.server import tiny

pytestmark = pytest.mark.slow

COMMON = "max_batch_size: 8\n" + tiny.ONE_INSTANCE
TEXT = COMMON + tiny.TEXT_IO
# Triton model: its graph, its configuration, what its reason says.
BROKEN: dict[str, tuple[onnx.ModelProto | bytes | None, str, str]] = {
    "corrupt": (b"not a graph", TEXT, "corrupt/1/model.onnx cannot be loaded: .*INVALID_PROTOBUF"),
    "bare": (tiny.text_graph(), COMMON, "input 'ids' of the graph is not in the configuration"),
    "missing": (None, TEXT, "missing/1/model.onnx does not exist"),
    "renamed": (
        tiny.text_graph(),
        TEXT + 'default_model_filename: "other.onnx"\n',
        "renamed/1/other.onnx does not exist",
    ),
    "wrong-type": (
        tiny.text_graph(),
        TEXT.replace("INT32", "INT64"),
        "model wrong-type: input 'ids': the configuration says TYPE_INT64, the graph TYPE_INT32",
    ),
    "bad-key": (
        tiny.text_graph(),
        TEXT + tiny.parameters(execution_mode="7"),
        "model bad-key: parameter execution_mode: expected 0 or 1, not '7'",
    ),
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name, (graph, config, _) in BROKEN.items():
        tiny.add_model(tmp_path, name, graph, config)
    tiny.add_model(tmp_path, "broken.image", tiny.image_graph(), COMMON + tiny.IMAGE_IO)
    tiny.add_manifest(tmp_path, "broken", "broken.image", [(name, 4) for name in BROKEN])
    return tmp_path


def any_ports(repository: Path, exit_on_error: bool) -> ServerConfig:
    return ServerConfig(repository, grpc_port=0, metrics_port=0, exit_on_error=exit_on_error)


def test_every_reason_is_told(repository: Path) -> None:
    strict = any_ports(repository, exit_on_error=True)
    with pytest.raises(ModelLoadError) as caught, TritonServer(strict):
        pass
    lines = str(caught.value).splitlines()
    assert len(lines) == len(BROKEN)
    for name, (_, _, reason) in BROKEN.items():
        (line,) = [line for line in lines if line.startswith(f"model {name} failed to load: ")]
        assert re.search(reason, line)


def test_the_models_that_load_can_be_served_without_the_others(tmp_path: Path) -> None:
    tiny.add_demo(tmp_path)
    (tmp_path / "demo.image" / "1" / "model.onnx").unlink()
    log: list[str] = []
    with TritonServer(any_ports(tmp_path, exit_on_error=False), log.append):
        assert any(line.startswith("model demo.image failed to load") for line in log)
