"""The openvino backend: its keys, and its answers under the real tritonserver."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
from tritonclient.utils import InferenceServerException

from server.backends.errors import ConfigError
from server.backends.openvino import options
from server.backends.openvino.options import Settings
from server.backends.processor import has_bf16
from server.config import ServerConfig
from server.errors import ModelLoadError
from server.launcher import TritonServer
from tests.server import tiny
from tests.server.conftest import Served, serving

COMMON = "max_batch_size: 8\n" + tiny.ONE_INSTANCE
TEXT = COMMON + tiny.TEXT_IO
BROKEN = {  # Triton model: its configuration, what its reason says
    "key": (TEXT + tiny.parameters(HINT_BF16="NO"), "HINT_BF16: expected YES, not 'NO'"),
    "type": (TEXT.replace("INT32", "INT64"), "says TYPE_INT64, the graph TYPE_INT32"),
    "bare": (COMMON, "input 'ids' of the graph is not in the configuration"),
    "corrupt": (TEXT, "corrupt/1/model.xml cannot be loaded"),
}


def add_model(repository: Path, name: str, graph: onnx.ModelProto, config: str) -> None:
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    (folder.parent / "config.pbtxt").write_text(f'name: "{name}"\nbackend: "openvino"\n{config}')
    ov.save_model(ov.Core().read_model(graph.SerializeToString()), folder / "model.xml")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    repository = tmp_path_factory.mktemp("openvino")
    keys = tiny.parameters(INFERENCE_NUM_THREADS="1", NUM_STREAMS="1", PERFORMANCE_HINT="latency")
    add_model(repository, "ov.image", tiny.image_graph(), COMMON + keys + tiny.IMAGE_IO)
    any_length = TEXT.replace("dims: [ 4 ]", "dims: [ -1 ]")
    add_model(repository, "ov.text", tiny.text_graph("length"), any_length)
    tiny.add_manifest(repository, "ov", "ov.image", [("ov.text", 77)])
    with serving(repository) as served:
        yield served


def config(**values: str) -> dict[str, Any]:
    return {"parameters": {key: {"string_value": value} for key, value in values.items()}}


def test_keys_become_properties() -> None:
    given = config(
        INFERENCE_NUM_THREADS="3",
        COMPILATION_NUM_THREADS="1",
        NUM_STREAMS="auto",
        PERFORMANCE_HINT="latency",
        SKIP_OV_DYNAMIC_BATCHSIZE="YES",
    )
    assert Settings.read(given).properties == {
        "ENABLE_CPU_PINNING": "NO",
        "INFERENCE_NUM_THREADS": "3",
        "COMPILATION_NUM_THREADS": "1",
        "NUM_STREAMS": "AUTO",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("INFERENCE_NUM_THREADS", "many", "expected a number of at least 0, not 'many'"),
        ("NUM_STREAMS", "-1", "expected AUTO, NUMA or a number, not '-1'"),
        ("PERFORMANCE_HINT", "FAST", "expected LATENCY, .* not 'FAST'"),
        ("HINT_BF16", "NO", "expected YES, not 'NO'"),
        ("CPU_EXTENSION_PATH", "/x.so", "not supported"),
    ],
)
def test_a_bad_value_is_named_with_its_key(key: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"parameter {key}: {message}"):
        Settings.read(config(**{key: value}))


@pytest.mark.parametrize(("can", "hint"), [(True, "bf16"), (False, "f32")])
def test_bf16_needs_the_processor(monkeypatch: pytest.MonkeyPatch, can: bool, hint: str) -> None:
    monkeypatch.setattr(options, "has_bf16", lambda: can)
    settings = Settings.read(config(HINT_BF16="YES"))
    assert settings.properties["INFERENCE_PRECISION_HINT"] == hint
    assert ("avx512_bf16" in (settings.warning or "")) is not can
    assert Settings.read({}).warning is None


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx512f avx512_vnni", False), ("fpu avx512_bf16", True), ("fpu amx_bf16", True)],
)
def test_bf16_is_a_flag_of_the_processor(tmp_path: Path, flags: str, expected: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert has_bf16(cpuinfo) == expected
    assert not has_bf16(tmp_path / "none")


@pytest.mark.slow
def test_each_batch_size_and_length_gets_its_answers(served: Served) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 2, 2, 3), np.uint8)
    for rows in (8, 1, 3):
        np.testing.assert_array_equal(
            served.infer("ov.image", "pixels", pixels[:rows]),
            pixels[:rows].reshape(rows, 12) / np.float32(2),
        )
    for ids in ([[1, 2, 3]], [[4], [5]], [[5, 6, 7, 8, 9]]):
        np.testing.assert_allclose(
            served.text(ids, "ov.text"), tiny.TABLE[ids].mean(axis=1), rtol=1e-6
        )


@pytest.mark.slow
def test_an_answer_stays_when_the_next_request_runs(served: Served) -> None:
    first = served.text([[1, 1]], "ov.text")
    served.text([[2, 2]], "ov.text")
    np.testing.assert_array_equal(first, [tiny.TABLE[1]])


@pytest.mark.slow
def test_a_wrong_shape_is_refused_and_the_next_request_is_served(served: Served) -> None:
    with pytest.raises(InferenceServerException, match="unexpected shape"):
        served.infer("ov.image", "pixels", np.zeros((1, 2, 3, 3), np.uint8))
    pixels = np.full((1, 2, 2, 3), 4, np.uint8)
    np.testing.assert_array_equal(
        served.infer("ov.image", "pixels", pixels), np.full((1, 12), 2, np.float32)
    )


@pytest.mark.slow
def test_every_key_reaches_openvino(served: Served) -> None:
    line = next(line for line in served.log if '"ov.image_0_0: ' in line)
    assert "'INFERENCE_NUM_THREADS': '1'" in line
    assert "'PERFORMANCE_HINT': 'LATENCY'" in line


@pytest.mark.slow
def test_every_reason_is_told(tmp_path: Path) -> None:
    for name, (text, _) in BROKEN.items():
        add_model(tmp_path, name, tiny.text_graph(), text)
    (tmp_path / "corrupt" / "1" / "model.xml").write_text("<net")
    tiny.add_model(tmp_path, "broken.image", tiny.image_graph(), COMMON + tiny.IMAGE_IO)
    tiny.add_manifest(tmp_path, "broken", "broken.image", [(name, 4) for name in BROKEN])
    config = ServerConfig(tmp_path, grpc_port=0, metrics_port=0)
    with pytest.raises(ModelLoadError) as caught, TritonServer(config):
        pass
    lines = str(caught.value).splitlines()
    assert len(lines) == len(BROKEN)
    for name, (_, reason) in BROKEN.items():
        (line,) = [line for line in lines if line.startswith(f"model {name} failed to load: ")]
        assert re.search(reason, line)
