"""A Python-based Triton backend named ``onnxruntime``: ONNX models without NVIDIA's container.

Triton imports this file in a stub process per model instance. If NVIDIA's own
``libtriton_onnxruntime.so`` is installed, Triton uses that instead with the same ``config.pbtxt``;
see ``options`` for the supported keys.
"""

import json
from pathlib import Path
from typing import Any

import onnxruntime as ort
import triton_python_backend_utils as pb_utils
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from server.backends.onnxruntime.batches import Item, Runner, Tensors
from server.backends.onnxruntime.heap import trim
from server.backends.onnxruntime.options import ConfigError, Settings, providers
from server.backends.onnxruntime.signature import Signature, described
from server.backends.onnxruntime.tensors import check_round_trip, to_array, to_tensor

# Quoted annotations: the stub adds Tensor and the like to pb_utils only after this import.
DEFAULT_FILE = "model.onnx"


class ModelLoadError(Exception):
    """The model cannot be served; Triton reports the message as the reason."""


class TritonPythonModel:
    """One instance of one model."""

    @staticmethod
    def auto_complete_config(config: "pb_utils.ModelConfig") -> "pb_utils.ModelConfig":
        """Fill in missing inputs or outputs, and max_batch_size."""
        given = config.as_dict()
        if given.get("input") and given.get("output"):
            return config  # as the C++ backend does; it also saves loading the graph twice
        file = Path(given.get("default_model_filename") or DEFAULT_FILE).name
        path = _model_path(Path(pb_utils.get_model_dir()) / file)
        try:
            signature = Signature.of(_session(path, Settings(graph_level=2), given, "CPU", 0))
            size = signature.max_batch_size(int(given.get("max_batch_size", 0)))
            inputs = described(signature.inputs, size > 0)
            outputs = described(signature.outputs, size > 0)
        except ConfigError as error:
            raise ModelLoadError(f"model {given['name']}: {error}") from None
        config.set_max_batch_size(size)
        if size > 1 and "sequence_batching" not in given:
            config.set_dynamic_batching()
        for entry in inputs if not given.get("input") else ():
            config.add_input(entry)
        for entry in outputs if not given.get("output") else ():
            config.add_output(entry)
        return config

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph and check the configuration against it."""
        config = json.loads(args["model_config"])
        file = config.get("default_model_filename") or DEFAULT_FILE
        path = _model_path(Path(args["model_repository"]) / args["model_version"] / file)
        kind, device = args["model_instance_kind"], int(args["model_instance_device_id"])
        try:
            check_round_trip()
            settings = Settings.read(config)
            session = _session(path, settings, config, kind, device)
            self._signature = Signature.of(session)
            self._signature.check(config)
        except (ConfigError, RuntimeError) as error:
            raise ModelLoadError(f"model {args['model_name']}: {error}") from None
        trim()
        self._outputs = tuple(entry["name"] for entry in config["output"])
        size = int(config.get("max_batch_size", 0))
        self._runner = Runner(session, settings.run_options(), size)
        pb_utils.Logger.log_info(
            f"{args['model_instance_name']}: {path}, {session.get_providers()[0]}, {settings}"
        )

    def execute(self, requests: list["pb_utils.InferenceRequest"]) -> list[Any]:
        """Answer every request of the batch, each with its own outputs or its own error."""
        responses: list[Any] = [None] * len(requests)
        items = []
        for index, request in enumerate(requests):
            try:
                items.append(self._item(index, request))
            except ValueError as error:
                responses[index] = _failure(str(error), pb_utils.TritonError.INVALID_ARG)
        for item, result in self._runner.run(items):
            responses[item.index] = _response(item, result)
        return responses

    def _item(self, index: int, request: "pb_utils.InferenceRequest") -> Item:
        """Check the inputs of a request.

        Raises:
            ValueError: An input is missing, or has another type or shape than the graph.
        """
        given = {tensor.name(): to_array(tensor) for tensor in request.inputs()}
        for spec in self._signature.inputs:
            if spec.name not in given:
                raise ValueError(f"input '{spec.name}' is missing")
            if problem := spec.problem(given[spec.name]):
                raise ValueError(problem)
        if self._runner.max_batch_size and len({len(a) for a in given.values()}) != 1:
            raise ValueError("the inputs have different batch sizes")
        requested = request.requested_output_names()
        outputs = tuple(name for name in self._outputs if not requested or name in requested)
        return Item(index, given, outputs)


def _model_path(path: Path) -> Path:
    """Find the graph's file; in a folder it is ``model.onnx``, as in the C++ backend."""
    path = path / DEFAULT_FILE if path.is_dir() else path
    if not path.is_file():
        raise ModelLoadError(f"{path} does not exist")
    return path


def _session(
    path: Path, settings: Settings, config: dict[str, Any], kind: str, device: int
) -> ort.InferenceSession:
    chosen = providers(config, kind, device)
    try:
        return ort.InferenceSession(path, settings.session_options(), providers=chosen)
    except Exception as error:  # onnxruntime's errors share no narrower base class
        raise ModelLoadError(f"{path} cannot be loaded: {error}") from None


def _response(item: Item, result: Tensors | Exception) -> "pb_utils.InferenceResponse":
    if isinstance(result, Exception):
        invalid = isinstance(result, InvalidArgument)
        codes = pb_utils.TritonError
        return _failure(str(result), codes.INVALID_ARG if invalid else codes.INTERNAL)
    return pb_utils.InferenceResponse([to_tensor(name, result[name]) for name in item.outputs])


def _failure(message: str, code: int) -> "pb_utils.InferenceResponse":
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
