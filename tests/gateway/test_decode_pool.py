"""Images are decoded in processes: the same pixels, and a decoder that dies costs one image."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gateway.admission.limits import RequestLimits
from gateway.errors import ImageError, TooLarge
from gateway.images import heap
from gateway.images.pool import DecodePool, DecodePoolError
from gateway.images.preprocess import Decode, DecodeOptions, Decoder, ImageLimits, preprocess
from gateway.models.manifest import Preprocessing
from gateway.models.values import Deadline, Execution, ImageItem, Timings
from gateway.pipeline.concurrency import Threads
from gateway.pipeline.prepare import Preparer
from server.launcher import TritonServer
from tests.conftest import SAMPLES, run_gateway
from tests.gateway.hostile import hazards, mutations
from tests.gateway.proc import Memory, below
from tests.gateway.rpcserver import loaded
from tests.gateway.waiting import wait_until
from tests.items import RED_CIRCLE, encoded

GOOD = RED_CIRCLE
LIMITS = ImageLimits()
MIB = 2**20
RULES = Preprocessing(
    image_size=64, mean=(0, 0, 0), std=(1, 1, 1), resize_mode="shortest", interpolation="bicubic"
)
# A decoder that does what an image tells it to, and else decodes.
STAGED = """
import os, signal, sys, time
from gateway.images.pool_worker import main
from gateway.images.preprocess import Decoder

def make(limits, options):
    real = Decoder(limits, options)
    def decode(data, rules):
        if data == b"crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if data == b"leave":
            os._exit(3)
        if data == b"hang":
            time.sleep(600)
        if data == b"swallow":
            raise MemoryError(len(bytearray(8 << 30)))
        if data == b"nonsense":
            return [[1]]
        if data == b"write":
            os.write(os.memfd_create("leak"), bytes(9))
        return real(data, rules)
    return decode

