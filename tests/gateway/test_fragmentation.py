"""What is freed goes back to the system: memory does not creep up as pictures of all sizes pass."""

import random
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from openclip_api.v1 import clip_pb2, clip_pb2_grpc
from server.launcher import TritonServer
from tests.conftest import COMMAND, Outside, run_gateway
from tests.gateway.proc import Memory
from tests.items import encoded

pytestmark = pytest.mark.slow

MIB = 2**20
KEPT, MOST = 72 * MIB, 180 * MIB  # above what is held when idle: after a round, and meanwhile
SMALL = 60_000  # bytes
COUNT, MESSAGE, ROUNDS = 100, 50, 8
FORMATS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("JPEG", {}, "RGB"), ("PNG", {}, "RGB"), ("WEBP", {"method": 0}, "RGB"), ("GIF", {}, "P"),
    ("PNG", {}, "P"), ("PNG", {}, "RGBA"), ("WEBP", {"lossless": True, "method": 0}, "RGBA"),
    ("TIFF", {"compression": "tiff_lzw"}, "RGB"), ("AVIF", {"speed": 10}, "RGB"), ("JPEG", {}, "L"),
)  # fmt: skip


def pictures() -> Iterator[bytes]:
    """Small files of pictures of a few squares, up to 1,200 pixels wide and high."""
    chance, generator, found = random.Random(1), np.random.default_rng(1), 0
    while found < COUNT:
        name, options, mode = chance.choice(FORMATS)
        few = chance.randint(2, 8), chance.randint(2, 8), 3
        squares = Image.fromarray(generator.integers(0, 256, few, dtype=np.uint8))
        size = chance.randint(200, 1_200), chance.randint(200, 1_200)
        image = squares.resize(size, Image.Resampling.NEAREST).convert(mode)
        data = encoded(image, name, **options)
        if len(data) < SMALL:
            found += 1
            yield data


def test_memory_does_not_creep(triton: TritonServer) -> None:
    items = [
        clip_pb2.StreamItem(id=str(number), item=clip_pb2.Item(image=data))
        for number, data in enumerate(pictures())
    ]
    messages = [
        clip_pb2.EmbedStreamRequest(items=items[start : start + MESSAGE])
        for start in range(0, COUNT, MESSAGE)
    ]
    with (
        run_gateway(
            Outside(command=COMMAND), triton_address=triton.addresses.grpc, decode_threads=8
        ) as api,
        grpc.insecure_channel(api.grpc_address) as channel,
    ):
        stub = clip_pb2_grpc.ClipServiceStub(channel)
        assert stub.Embed(clip_pb2.EmbedRequest(input=[clip_pb2.Item(text="a")])).results
        kept = []
        with Memory(api.process) as memory:
            for _ in range(ROUNDS):
                answers = [each for m in stub.EmbedStream(iter(messages)) for each in m.results]
                assert len(answers) == COUNT
                assert not [each.error for each in answers if each.HasField("error")]
                kept.append(Memory(api.process).idle - memory.idle)
    print([each // MIB for each in kept], memory.risen // MIB)
    assert max(kept) < KEPT
    assert memory.risen < MOST, f"{memory.risen // MIB} MiB"
