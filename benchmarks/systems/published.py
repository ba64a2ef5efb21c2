"""The published models of a model repository, read from their manifests."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.traffic.errors import BenchmarkError

PIXELS, TOKEN_IDS = "pixels", "token_ids"  # input names of the Triton models
DATATYPES = {np.dtype(np.uint8): "UINT8", np.dtype(np.int32): "INT32"}
SUFFIX = ".manifest.json"
CONFIG = "config.pbtxt"

Manifest = dict[str, Any]  # as JSON


def manifests(repository: Path) -> dict[str, Manifest]:
    """The manifests of a model repository, by model id."""
    found = [json.loads(path.read_text()) for path in sorted(repository.glob(f"*{SUFFIX}"))]
    return {manifest["id"]: manifest for manifest in found}


def find(repository: Path, model: str | None) -> Manifest:
    """The manifest of a model; without a name, of the only one.

    Raises:
        BenchmarkError: There is no such model, or none or several to choose from.
    """
    found = manifests(repository)
    if model is None and len(found) == 1:
        return next(iter(found.values()))
    if model is None or model not in found:
        known = ", ".join(found) or "none"
        raise BenchmarkError(f"{repository}: choose a model with --model; there are: {known}")
    return found[model]


def on_onnx_runtime(manifest: Manifest) -> Manifest:
    """Return the manifest if ONNX Runtime serves its model.

    Raises:
        BenchmarkError: Another runtime serves the model.
    """
    if manifest["runtime"] != "onnxruntime":
        raise BenchmarkError(
            f"{manifest['id']}: this needs a model that ONNX Runtime serves; "
            f"its runtime is {manifest['runtime']}"
        )
    return manifest


def encoders(manifest: Manifest) -> list[dict[str, Any]]:
    """The Triton models behind a model, the image encoder first."""
    return [manifest["triton"]["image"], *manifest["triton"]["text"]]


def packed(manifest: Manifest) -> bool:
    """Whether one text encoder takes captions of any length and drops their padding."""
    return bool(manifest["triton"]["text"][0].get("packed", False))


def batch_of(
    manifest: Manifest, counts: Sequence[int], length: int | None = None
) -> NDArray[np.int32]:
    """`token_ids` of captions with these token counts, int32 [n, length]; length: the longest's."""
    length = length or max(counts)
    return np.stack([token_ids(manifest, count, length) for count in counts])


def token_ids(manifest: Manifest, count: int, length: int) -> NDArray[np.int32]:
    """Ids that stand for a caption of `count` tokens, int32 [length].

    All words are the same: encoders take equally long for any.
    """
    known = manifest["golden"]["token_ids"]
    ids = np.full(length, manifest["tokenizer"]["pad_id"], np.int32)
    count = min(count, length)
    ids[:count] = known[1]
    ids[0], ids[count - 1] = known[0], known[-1]
    return ids


def size_bytes(repository: Path, manifest: Manifest) -> int:
    """Size of the encoders' files; a file that encoders share by hard links counts once."""
    every = [_files(repository / encoder["name"], manifest) for encoder in encoders(manifest)]
    stats = [file.stat() for files in every for file in files]
    return sum({(stat.st_dev, stat.st_ino): stat.st_size for stat in stats}.values())


def weights_bytes(repository: Path, manifest: Manifest) -> int:
    """Size of all encoders' files, each encoder counted in full, times its instances."""
    return sum(
        sum(file.stat().st_size for file in _files(repository / encoder["name"], manifest))
        * _instances(repository / encoder["name"])
        for encoder in encoders(manifest)
    )


def _files(folder: Path, manifest: Manifest) -> Iterable[Path]:
    """The files that Triton loads: of a TensorRT model the plan, not its graph."""
    loaded = "*.plan" if manifest["runtime"] == "tensorrt" else "*"
    return [file for file in (folder / str(manifest["version"])).rglob(loaded) if file.is_file()]


def _instances(folder: Path) -> int:
    counts = [int(count) for count in re.findall(r"count:\s*(\d+)", (folder / CONFIG).read_text())]
    return sum(counts or [1])
