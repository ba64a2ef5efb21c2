"""A Python-based Triton backend named ``onnxruntime``: ONNX models without NVIDIA's container.

Triton imports this file in a stub process per model instance. If NVIDIA's own
``libtriton_onnxruntime.so`` is installed, Triton uses that instead with the same ``config.pbtxt``;
see ``options`` for the supported keys.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime as ort
import triton_python_backend_utils as pb_utils
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from server.backends.errors import ConfigError, ModelLoadError
from server.backends.heap import trim
from server.backends.instance import Instance, model_path
from server.backends.onnxruntime.options import Settings, providers
from server.backends.onnxruntime.signature import signature_of
from server.backends.onnxruntime.split import SplitSession, threads_of
from server.backends.signature import described
from server.backends.tensors import check_round_trip

DEFAULT_FILE = "model.onnx"


class TritonPythonModel(Instance):
    """One instance of one model."""

    invalid = (InvalidArgument,)

    @staticmethod
    def auto_complete_config(config: "pb_utils.ModelConfig") -> "pb_utils.ModelConfig":
        """Fill in missing inputs or outputs, and max_batch_size."""
        given = config.as_dict()
        if given.get("input") and given.get("output"):
            return config  # as the C++ backend does; it also saves loading the graph twice
        file = Path(given.get("default_model_filename") or DEFAULT_FILE).name
        path = model_path(Path(pb_utils.get_model_dir()) / file, DEFAULT_FILE)
        try:
            signature = signature_of(_session(path, Settings(graph_level=2), given, "CPU", 0))
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
        version = Path(args["model_repository"]) / args["model_version"]
        path = model_path(version / file, DEFAULT_FILE)
        kind, device = args["model_instance_kind"], int(args["model_instance_device_id"])
        try:
            check_round_trip()
            settings = Settings.read(config)
            session = _session(path, settings, config, kind, device)
            run = partial(session.run, run_options=settings.run_options())
            self.serve(config, signature_of(session), run)
        except (ConfigError, RuntimeError) as error:
            raise ModelLoadError(f"model {args['model_name']}: {error}") from None
        trim()
        pb_utils.Logger.log_info(
            f"{args['model_instance_name']}: {path}, {session.get_providers()[0]}, {settings}"
        )


def _session(
    path: Path, settings: Settings, config: dict[str, Any], kind: str, device: int
) -> ort.InferenceSession | SplitSession:
    chosen = providers(config, kind, device)
    threads = threads_of(settings)
    splits = settings.split_batches and int(config.get("max_batch_size", 0)) and kind == "CPU"
    try:
        if splits and threads > 1:
            return SplitSession(path, settings, threads)
        return ort.InferenceSession(path, settings.session_options(), providers=chosen)
    except Exception as error:  # onnxruntime's errors share no narrower base class
        raise ModelLoadError(f"{path} cannot be loaded: {error}") from None
