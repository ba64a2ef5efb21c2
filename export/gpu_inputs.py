"""Writes the files of a model that `make gpu-check` needs on a GPU machine.

`references.npz` has inputs and PyTorch's vectors for them; `fp16/`, `int8/` and `fp8/` each have a
typed `image.onnx` and `text.onnx` for TensorRT; `inputs.json`, written last, names the model.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export.gate import evaluation
from export.gate.evaluation import EvaluationSet
from export.gate.feeds import Feed, feed_of, image_measure, text_measure
from export.gate.reference import Inputs, References, prepare, references
from export.gate.search import first_good
from export.gate.thresholds import DEFAULT_THRESHOLDS
from export.precision.variants import Graphs, Variant, candidates, halved
from export.progress import Progress
from export.source import graph, tracing
from export.source.checkpoint import Checkpoint
from export.source.tokenizer import write_tokenizer
from gateway.models.tokenizer import padded

QUANTIZED = (Variant("int8", "tensorrt"), Variant("fp8", "tensorrt"))


def write(checkpoint: Checkpoint, samples: EvaluationSet, folder: Path, progress: Progress) -> None:
    """Write the folder of a model.

    Args:
        checkpoint: The model.
        samples: Pictures and texts to calibrate INT8 and FP8 with.
        folder: The folder.
        progress: Reports the stages.

    Raises:
        ExportError: A graph cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "inputs.json").unlink(missing_ok=True)
    rules, dataset = (
        checkpoint.preprocessing,
        evaluation.built_in(checkpoint.preprocessing.image_size),
    )
    with tempfile.TemporaryDirectory() as scratch:
        spec = write_tokenizer(checkpoint.tokenizer, Path(scratch) / "tokenizer.json")
        inputs = prepare(dataset, rules, spec, Path(scratch))
        feed = feed_of(prepare(samples, rules, spec, Path(scratch)), (spec.context_length,))
    with progress.stage("encoding in PyTorch"):
        truth = references(checkpoint, dataset)
    ids = [padded(each, spec.context_length, spec.pad_id) for each in inputs.token_ids]
    np.savez_compressed(
        folder / "references.npz",
        pixels=inputs.pixels, token_ids=np.stack(ids), image=truth.image, text=truth.text,
    )  # fmt: skip
    with progress.stage("tracing both encoders"):
        image = tracing.image_graph(checkpoint).proto
        text = tracing.text_graphs(checkpoint, spec.pad_id, ()).by_length[spec.context_length].proto
    described: dict[str, Any] = {
        "open_clip_name": checkpoint.name, "pretrained": checkpoint.pretrained,
    }  # fmt: skip
    with progress.stage("converting to FP16, INT8 and FP8"):
        traced = Graphs(image, {spec.context_length: text})
        few = feed_of(inputs, (spec.context_length,), few=True)
        half = halved(traced, few.pixels, few.token_ids)
        _save({"image": half.image, "text": half.text[spec.context_length]}, folder / "fp16")
        for variant in QUANTIZED:
            chosen, described[variant.precision] = _quantized(
                variant, traced, feed, inputs, truth, spec.context_length
            )
            _save(chosen, folder / variant.precision)
    (folder / "inputs.json").write_text(json.dumps(described, indent=2) + "\n")


def _quantized(
    variant: Variant,
    traced: Graphs,
    feed: Feed,
    inputs: Inputs,
    truth: References,
    length: int,
) -> tuple[dict[str, onnx.ModelProto], dict[str, str]]:
    """The fastest graphs that reach the mean cosine, else the best; and their recipes."""
    needed, fp8 = DEFAULT_THRESHOLDS[variant.precision].mean_cosine or 0.0, variant.form == "fp8"
    measures = {
        "image": image_measure(inputs, truth, fp8=fp8),
        "text": text_measure(inputs, truth, (length,), fp8=fp8),
    }
    protos = {"image": traced.image, "text": traced.text[length]}
    feeds = {"image": feed.pixels, "text": feed.token_ids[length]}
    found = {
        kind: next(
            first_good(
                candidates(proto, variant.form, "percentile", feeds[kind], measures[kind]), needed
            )
        )
        for kind, proto in protos.items()
    }
    return (
        {kind: each.proto for kind, each in found.items()},
        {kind: each.recipe.describe() for kind, each in found.items()},
    )


def _save(protos: dict[str, onnx.ModelProto], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for kind, proto in protos.items():
        graph.save(proto, folder / f"{kind}.onnx", kind)
