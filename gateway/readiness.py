"""Whether the gateway can give right answers: a golden vector through every tower."""

import asyncio
import time

import numpy as np

from gateway.classifiers import Classifiers
from gateway.errors import GatewayError
from gateway.manifest import Manifest, golden_pixels
from gateway.models import Models
from gateway.text import padded
from gateway.towers import image_tower, text_tower
from gateway.triton import Call, InferClient

FRESH_S = 1.0  # how long one check speaks for those that ask after it
TIMEOUT_S = 5.0


class Readiness:
    """Checks every tower of every model; those that ask at the same time share one check."""

    def __init__(self, models: Models, client: InferClient, classifiers: Classifiers) -> None:
        self._manifests = [model.manifest for model in models]
        self._client = client
        self._classifiers = classifiers
        self._lock = asyncio.Lock()
        self._checked = -FRESH_S
        self._problems: list[str] = []

    async def problems(self) -> list[str]:
        """What stands in the way, one line per tower or label set; empty when ready."""
        async with self._lock:
            if time.monotonic() - self._checked > FRESH_S:
                towers = [tower for manifest in self._manifests for tower in _towers(manifest)]
                found = await asyncio.gather(*(self._problem(*tower) for tower in towers))
                self._problems = [problem for problem in found if problem]
                self._checked = time.monotonic()
            return self._problems + self._classifiers.waiting()

    async def _problem(self, manifest: Manifest, call: Call, wanted: tuple[float, ...]) -> str:
        try:
            [vector] = await self._client.infer(call, TIMEOUT_S)
        except GatewayError as error:
            return f"{call.tower.model}: {error.message}"
        cosine = float(vector.astype(np.float64) @ np.array(wanted))
        if cosine >= manifest.golden.min_cosine:
            return ""
        return f"{call.tower.model}: its golden vector has cosine {cosine:.4f} to the published one"


def _towers(manifest: Manifest) -> list[tuple[Manifest, Call, tuple[float, ...]]]:
    golden = manifest.golden
    pixels = golden_pixels(manifest.preprocessing.image_size)
    ids = np.array(golden.token_ids, dtype=np.int32)
    pad_id = manifest.tokenizer.pad_id
    texts = [
        Call(text_tower(manifest, tower), padded(ids, tower.length, pad_id)[None])
        for tower in manifest.triton.text
    ]
    return [
        (manifest, Call(image_tower(manifest), pixels[None]), golden.image_features),
        *((manifest, call, golden.text_features) for call in texts),
    ]
