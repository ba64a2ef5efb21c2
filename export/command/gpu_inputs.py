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

from export.command.pipeline import calibration_set, default_id, load
from export.gate import calibration, evaluation
from export.gate.feeds import Feed, feed_of, image_measure, text_measure
from export.gate.reference import Inputs, References, prepare, references
from export.gate.search import first_good
from export.gate.thresholds import DEFAULT_THRESHOLDS
from export.precision.variants import Candidate, Graphs, Variant, candidates, halved
from export.publish.job import Options
from export.publish.progress import Progress
from export.source import graph, tracing
from export.source.tokenizer import write_tokenizer
from gateway.models.tokenizer import padded

QUANTIZED = (Variant("int8", "tensorrt"), Variant("fp8", "tensorrt"))


def write(options: Options, root: Path, progress: Progress) -> Path:
    """Write the folder of a model into `root`; return it.

    Raises:
        ExportError: The model or the pictures to calibrate with cannot be read, or a graph cannot
            be made or written.
    """
    samples = calibration_set(options) or calibration.drawn()
    checkpoint = load(options)
    folder = root / default_id(checkpoint.name, checkpoint.pretrained)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "inputs.json").unlink(missing_ok=True)
    rules = checkpoint.preprocessing
    dataset = evaluation.built_in(rules.image_size)
    with tempfile.TemporaryDirectory() as scratch:
        spec = write_tokenizer(checkpoint.tokenizer, Path(scratch) / "tokenizer.json")
        length = spec.context_length
        inputs = prepare(dataset, rules, spec, Path(scratch))
        feed = feed_of(prepare(samples, rules, spec, Path(scratch)), (length,))
    with progress.stage("encoding in PyTorch"):
        truth = references(checkpoint, dataset)
    ids = [padded(each, length, spec.pad_id) for each in inputs.token_ids]
    np.savez_compressed(
        folder / "references.npz",
        pixels=inputs.pixels, token_ids=np.stack(ids), image=truth.image, text=truth.text,
    )  # fmt: skip
    with progress.stage("tracing both encoders"):
        image = tracing.image_graph(checkpoint).proto
        text = tracing.text_graphs(checkpoint, spec.pad_id, ()).by_length[length].proto
        traced = Graphs(image, {length: text})
    described: dict[str, Any] = {
        "open_clip_name": checkpoint.name, "pretrained": checkpoint.pretrained,
    }  # fmt: skip
    with progress.stage("converting to FP16, INT8 and FP8"):
        few = feed_of(inputs, (length,), few=True)
        half = halved(traced, few.pixels, few.token_ids)
        _save({"image": half.image, "text": half.text[length]}, folder / "fp16")
        for variant in QUANTIZED:
            found = _quantized(variant, traced, feed, inputs, truth, length)
            _save({kind: each.proto for kind, each in found.items()}, folder / variant.precision)
            described[variant.precision] = {
                kind: each.recipe.describe() for kind, each in found.items()
            }
    (folder / "inputs.json").write_text(json.dumps(described, indent=2) + "\n")
    return folder


def _quantized(
    variant: Variant, traced: Graphs, feed: Feed, inputs: Inputs, truth: References, length: int
) -> dict[str, Candidate]:
    """The fastest graph of each encoder that reaches the mean cosine, else the best."""
    needed, fp8 = DEFAULT_THRESHOLDS[variant.precision].mean_cosine or 0.0, variant.form == "fp8"
    image = candidates(
        traced.image, variant.form, "percentile", feed.pixels,
        image_measure(inputs, truth, fp8=fp8),
    )  # fmt: skip
    text = candidates(
        traced.text[length], variant.form, "percentile", feed.token_ids[length],
        text_measure(inputs, truth, (length,), fp8=fp8),
    )  # fmt: skip
    return {"image": next(first_good(image, needed)), "text": next(first_good(text, needed))}


def _save(protos: dict[str, onnx.ModelProto], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for kind, proto in protos.items():
        graph.save(proto, folder / f"{kind}.onnx", kind)
