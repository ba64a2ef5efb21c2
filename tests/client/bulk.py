"""Streams many generated images, some of them bad, through the real stack, and counts.

python -m tests.client.bulk --count 50000 --bad 0.05
"""

import argparse
import io
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from openclip_triton import Client, InvalidRequest
from PIL import Image

from server.config import ServerConfig
from server.launcher import TritonServer
from tests.conftest import REPOSITORY, run_gateway
from tests.gateway.proc import Memory

MIB = 2**20


@dataclass(slots=True)
class Report:
    """What came of it."""

    count: int
    bad: int
    seconds: float = 0.0
    answers: Counter[int] = field(default_factory=Counter)  # by id
    failed: set[int] = field(default_factory=set)
    reordered: int = 0  # results that came before one of an earlier item
    before: int = 0  # MiB that the gateway had resident at the beginning
    peak: int = 0

    def wrong(self, bad: frozenset[int]) -> list[str]:
        """What is not as it must be."""
        problems = []
        if set(self.answers) != set(range(self.count)):
            problems.append(f"{self.count - len(self.answers)} ids were not answered")
        if set(self.answers.values()) - {1}:
            problems.append("ids were answered more than once")
        if self.failed != bad:
            problems.append(f"{len(self.failed ^ bad)} ids failed wrongly, or did not fail")
        return problems

    def __str__(self) -> str:
        return (
            f"{self.count:,} images, {self.bad:,} bad, in {self.seconds:.0f} s "
            f"({self.count / self.seconds:.0f}/s); {len(self.answers):,} ids answered, "
            f"{len(self.failed):,} failed, {self.reordered:,} out of order; gateway RSS "
            f"{self.before} MiB before, {self.peak} peak"
        )


def generate(folder: Path, count: int, bad: frozenset[int]) -> Iterator[tuple[int, Path]]:
    """Write one image after the other, each of its own noise."""
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number:07}.jpg"
        file = io.BytesIO()
        pixels = generator.integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((96, 72)).save(file, "JPEG")
        data = file.getvalue()
        path.write_bytes(data[: len(data) // 3] if number in bad else data)
        yield number, path


def choose_bad(count: int, share: float) -> frozenset[int]:
    """The numbers of the images that are to be bad."""
    return frozenset(random.Random(0).sample(range(count), round(count * share)))


def stream(address: str, gateway: int, items: list[tuple[int, Path]], bad: int) -> Report:
    """Streams the images, and watches the gateway's memory."""
    report = Report(len(items), bad)
    latest, begun = -1, time.monotonic()
    with Memory(gateway) as memory, Client(address) as client:
        for result in client.stream(items):
            report.answers[result.id] += 1
            report.reordered += result.id < latest
            latest = max(latest, result.id)
            if result.error is not None:
                if not isinstance(result.error, InvalidRequest):
                    raise result.error
                report.failed.add(result.id)
    report.seconds = time.monotonic() - begun
    report.before, report.peak = memory.idle // MIB, memory.most // MIB
    return report


def main() -> None:
    """Start the stack, and print the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.client.bulk", description=__doc__)
    parser.add_argument("--count", type=int, default=50_000, help="images")
    parser.add_argument("--bad", type=float, default=0.05, help="share of bad ones")
    arguments = parser.parse_args()
    bad = choose_bad(arguments.count, arguments.bad)
    triton = TritonServer(ServerConfig(REPOSITORY, grpc_port=0, metrics_port=0))
    with (
        tempfile.TemporaryDirectory() as folder,
        triton,
        run_gateway(triton_address=triton.addresses.grpc) as gateway,
    ):
        items = list(generate(Path(folder), arguments.count, bad))
        assert gateway.get("/readyz").is_success
        report = stream(gateway.grpc_address, gateway.process, items, len(bad))
    print(report)
    if problems := report.wrong(bad):
        sys.exit("; ".join(problems))


if __name__ == "__main__":
    main()
