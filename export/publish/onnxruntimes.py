"""`python -m export.publish.onnxruntimes`: tries models in this ONNX Runtime on golden vectors.

NVIDIA's images have ONNX Runtimes of many versions, and a graph may have an operator that an older
one cannot run. `make onnxruntimes` calls this program in each of them. It needs no PyTorch.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from gateway.models.manifest import Manifest, ManifestError, golden_pixels, read_repository


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each encoder; return 1 if one of them fails."""
    parser = argparse.ArgumentParser(
        prog="python -m export.publish.onnxruntimes", description=__doc__
    )
    parser.add_argument("--repository", type=Path, default=Path("model_repository"), metavar="DIR")
    root = parser.parse_args(arguments).repository
    try:
        manifests = read_repository(root)
    except ManifestError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    failed = False
    for manifest in manifests.values():
        if manifest.runtime != "onnxruntime":
            continue
        for name, feed, wanted in _encoders(manifest):
            problem = _problem(root / name / str(manifest.version), feed, wanted, manifest)
            failed = failed or bool(problem)
            print(f"ONNX Runtime {onnxruntime.__version__}: {name}: {problem or 'right'}")
    return int(failed)


def _encoders(manifest: Manifest) -> Iterator[tuple[str, NDArray[Any], tuple[float, ...]]]:
    """Each encoder's name in Triton, golden input [1, ...] and golden vector [D]."""
    golden = manifest.golden
    pixels = golden_pixels(manifest.preprocessing.image_size)
    yield manifest.triton.image.name, pixels[None], golden.image_features
    for text in manifest.triton.text:
        ids = np.array([golden.token_ids], dtype=np.int32)
        if not text.packed:
            missing = text.length - ids.shape[1]
            pad = manifest.tokenizer.pad_id
            ids = np.pad(ids, ((0, 0), (0, missing)), constant_values=pad)
        yield text.name, ids, golden.text_features


def _problem(folder: Path, feed: NDArray[Any], wanted: Sequence[float], manifest: Manifest) -> str:
    """The reason why an encoder cannot be used, or an empty string."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # the error gives the reason
    try:
        session = onnxruntime.InferenceSession(
            folder / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        [[vector]] = session.run(None, {session.get_inputs()[0].name: feed})
    except Exception as error:  # onnxruntime's errors share no narrower base class
        return " ".join(str(error).split())
    cosine = float(np.asarray(vector, dtype=np.float64) @ np.array(wanted))
    return (
        "" if cosine >= manifest.golden.min_cosine else f"cosine {cosine:.4f} to the golden vector"
    )


if __name__ == "__main__":
    sys.exit(main())
