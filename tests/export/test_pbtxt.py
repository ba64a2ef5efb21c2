from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as messages

from export.errors import ExportError
from export.publish.pbtxt import Device, Serving, image_config, text_config
from server.config import ServerConfig
from server.errors import ModelLoadError
from server.launcher import TritonServer
from tests.server import tiny

ONNX_CONFIG = """\
name: "m.image"
version_policy {
  all {
  }
}
max_batch_size: 16
input {
  name: "pixels"
  data_type: TYPE_UINT8
  dims: 64
  dims: 64
  dims: 3
}
output {
  name: "image_features"
  data_type: TYPE_FP32
  dims: 32
}
instance_group {
  count: 2
  kind: KIND_CPU
}
dynamic_batching {
  max_queue_delay_microseconds: 500
}
parameters {
  key: "enable_mem_pattern"
  value {
    string_value: "0"
  }
}
parameters {
  key: "intra_op_thread_count"
  value {
    string_value: "3"
  }
}
backend: "onnxruntime"
"""


def parsed(text: str) -> messages.ModelConfig:
    return text_format.Parse(text, messages.ModelConfig())


def for_tensorrt(max_batch: int) -> messages.ModelConfig:
    serving = Serving(max_batch, instances=2, threads=3, runtime="tensorrt")
    return parsed(text_config("m.text-16", 16, 32, serving))


def graph_for(model: messages.ModelConfig, batch: int) -> int | None:
    """The batch size of the CUDA graph that Triton's backend picks: see FindClosestCudaGraph."""
    for spec in sorted(model.optimization.cuda.graph_spec, key=lambda spec: spec.batch_size):
        lowest = spec.batch_size
        if spec.HasField("graph_lower_bound"):
            assert spec.graph_lower_bound.input.keys() == spec.input.keys()
            lowest = spec.graph_lower_bound.batch_size
        if lowest <= batch <= spec.batch_size:
            return int(spec.batch_size)
    return None


def test_onnxruntime() -> None:
    assert image_config("m.image", 64, 32, Serving(16, "cpu", 2, 3)) == ONNX_CONFIG


@pytest.mark.parametrize(("device", "search"), [("auto", "1"), ("gpu", "1"), ("cpu", "")])
def test_cudnn_chooses_by_heuristic(device: Device, search: str) -> None:
    model = parsed(image_config("m.image", 64, 32, Serving(device=device)))
    assert model.parameters["cudnn_conv_algo_search"].string_value == search


def test_openvino() -> None:
    model = parsed(text_config("m.text", -1, 32, Serving(8, threads=2, runtime="openvino")))
    assert model.backend == "openvino"
    assert model.default_model_filename == ""  # model.xml
    assert model.instance_group[0].kind == messages.ModelInstanceGroup.KIND_CPU
    assert {key: value.string_value for key, value in model.parameters.items()} == {
        "HINT_BF16": "YES",
        "INFERENCE_NUM_THREADS": "2",
        "NUM_STREAMS": "1",
        "PERFORMANCE_HINT": "LATENCY",
    }


def test_openvino_has_no_use_for_a_gpu() -> None:
    with pytest.raises(ExportError, match="CPUs only"):
        Serving(device="gpu", runtime="openvino")


def test_batches_of_images_are_split_among_the_threads_where_that_is_wanted() -> None:
    split = Serving(split_images=True)
    for made in (image_config("m.image", 64, 32, Serving()), text_config("m", -1, 32, split)):
        assert "split_batches" not in parsed(made).parameters
    images = parsed(image_config("m.image", 64, 32, split))
    assert images.parameters["split_batches"].string_value == "1"


def test_tensorrt_backend_and_file() -> None:
    model = for_tensorrt(64)
    assert (model.backend, model.default_model_filename) == ("tensorrt", "model.plan")
    assert [group.kind for group in model.instance_group] == [messages.ModelInstanceGroup.KIND_GPU]
    assert model.instance_group[0].count == 2
    assert not model.parameters
    assert list(model.input[0].dims) == [16]
    assert model.input[0].data_type == messages.TYPE_INT32


def test_every_small_batch_runs_as_a_graph_of_little_more() -> None:
    model = for_tensorrt(64)
    assert model.optimization.cuda.graphs
    assert [graph_for(model, n) for n in range(1, 9)] == [1, 2, 4, 4, 8, 8, 8, 8]


def test_larger_batches_are_not_filled_up() -> None:
    model = for_tensorrt(48)
    assert {n: graph_for(model, n) for n in (9, 15, 16, 17, 31, 32, 33, 47, 48)} == {
        9: None, 15: None, 16: 16, 17: None, 31: None, 32: 32, 33: None, 47: None, 48: 48
    }  # fmt: skip
    assert list(model.dynamic_batching.preferred_batch_size) == [8, 16, 32, 48]


@pytest.mark.parametrize(
    ("max_batch", "graphs", "preferred"),
    [(1, [1], [1]), (3, [1, 2, 3], [3]), (8, [1, 2, 4, 8], [8]), (12, [1, 2, 4, 8, 12], [8, 12])],
)
def test_no_graph_is_larger_than_the_largest_batch(
    max_batch: int, graphs: list[int], preferred: list[int]
) -> None:
    model = for_tensorrt(max_batch)
    assert [spec.batch_size for spec in model.optimization.cuda.graph_spec] == graphs
    assert list(model.dynamic_batching.preferred_batch_size) == preferred


def test_graphs_name_the_shape_of_an_item() -> None:
    model = parsed(image_config("m.image", 64, 32, Serving(4, runtime="tensorrt")))
    for spec in model.optimization.cuda.graph_spec:
        assert {name: list(shape.dim) for name, shape in spec.input.items()} == {
            "pixels": [64, 64, 3]
        }


def test_tensorrt_has_no_use_for_a_cpu() -> None:
    with pytest.raises(ExportError, match="GPUs only"):
        Serving(device="cpu", runtime="tensorrt")


def test_triton_takes_the_configuration_and_lacks_only_the_backend(tmp_path: Path) -> None:
    serving = Serving(48, runtime="tensorrt")
    configs = {
        "m.image": image_config("m.image", 64, 32, serving),
        "m.text-16": text_config("m.text-16", 16, 32, serving),
    }
    for name, text in configs.items():
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "model.plan").touch()
        (tmp_path / name / "config.pbtxt").write_text(text)
    tiny.add_manifest(tmp_path, "m", "m.image", [("m.text-16", 16)])
    config = ServerConfig(tmp_path, grpc_port=0, metrics_port=0)
    with pytest.raises(ModelLoadError) as refusal, TritonServer(config):
        pass
    lines = str(refusal.value).splitlines()
    assert len(lines) == len(configs)
    assert all("unable to find backend library for backend 'tensorrt'" in line for line in lines)
