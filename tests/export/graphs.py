"""Both encoders of the small models as FP32 graphs, with input for them."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from export.demo.scenes import draw_scenes
from export.precision import edit
from export.source import encoders, graph
from export.source.checkpoint import load_checkpoint

TEXTS = (
    "a photo of a cat", "two small red cars", "a dog beside an old stone bridge",
    "the evening", "a small cat in the old evening", "red", "photo of two cars", "stone bridge",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Encoder:
    proto: onnx.ModelProto
    feeds: tuple[NDArray[Any], ...]  # to calibrate with
    held_out: NDArray[Any]


@functools.cache
def trace(model: str) -> dict[str, Encoder]:
    """The `image` and the `text` encoder of a model; tests share them and leave them as is."""
    checkpoint = load_checkpoint(model, None, None)
    size = checkpoint.preprocessing.image_size
    scenes = [np.asarray(scene.image) for scene in draw_scenes(24, seed=9, size=size)]
    batches = [np.stack(scenes[start : start + 8]) for start in (0, 8, 16)]
    image = encoders.image_encoder(checkpoint.model, checkpoint.preprocessing).eval()
    ids = checkpoint.tokenizer(list(TEXTS)).to(torch.int32)
    text = encoders.text_encoder(checkpoint.model, pad_id=0).eval()
    words = [np.roll(ids.numpy(), shift, axis=0) for shift in (0, 3, 5)]
    return {
        "image": Encoder(
            graph.trace(image, torch.from_numpy(batches[0][:2]), "image_features").proto,
            tuple(batches[:2]),
            batches[2],
        ),
        "text": Encoder(
            graph.trace(text, ids[:2], "text_features").proto, tuple(words[:2]), words[2]
        ),
    }


def answer(proto: onnx.ModelProto, feed: NDArray[Any]) -> NDArray[np.float32]:
    """What a graph makes of its input on ONNX Runtime."""
    with edit.session(proto) as session:
        name = session.get_inputs()[0].name
        return np.asarray(session.run(None, {name: feed})[0])


def cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of unit vectors, row by row."""
    return np.asarray((left.astype(np.float64) * right).sum(axis=1))


NEWEST_IR, NEWEST_OPSET = 10, 21  # that ONNX Runtime 1.19 reads


def assert_runs_on_old_runtimes(path: Path) -> None:
    """That a graph has nothing that ONNX Runtime 1.19 is known to lack."""
    proto = onnx.load(path)
    assert proto.ir_version <= NEWEST_IR
    assert all(each.version <= NEWEST_OPSET for each in proto.opset_import if not each.domain)
    types = edit.element_types(proto)
    for node in proto.graph.node:
        if node.op_type in {"ArgMax", "ArgMin"}:
            assert types[node.input[0]] != onnx.TensorProto.INT64, f"{path}: {node.name}"
