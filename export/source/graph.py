"""Exports encoders to ONNX graphs, and saves them.

An encoder is in evaluation mode, and the argument of its `forward` names the graph's input. An
example is two items of valid input, text at the full length. The output is float32 [n, D].
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import onnx
import torch
from onnx.external_data_helper import load_external_data_for_model
from torch import nn

from export.errors import GraphError, brief

OPSET = 20  # native to torch's exporter; ONNX Runtime and TensorRT 10 and 11 read it
PRODUCER = "openclip-triton"
EXTERNAL_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class Graph:
    """One encoder as ONNX with its weights, and a notice for the user."""

    proto: onnx.ModelProto
    notice: str | None = None


def trace(encoder: nn.Module, example: torch.Tensor, output: str) -> Graph:
    """Export one encoder at the shape of an example, with any batch size.

    Raises:
        GraphError: Both of torch's exporters fail.
    """
    try:
        return Graph(_with_dynamo(encoder, example, output))
    except Exception as error:  # the exporter raises whatever the model's own code does
        return Graph(
            _with_torchscript(encoder, example, output, error),
            f"{output}: torch's dynamo exporter failed ({brief(error, 120)}); the TorchScript "
            "exporter was used",
        )


def trace_text(
    encoder: nn.Module, example: torch.Tensor, lengths: tuple[int, ...], output: str
) -> dict[int, Graph]:
    """Export a text encoder for token lengths that rise to the full one, in one graph if possible.

    Raises:
        GraphError: The encoder cannot be exported.
    """
    if len(lengths) == 1:
        return {lengths[0]: trace(encoder, example, output)}
    try:
        return dict.fromkeys(lengths, trace_any_length(encoder, example, output))
    except GraphError as error:
        why = f"{output}: one graph for each token length, since {error}"
    graphs = {length: trace(encoder, example[:, :length], output) for length in lengths}
    first = graphs[lengths[0]]
    notice = "; ".join(filter(None, (why, first.notice)))
    return {**graphs, lengths[0]: Graph(first.proto, notice)}


def trace_any_length(encoder: nn.Module, example: torch.Tensor, output: str) -> Graph:
    """Export a text encoder as one graph for any batch and any length from 2 to the full one.

    Raises:
        GraphError: torch's dynamo exporter fails.
    """
    try:
        return Graph(_with_dynamo(encoder, example, output, any_length=True))
    except Exception as error:  # as above
        raise GraphError(f"torch's dynamo exporter failed ({brief(error, 120)})") from error


def _input_name(encoder: nn.Module) -> str:
    return type(encoder).forward.__code__.co_varnames[1]


def _with_dynamo(
    encoder: nn.Module, example: torch.Tensor, output: str, *, any_length: bool = False
) -> onnx.ModelProto:
    name = _input_name(encoder)
    free: dict[int, Any] = {0: torch.export.Dim("batch")}
    if any_length:
        full = example.shape[1]
        free[1] = torch.export.Dim("length", min=2, max=full)
        example = example[:, : max(2, full // 2)]
    with _silence():
        program = torch.onnx.export(
            encoder,
            (example,),
            dynamo=True,
            dynamic_shapes={name: free},
            input_names=[name],
            output_names=[output],
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise GraphError(f"{output}: torch's exporter returned nothing")
    return _tidy(program.model_proto, output)


def _with_torchscript(
    encoder: nn.Module, example: torch.Tensor, output: str, first: Exception
) -> onnx.ModelProto:
    name, buffer = _input_name(encoder), io.BytesIO()
    try:
        with _silence():
            torch.onnx.export(
                encoder,
                (example,),
                cast(Any, buffer),  # its annotation leaves streams out
                dynamo=False,
                input_names=[name],
                output_names=[output],
                dynamic_axes={name: {0: "batch"}, output: {0: "batch"}},
                opset_version=OPSET,
            )
        return _tidy(onnx.load_from_string(buffer.getvalue()), output)
    except Exception as error:  # as above
        raise GraphError(
            f"{output}: the encoder cannot be exported to ONNX: {brief(first)} (dynamo); "
            f"{brief(error)} (TorchScript); change the layers that these name, and export the "
            "model with --custom"
        ) from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppress the exporters' progress output and internal warnings."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _tidy(proto: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """Drop the exporter's notes about local source code, and name the batch dimension."""
    graph = proto.graph
    proto.producer_name, proto.producer_version, proto.doc_string = PRODUCER, "", ""
    del proto.metadata_props[:]
    del graph.value_info[:]
    parts: tuple[Any, ...] = (
        graph, *graph.node, *graph.initializer, *graph.input, *graph.output
    )  # fmt: skip
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]
    for function in proto.functions:
        del function.metadata_props[:]
    if [item.name for item in graph.output] != [output]:
        raise GraphError(f"{output}: the exporter named the outputs {graph.output}")
    graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    return proto


def save(proto: onnx.ModelProto, path: Path, model_id: str) -> None:
    """Write a graph and check the file.

    Weights of more than `EXTERNAL_BYTES` in all go to `<path>.data` in the same folder, by a
    relative path, so that the folder may be renamed: a graph in one file ends at 2 GiB, and ONNX
    Runtime maps the second file, so that word vectors take memory only once they are read, and once
    for all instances. `proto` keeps its weights.

    Raises:
        GraphError: The file is not valid ONNX.
    """
    onnx.helper.set_model_props(proto, {"model_id": model_id})
    size = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    if size > EXTERNAL_BYTES:
        data = path.with_name(f"{path.name}.data")
        onnx.save_model(proto, path, save_as_external_data=True, location=data.name)
        data.chmod(path.stat().st_mode)  # onnx makes it private to the user
        load_external_data_for_model(proto, str(path.parent))  # since saving took the weights out
    else:
        onnx.save_model(proto, path)
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise GraphError(f"{path.name}: not valid ONNX: {brief(error)}") from error
