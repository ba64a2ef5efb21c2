"""Triton called straight over gRPC, with input that is ready: no gateway in between."""

import asyncio
import itertools
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from benchmarks.systems.published import DATATYPES, PIXELS, TOKEN_IDS, Manifest, packed
from benchmarks.traffic.captions import Captions, tokens
from benchmarks.traffic.connection import RequestFailed
from benchmarks.traffic.loops import Measurement, drive
from benchmarks.traffic.requests import Request

RAW = "triton"  # the protocol of these requests: an encoder's name and the bytes of its input
JOINED_LENGTH = 32  # tokens; nearly no caption is longer


class TritonConnection:
    """Sends raw input to an encoder; see `benchmarks.traffic.connection.Connection`."""

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
    """Pictures of noise for the image encoder, uint8 [1, S, S, 3]."""
    size = manifest["preprocessing"]["image_size"]
    noise = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)
    encoder = manifest["triton"]["image"]["name"]
    return itertools.cycle([Request(RAW, encoder, each.tobytes(), PIXELS) for each in noise])


def text_requests(manifest: Manifest, seed: int = 0) -> Iterator[Request]:
    """Token ids as long as our captions, int32 [1, length], each for the encoder that takes it.

    For a packed encoder they are padded to a multiple of `JOINED_LENGTH`: Triton runs requests of
    equal length together, and the encoder drops the padding.
    """
    texts = manifest["triton"]["text"]
    lengths = padded_lengths(manifest)
    for caption in Captions(seed):
        place = bisect_left(lengths, min(tokens(caption), lengths[-1]))
        ids = token_ids(manifest, tokens(caption), lengths[place])
        encoder = texts[0] if packed(manifest) else texts[place]
        yield Request(RAW, encoder["name"], ids.tobytes(), TOKEN_IDS)


def padded_lengths(manifest: Manifest) -> list[int]:
    """The lengths that `text_requests` pads to, rising to the full context."""
    lengths = [encoder["length"] for encoder in manifest["triton"]["text"]]
    shorter = range(JOINED_LENGTH, lengths[0], JOINED_LENGTH) if packed(manifest) else ()
    return [*shorter, *lengths]


def batch_of(
    manifest: Manifest, counts: Sequence[int], length: int | None = None
) -> NDArray[np.int32]:
    """`token_ids` of captions with these token counts, int32 [n, length]; length: the longest's."""
    length = length or max(counts)
    return np.stack([token_ids(manifest, count, length) for count in counts])


def token_ids(manifest: Manifest, count: int, length: int) -> NDArray[np.int32]:
    """Ids that stand for a caption of `count` tokens, int32 [length].

    Between start and end token is always the same word: encoders take as long for any.
    """
    known = manifest["golden"]["token_ids"]
    ids = np.full(length, manifest["tokenizer"]["pad_id"], np.int32)
    count = min(count, length)
    ids[:count] = known[1]
    ids[0], ids[count - 1] = known[0], known[-1]
    return ids
