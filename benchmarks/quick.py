"""`python -m benchmarks.quick`: latency and throughput of a running service, as a Markdown table.

A closed loop: so many clients, each sending its next request when the last is answered. The
clients share the machine with the service, so the figures are below what it could do alone.
"""

import argparse
import asyncio
import base64
import itertools
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

SAMPLES = Path(__file__).parent.parent / "docs" / "samples"
CONCURRENCY = (1, 8, 32)
COLOURS = ("red", "blue", "green", "yellow", "orange", "purple", "pink", "black")
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")


@dataclass(frozen=True, slots=True)
class Workload:
    """A kind of request, with different bodies in turn."""

    name: str
    path: str
    bodies: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one workload did at one concurrency."""

    workload: str
    concurrency: int
    per_second: float
    p50_ms: float
    p99_ms: float
    errors: int


def workloads() -> tuple[Workload, ...]:
    """One text, one image, and one image with 48 labels, per request."""
    images = [
        f"data:image/{path.suffix[1:]};base64," + base64.b64encode(path.read_bytes()).decode()
        for path in sorted(SAMPLES.iterdir())
    ]
    labels = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    texts = [f"a photo of a {label}." for label in labels]
    return (
        Workload("text", "/v1/embeddings", tuple({"input": text} for text in texts)),
        Workload("image", "/v1/embeddings", tuple({"input": image} for image in images)),
        Workload(
            "zero-shot, 48 labels",
            "/v1/zero-shot",
            tuple({"image": image, "labels": labels, "top_k": 5} for image in images),
        ),
    )


async def measure(
    client: httpx.AsyncClient, workload: Workload, concurrency: int, seconds: float
) -> Measurement:
    """Runs one closed loop for so many seconds, after a short warm-up."""
    bodies = itertools.cycle(workload.bodies)
    await _loop(client, workload.path, bodies, concurrency, min(1.0, seconds / 4))
    start = time.perf_counter()
    latencies, errors = await _loop(client, workload.path, bodies, concurrency, seconds)
    elapsed = time.perf_counter() - start
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000 if latencies else (np.nan, np.nan)
    return Measurement(
        workload.name, concurrency, len(latencies) / elapsed, float(p50), float(p99), errors
    )


async def _loop(
    client: httpx.AsyncClient,
    path: str,
    bodies: Iterator[dict[str, Any]],
    concurrency: int,
    seconds: float,
) -> tuple[list[float], int]:
    latencies: list[float] = []
    errors = 0
    end = time.perf_counter() + seconds

    async def worker() -> None:
        nonlocal errors
        while (start := time.perf_counter()) < end:
            response = await client.post(path, json=next(bodies))
            if response.status_code == httpx.codes.OK:
                latencies.append(time.perf_counter() - start)
            else:
                errors += 1

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return latencies, errors


async def run(url: str, seconds: float) -> list[Measurement]:
    """Every workload at every concurrency."""
    limits = httpx.Limits(max_connections=max(CONCURRENCY))
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        return [
            await measure(client, workload, concurrency, seconds)
            for workload in workloads()
            for concurrency in CONCURRENCY
        ]


def table(measurements: Sequence[Measurement]) -> str:
    """A Markdown table, one row per measurement."""
    rows = [
        "| request | clients | requests/s | p50 ms | p99 ms | errors |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    rows += [
        f"| {m.workload} | {m.concurrency} | {m.per_second:.0f} | {m.p50_ms:.1f} | "
        f"{m.p99_ms:.1f} | {m.errors} |"
        for m in measurements
    ]
    return "\n".join(rows)


def hardware() -> str:
    """The machine that this runs on, in a line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.machine()
    return f"{name}, {os.cpu_count()} cores, no GPU used; Python {platform.python_version()}"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="where the service listens")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    arguments = parser.parse_args()
    measurements = asyncio.run(run(arguments.url, arguments.seconds))
    print(f"{hardware()}\n\n{table(measurements)}")


if __name__ == "__main__":
    main()
