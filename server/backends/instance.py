"""The common part of both backends: find a graph, check the configuration, answer requests."""

import ctypes
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from server.backends.batches import Call, Item, Runner, Tensors
from server.backends.errors import ConfigError, ModelLoadError
from server.backends.signature import Signature
from server.backends.tensors import check_round_trip, to_array, to_tensor

# Quoted annotations: the stub adds Tensor and the like to pb_utils only after this import.


class Instance(ABC):
    """One instance of one model; a backend's ``TritonPythonModel`` loads the graph.

    Attributes:
        default_file: Name of a graph's file if the configuration has none.
        invalid: Errors of a run that are the client's fault.
        gpus: Whether the backend also runs on GPUs.
        device: The GPU of this instance; None is a CPU.
    """

    default_file: str
    gpus: bool = False
    device: int | None = None
    invalid: tuple[type[Exception], ...] = ()

    @abstractmethod
    def load(self, path: Path, config: dict[str, Any]) -> tuple[Signature, Call, str]:
        """Load a graph for the instance's device.

        Args:
            path: The graph's file.
            config: The model configuration.

        Returns:
            Its inputs and outputs, a function that runs it, and its settings for the log.

        Raises:
            ConfigError: The configuration cannot be met.
            Exception: The graph cannot be loaded.
        """

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph and check the configuration against it.

        Raises:
            ModelLoadError: The message says why the model cannot be served.
        """
        config: dict[str, Any] = json.loads(args["model_config"])
        version = Path(args["model_repository"]) / args["model_version"]
        path = self._path(version / (config.get("default_model_filename") or self.default_file))
        check_round_trip()
        try:
            if args["model_instance_kind"] == "GPU":
                if not self.gpus:
                    raise ConfigError("instance_group kind KIND_GPU: this backend runs on a CPU")
                self.device = int(args["model_instance_device_id"])
            self._signature, call, settings = self.load(path, config)
            self._signature.check(config)
        except ConfigError as error:
            raise ModelLoadError(f"model {args['model_name']}: {error}") from None
        except Exception as error:  # the errors of a runtime share no narrower base class
            reason = " ".join(str(error).split())  # in one line
            raise ModelLoadError(f"{path} cannot be loaded: {reason}") from None
        self._outputs = tuple(entry["name"] for entry in config["output"])
        self._runner = Runner(call, int(config.get("max_batch_size", 0)))
        # A runtime parses the graph and rearranges its weights; glibc keeps the memory that this
        # frees. For ViT-B-32 that is 0.2 GB for the image encoder and 0.1 GB for each text encoder
        # (ONNX Runtime 1.31, 2026-11-21).
        ctypes.CDLL(None).malloc_trim(0)
        pb_utils.Logger.log_info(f"{args['model_instance_name']}: {path}, {settings}")

    def _path(self, path: Path) -> Path:
        # In a folder the file has the default name, as in the C++ backends.
        path = path / self.default_file if path.is_dir() else path
        if not path.is_file():
            raise ModelLoadError(f"{path} does not exist")
        return path

    def execute(self, requests: "Sequence[pb_utils.InferenceRequest]") -> list[Any]:
        """Answer every request of the batch, each with its own outputs or its own error."""
        responses: list[Any] = [None] * len(requests)
        items = []
        for index, request in enumerate(requests):
            try:
                items.append(self._item(index, request))
            except ValueError as error:
                responses[index] = _failure(str(error), pb_utils.TritonError.INVALID_ARG)
        for item, result in self._runner.run(items):
            responses[item.index] = self._response(item, result)
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

    def _response(self, item: Item, result: Tensors | Exception) -> "pb_utils.InferenceResponse":
        if isinstance(result, Exception):
            codes = pb_utils.TritonError
            code = codes.INVALID_ARG if isinstance(result, self.invalid) else codes.INTERNAL
            return _failure(str(result), code)
        return pb_utils.InferenceResponse([to_tensor(name, result[name]) for name in item.outputs])


def _failure(message: str, code: int) -> "pb_utils.InferenceResponse":
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
