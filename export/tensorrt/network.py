"""Parses an ONNX file into a strongly typed TensorRT network with one range of batches."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from export.tensorrt.build_log import Foreign, plain
from export.tensorrt.errors import PlanError

Shapes = Mapping[str, tuple[int, ...]]  # input name -> dimensions of one item
Batches = tuple[int, int, int]  # fewest, best, most items

NAMED = 3  # refused nodes that a message names


def parse(
    trt: ModuleType, builder: Foreign, logger: Foreign, path: Path
) -> tuple[Foreign, Foreign]:
    """Read an ONNX file.

    TensorRT 10 needs a flag for strong typing; later versions always use it.

    Returns:
        The network, and the parser, which owns the weights and must outlive it.

    Raises:
        PlanError: The file cannot be read, or a node is refused.
    """
    if not path.is_file():
        raise PlanError(f"{path}: no such file")
    flags = getattr(trt, "NetworkDefinitionCreationFlag", None)
    flag = getattr(flags, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        raise _refusal(path, [parser.get_error(at) for at in range(parser.num_errors)])
    return network, parser


def _refusal(path: Path, errors: list[Foreign]) -> PlanError:
    nodes = [error for error in errors if error.node_operator() or error.node_name()]
    if not nodes:
        why = plain(error.desc() for error in errors) or "it gives no reason"
        return PlanError(f"{path}: TensorRT cannot read this ONNX file: {why}")
    named = "; ".join(_describe(error) for error in nodes[:NAMED])
    more = f"; and {len(nodes) - NAMED} more" if len(nodes) > NAMED else ""
    return PlanError(f"{path}: TensorRT does not support {named}{more}")


def _describe(error: Foreign) -> str:
    node = f"node {error.node_name() or '?'} (operator {error.node_operator() or '?'})"
    why = plain(error.desc().splitlines())
    return f"{node}: {why}" if why else node


def add_profile(
    builder: Foreign, network: Foreign, config: Foreign, shapes: Shapes, batches: Batches
) -> None:
    """Add the optimization profile: any batch in a range, one shape of items.

    Raises:
        PlanError: The network has other inputs or shapes, or TensorRT refuses the profile.
    """
    profile = builder.create_optimization_profile()
    inputs = {tensor.name: tensor for tensor in map(network.get_input, range(network.num_inputs))}
    if set(inputs) != set(shapes):
        raise PlanError(f"the graph's inputs are {sorted(inputs)}, not {sorted(shapes)}")
    for name, item in shapes.items():
        _check_shape(name, list(inputs[name].shape), item)
        profile.set_shape(name, *((size, *item) for size in batches))
    if config.add_optimization_profile(profile) < 0:
        raise PlanError(f"TensorRT refuses items of {dict(shapes)} in batches of {batches}")


def _check_shape(name: str, shape: list[int], item: tuple[int, ...]) -> None:
    want = [-1, *item]
    free = len(shape) == len(want) and shape[0] == -1
    if not free or any(has not in (-1, dim) for has, dim in zip(shape, want, strict=True)):
        raise PlanError(f"the graph's input {name} is {shape}, not {want} (-1 is any size)")
