"""A model's encoders alone in ONNX Runtime."""

import itertools
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.systems.decoding import cores
from benchmarks.systems.published import PIXELS, TOKEN_IDS, Manifest, batch_of
from benchmarks.traffic.captions import Captions, tokens

MIN_CALLS = 3  # timed at least, however slow
CAPTIONS = 2_000  # drawn to count their tokens


class Encoders:
    """Both encoders of a model, each with all cores of this process."""

    def __init__(self, repository: Path, manifest: Manifest) -> None:
        self._repository = repository
        self._manifest = manifest
        self._sessions: dict[int, Any] = {}  # by inode: encoders may share a file

    def image(self, batch: int, seconds: float) -> Sequence[float]:
        """Seconds of each call of the image encoder on a batch."""
        size = self._manifest["preprocessing"]["image_size"]
        pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
        return self._times(self._manifest["triton"]["image"], PIXELS, [pixels], seconds)

    def vectors(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Unit vectors, float32 [n, D], of uint8 [n, S, S, 3]."""
        session = self._session(self._manifest["triton"]["image"])
        [found] = session.run(None, {PIXELS: pixels})
        return np.asarray(found, np.float32)

    def text(self, encoder: dict[str, Any], batch: int, seconds: float) -> Sequence[float]:
        """Seconds of each call of a text encoder on a batch of its length."""
        ids = batch_of(self._manifest, [encoder["length"]] * batch)
        return self._times(encoder, TOKEN_IDS, [ids], seconds)

    def captions(self, encoder: dict[str, Any], batch: int, seconds: float) -> Sequence[float]:
        """Seconds of each call of a packed encoder on a batch of unpadded captions."""
        drawn = caption_lengths(encoder["length"])
        starts = range(0, len(drawn) - batch + 1, batch)
        ids = [batch_of(self._manifest, drawn[start : start + batch]) for start in starts]
        return self._times(encoder, TOKEN_IDS, ids, seconds)

    def _times(
        self, encoder: dict[str, Any], name: str, batches: Iterable[NDArray[Any]], seconds: float
    ) -> Sequence[float]:
        session, given = self._session(encoder), itertools.cycle(batches)
        return repeat(lambda: session.run(None, {name: next(given)}), seconds)

    def _session(self, encoder: dict[str, Any]) -> Any:  # noqa: ANN401 (onnxruntime is untyped)
        path = self._repository / encoder["name"] / str(self._manifest["version"]) / "model.onnx"
        inode = path.stat().st_ino
        if inode not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = cores()
            providers = ["CPUExecutionProvider"]
            self._sessions[inode] = onnxruntime.InferenceSession(path, options, providers)
        return self._sessions[inode]


def caption_lengths(most: int) -> list[int]:
    """Token counts of the captions, cut to a model's context length."""
    return [min(tokens(caption), most) for caption in Captions().take(CAPTIONS)]


def shares(manifest: Manifest) -> dict[int, float]:
    """The share of captions that goes to the text encoder of each length, by length."""
    lengths = [encoder["length"] for encoder in manifest["triton"]["text"]]
    drawn = caption_lengths(lengths[-1])
    counts = Counter(lengths[bisect_left(lengths, length)] for length in drawn)
    return {length: counts[length] / len(drawn) for length in lengths}


def repeat(call: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each of the calls that fit into `seconds`, after a warm-up call."""
    call()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < MIN_CALLS or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return taken
