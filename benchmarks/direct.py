"""Triton called straight over gRPC, with input that is ready: no gateway in between."""

import asyncio
import itertools
from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from benchmarks.captions import Captions, tokens
from benchmarks.connection import RequestFailed
from benchmarks.loops import Measurement, drive
from benchmarks.published import DATATYPES, PIXELS, TOKEN_IDS, Manifest
from benchmarks.traffic import Request

RAW = "triton"  # the protocol of these requests: a tower's name and the bytes of its input


class TritonConnection:
    """Sends raw input to a tower; see `benchmarks.connection.Connection`."""

    def __init__(self, client: Any, manifest: Manifest) -> None:  # noqa: ANN401 (untyped)
        self._client = client
        self._version = str(manifest["version"])

    async def send(self, request: Request) -> bytes:
        """As `Connection.send`; the answer stays with Triton's client."""
        name = request.content_type
        kind = np.dtype(np.uint8 if name == PIXELS else np.int32)
        array = np.frombuffer(request.body, kind)
        size = round((len(array) / 3) ** 0.5)
        shape = (1, size, size, 3) if name == PIXELS else (1, len(array))
        given = triton.InferInput(name, list(shape), DATATYPES[kind])
        given.set_data_from_numpy(array.reshape(shape))
        try:
            await self._client.infer(request.path, [given], model_version=self._version)
        except InferenceServerException as error:
            raise RequestFailed(f"Triton: {error}") from error
        return b""

    async def close(self) -> None:
        """Nothing; the client is shared."""


def measure_triton(
    address: str, manifest: Manifest, kind: str, concurrency: int, seconds: float
) -> Measurement:
    """A closed loop of single images (`image`), or captions of the mix (`text`)."""

    async def run() -> Measurement:
        client = triton.InferenceServerClient(address)
        try:
            stream = image_requests(manifest) if kind == "image" else text_requests(manifest)
            return await drive(
                stream, lambda _: TritonConnection(client, manifest), concurrency, seconds
            )
        finally:
            await client.close()

    return asyncio.run(run())


def image_requests(manifest: Manifest) -> Iterator[Request]:
    """Pictures of noise for the image tower, uint8 [1, S, S, 3]."""
    size = manifest["preprocessing"]["image_size"]
    noise = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)
    tower = manifest["triton"]["image"]["name"]
    return itertools.cycle([Request(RAW, tower, each.tobytes(), PIXELS) for each in noise])


def text_requests(manifest: Manifest, seed: int = 0) -> Iterator[Request]:
    """Token ids as long as our captions, int32 [1, length], each for the tower that takes it."""
    texts = manifest["triton"]["text"]
    lengths = [tower["length"] for tower in texts]
    for caption in Captions(seed):
        tower = texts[bisect_left(lengths, min(tokens(caption), lengths[-1]))]
        ids = token_ids(manifest, tokens(caption), tower["length"])
        yield Request(RAW, tower["name"], ids.tobytes(), TOKEN_IDS)


def token_ids(manifest: Manifest, count: int, length: int) -> NDArray[np.int32]:
    """Ids that stand for a caption of so many tokens, int32 [length].

    Between start and end token is always the same word: encoders take as long for any.
    """
    known = manifest["golden"]["token_ids"]
    ids = np.full(length, manifest["tokenizer"]["pad_id"], np.int32)
    count = min(count, length)
    ids[:count] = known[1]
    ids[0], ids[count - 1] = known[0], known[-1]
    return ids
