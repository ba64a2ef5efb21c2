"""A fake service for staged faults, a real one for the rest, and the command."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import pytest
from openclip_triton import Client, StreamSettings
from PIL import Image

from tests.client.fake import Fake, serving
from tests.conftest import ROOT, GatewayClient, interruptible
from tests.forking import Fork

FAST = StreamSettings(backoff_s=0.01, max_backoff_s=0.02)

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def address(fake: Fake) -> Iterator[str]:
    with serving(fake) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address, timeout=20) as client:
        yield client


@pytest.fixture(scope="session")
def real_address(api: GatewayClient) -> str:
    """The gRPC address of a gateway before the real Triton."""
    return api.grpc_address


@pytest.fixture(scope="session")
def real(real_address: str) -> Iterator[Client]:
    with Client(real_address) as client:
        yield client


def environment(address: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT / "client"), str(ROOT)])
    return os.environ | {"PYTHONPATH": path, "OPENCLIP_TRITON_SERVER": address}


def start(address: str, *arguments: object) -> "subprocess.Popen[str]":
    """The command, running; Ctrl-C reaches it even where this process takes no notice of it."""
    return subprocess.Popen(
        [*interruptible("openclip_triton"), *map(str, arguments)],
        env=environment(address), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def command(
    address: str, *arguments: object, typed: str = "", cwd: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """The command, run to its end."""
    given = [str(argument) for argument in arguments]
    with ExitStack() as stack:
        files = [stack.enter_context(TemporaryFile("w+", encoding="utf-8")) for _ in range(3)]
        files[0].write(typed)
        for file in files:
            file.seek(0)
        ran = Fork(
            "openclip_triton", *given,
            environment=environment(address), cwd=cwd or ROOT,
            streams=[file.fileno() for file in files],
        )  # fmt: skip
        code = ran.wait(120)
        for file in files:
            file.seek(0)
        return subprocess.CompletedProcess(given, code, files[1].read(), files[2].read())


def draw(folder: Path, count: int, *, bad: frozenset[int] = frozenset()) -> list[Path]:
    """Small pictures, each of its own noise; the bad ones are no pictures at all."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(count)
    paths = [folder / f"{number:05}.png" for number in range(count)]
    for number, path in enumerate(paths):
        if number in bad:
            path.write_bytes(b"bad picture %d" % number)
        else:
            pixels = generator.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).resize((64, 64)).save(path, compress_level=1)
    return paths
