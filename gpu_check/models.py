"""The models to check: their encoders, with reference inputs and PyTorch's vectors."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.reporting.results import Label
from benchmarks.systems.encoders import caption_lengths
from benchmarks.systems.published import Manifest, batch_of, packed
from gateway.models.manifest import golden_pixels
from gpu_check.engines import Encoder
from gpu_check.flops import flops

DESCRIPTION, VECTORS = "inputs.json", "references.npz"  # as `python -m export --gpu-inputs` writes
PACKED = "packed text: its shapes depend on values, which CUDA graphs do not capture"


@dataclass(frozen=True, slots=True)
class Inputs:
    """Reference inputs of a model, and its typed graphs for TensorRT.

    Attributes:
        pixels: uint8 [pictures, S, S, 3].
        token_ids: int32 [texts, context length], padded.
        image: PyTorch's vectors of the pictures, float32 [pictures, D].
        text: Likewise of the texts.
        folder: Of the graphs, `<precision>/image.onnx` and `text.onnx`; None if there are none.
    """

    pixels: NDArray[np.uint8]
    token_ids: NDArray[np.int32]
    image: NDArray[np.float32]
    text: NDArray[np.float32]
    folder: Path | None


def inputs_of(manifest: Manifest, root: Path) -> Inputs:
    """Read the inputs of a model from the folders in `root`, else take its golden pair."""
    wanted = (manifest["open_clip_name"], manifest["pretrained"])
    for path in sorted(root.glob(f"*/{DESCRIPTION}")):
        described = json.loads(path.read_text())
        if (described["open_clip_name"], described["pretrained"]) == wanted:
            with np.load(path.with_name(VECTORS)) as found:
                return Inputs(**found, folder=path.parent)
    golden, rules = manifest["golden"], manifest["tokenizer"]
    ids = np.full((1, rules["context_length"]), rules["pad_id"], np.int32)
    ids[0, : len(golden["token_ids"])] = golden["token_ids"]
    image, text = (np.array([golden[f"{n}_features"]], np.float32) for n in ("image", "text"))
    pixels = golden_pixels(manifest["preprocessing"]["image_size"])[None]
    return Inputs(pixels, ids, image, text, None)


def published(repository: Path, manifest: Manifest, inputs: Inputs) -> Iterator[Encoder]:
    """The image encoder and the text encoder at full length, as ONNX Runtime serves them."""
    for kind, model in (
        ("image", manifest["triton"]["image"]),
        ("text", manifest["triton"]["text"][-1]),
    ):
        path = repository / model["name"] / str(manifest["version"]) / "model.onnx"
        yield _encoder(manifest, inputs, kind, path, str(manifest["precision"]), packed(manifest))


def typed(manifest: Manifest, inputs: Inputs, precision: str) -> Iterator[Encoder]:
    """Both encoders as typed graphs for TensorRT; none if the inputs have no such graphs."""
    for kind in ("image", "text"):
        path = inputs.folder / precision / f"{kind}.onnx" if inputs.folder else None
        if path is not None and path.is_file():
            yield _encoder(manifest, inputs, kind, path, precision, joined=False)


def _encoder(
    manifest: Manifest, inputs: Inputs, kind: str, path: Path, precision: str, joined: bool
) -> Encoder:
    labels: dict[str, Label] = {
        "model": manifest["id"], "precision": precision, "encoder": kind,
    }  # fmt: skip
    context = manifest["tokenizer"]["context_length"]
    if kind == "image":
        size = manifest["preprocessing"]["image_size"]

        def batch(count: int) -> NDArray[Any]:
            return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)

        counted = flops(path, (1, size, size, 3))
        return Encoder(labels, path, inputs.pixels, inputs.image, batch, counted)

    def texts(count: int) -> NDArray[Any]:
        """Captions if text is packed, else rows of the full context length."""
        return batch_of(manifest, caption_lengths(context)[:count] if joined else [context] * count)

    counted = flops(path, (1, context))
    why = PACKED if joined else ""
    return Encoder(labels, path, inputs.token_ids, inputs.text, texts, counted, why)