sys.exit(main(make))
"""
COMMAND = (sys.executable, "-c", STAGED)
PATIENCE_S = 60.0  # of a pool whose deadline is not what is tested


@pytest.fixture(params=[PATIENCE_S])
def pool(request: pytest.FixtureRequest) -> Iterator[DecodePool]:
    pool = DecodePool(2, LIMITS, timeout_s=request.param, command=COMMAND)
    before = pool.processes()
    yield pool
    pool.close()
    for process in before:
        assert not Path(f"/proc/{process}").exists()


@pytest.mark.slow
def test_the_same_pixels_and_errors_as_in_a_thread() -> None:
    heap.pin()  # as every process does
    pool = DecodePool(2, LIMITS)
    try:
        for path in sorted(SAMPLES.glob("*.[jp][pn]g")):
            data = path.read_bytes()
            np.testing.assert_array_equal(pool(data, RULES), preprocess(data, RULES, LIMITS))
        for data in [*mutations(60, seed=3), *hazards().values()]:
            in_thread = outcome(Decoder(LIMITS), data)
            assert outcome(pool, data) == in_thread
    finally:
        pool.close()


def outcome(decode: Decode, data: bytes) -> tuple[str, bytes]:
    """The pixels, or what was raised; without the addresses of objects."""
    try:
        return "pixels", decode(data, RULES).tobytes()
    except (ImageError, TooLarge) as error:
        return type(error).__name__, error.message.split(" at 0x")[0].encode()


def test_options_reach_the_processes() -> None:
    coffee = (SAMPLES / "blue-star.jpg").read_bytes()
    options = DecodeOptions(exif_orientation=True, fast=True)
    pool = DecodePool(1, LIMITS, options)
    try:
        expected = Decoder(LIMITS, options)(coffee, RULES)
        np.testing.assert_array_equal(pool(coffee, RULES), expected)
    finally:
        pool.close()


@pytest.mark.parametrize(
    ("data", "says", "pool"),
    [
        (b"crash", f"died.*signal {signal.SIGSEGV}", PATIENCE_S),
        (b"leave", "died.*exit code 3", PATIENCE_S),
        (b"nonsense", "died", PATIENCE_S),
        (b"swallow", "died|cannot be decoded", PATIENCE_S),
        (b"write", "died|cannot be decoded", PATIENCE_S),
        (b"hang", "took over 4 s", 4.0),
    ],
    indirect=["pool"],
)
def test_a_decoder_that_dies_costs_its_image_and_is_replaced(
    pool: DecodePool, data: bytes, says: str
) -> None:
    with ThreadPoolExecutor(2) as threads:
        outcomes = [threads.submit(pool, each, RULES) for each in (data, GOOD, data, GOOD, GOOD)]
        for index in (0, 2):
            with pytest.raises(ImageError, match=says):
                outcomes[index].result(PATIENCE_S)
        for index in (1, 3, 4):
            np.testing.assert_array_equal(
                outcomes[index].result(PATIENCE_S), preprocess(GOOD, RULES, LIMITS)
            )
    assert all(Path(f"/proc/{process}").exists() for process in pool.processes())


def test_a_decoder_that_is_killed_while_idle_costs_one_image_at_most(pool: DecodePool) -> None:
    for process in pool.processes():
        os.kill(process, signal.SIGKILL)
    outcomes: list[object] = []
    for _ in range(4):
        try:
            outcomes.append(pool(GOOD, RULES).shape)
        except ImageError:
            outcomes.append(None)
    assert outcomes[2:] == [(64, 64, 3)] * 2


@pytest.mark.parametrize("pool", [1.0], indirect=True)
def test_a_decoder_that_no_longer_reads_is_replaced(pool: DecodePool) -> None:
    for process in pool.processes():
        os.kill(process, signal.SIGSTOP)
    for data in (GOOD, bytes(10 * MIB)):  # which the socket holds, and does not
        with pytest.raises(ImageError, match="took over 1 s"):
            pool(data, RULES)
    assert pool(GOOD, RULES).shape == (64, 64, 3)


def test_a_process_that_does_not_start() -> None:
    with pytest.raises(DecodePoolError):
        DecodePool(1, LIMITS, command=(sys.executable, "-c", "raise SystemExit(1)"))


async def test_only_the_item_that_killed_its_decoder_fails(pool: DecodePool) -> None:
    threads = Threads(2)
    preparer = Preparer(threads, RequestLimits(9, 9, 9, 9), pool)
    [model] = loaded().models
    items = [
        ImageItem(data, f"input[{i}]") for i, data in enumerate((GOOD, b"crash", GOOD, b"crash"))
    ]
    prepared = await preparer.prepare(
        model, items, Execution(Deadline.after(60), Timings()), truncate=True, skip=True
    )
    assert set(prepared.pixels) == {0, 2}
    assert {error.param for error in prepared.failed.values()} == {"input[1]", "input[3]"}
    with pytest.raises(ImageError) as raised:
        await preparer.prepare(
            model, items, Execution(Deadline.after(60), Timings()), truncate=True, skip=False
        )
    assert raised.value.param in {"input[1]", "input[3]"}
    assert "its decoder died" in raised.value.message
    await threads.close()


def test_a_gateway_with_processes_serves_and_leaves_none_behind(triton: TritonServer) -> None:
    with run_gateway(triton_address=triton.addresses.grpc, decode_processes=2) as client:
        decoders = below(os.getpid(), "gateway.images.pool_worker")
        assert len(decoders) == 2
        assert client.post("/v1/embeddings/image", content=GOOD).status_code == 200
        with Memory(*decoders) as memory:
            for data in mutations(100, seed=4):
                status = client.post("/v1/embeddings/image", content=data).status_code
                assert status in {200, 400, 413}
        assert memory.risen < 100 * MIB
        os.kill(decoders[0], signal.SIGKILL)
        statuses = {client.post("/v1/embeddings/image", content=GOOD).status_code for _ in range(6)}
        assert statuses <= {200, 400}
        assert client.post("/v1/embeddings/image", content=GOOD).status_code == 200
    wait_until(lambda: not below(os.getpid(), "gateway.images.pool_worker"), "decoders are left")


async def test_threads_wait_their_turn_for_memory() -> None:
    limits = ImageLimits(max_decode_bytes=64 * 48 * 4)
    decoder = Decoder(limits)
    threads = Threads(4)
    data = (SAMPLES / "green-circle.jpg").read_bytes()
    small = await asyncio.gather(*(threads.run(decoder, tiny(), RULES) for _ in range(20)))
    assert all(pixels.shape == (64, 64, 3) for pixels in small)
    with pytest.raises(TooLarge, match="GATEWAY_MAX_DECODE_BYTES"):
        await threads.run(decoder, data, RULES)
    await threads.close()


def tiny() -> bytes:
    return encoded(Image.new("RGB", (64, 48), "green"), "PNG")
