"""The rungs of the precision ladder: PyTorch and each published variant, timed in turns."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpc

from benchmarks.systems import processes, services
from benchmarks.systems.encoders import repeat
from benchmarks.systems.published import (
    DATATYPES,
    PIXELS,
    TOKEN_IDS,
    Manifest,
    manifests,
    size_bytes,
    token_ids,
)
from benchmarks.traffic.errors import BenchmarkError

BATCHES = (1, 8, 32)
ENCODERS = ("image", "text")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
REFUSED = 2  # exit code of an export with a variant that failed its gate
CALL_TIMEOUT = 600.0  # seconds

Figures = dict[str, float]


def export(model: Sequence[str], repository: Path, words: Iterable[str]) -> list[Manifest]:
    """Export a model, and return the published manifests by precision.

    Args:
        model: MODEL and its options, for `python -m export`.
        repository: Where to publish.
        words: Further options.

    Raises:
        BenchmarkError: The export failed, or nothing passed its gate.
    """
    before = {(m["id"], m["version"]) for m in manifests(repository).values()}
    command = ["-m", "export", *model, "--repository", str(repository), *words]
    code = subprocess.run([sys.executable, *command], check=False).returncode  # noqa: S603 (ours)
    found = [m for m in manifests(repository).values() if (m["id"], m["version"]) not in before]
    if code not in (0, REFUSED):
        raise BenchmarkError(f"the export of {model[0]} failed; see its message above")
    if not found:
        raise BenchmarkError(f"no variant of {model[0]} was published; see the reasons above")
    return sorted(found, key=lambda m: (PRECISIONS.index(m["precision"]), m["id"]))


def pytorch(model: Sequence[str], seconds: float) -> Figures:
    """Time OpenCLIP in PyTorch, in a separate process.

    Raises:
        BenchmarkError: It failed.
    """
    options = ["--seconds", str(seconds), "--batches", *map(str, BATCHES)]
    command = [sys.executable, "-m", "export.report.torch_row", *model, *options]
    # Spinning OpenMP threads make PyTorch many times slower if another process uses a core.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, env=environment)  # noqa: S603 (ours)
    if done.returncode:
        raise BenchmarkError(f"PyTorch cannot run {model[0]}; see the message above")
    found: dict[str, Any] = json.loads(done.stdout)
    times = {
        (encoder, batch): found["seconds"][encoder][str(batch)]
        for encoder in ENCODERS
        for batch in BATCHES
    }
    return _figures(found["size_bytes"], times, found["memory_bytes"])


def served(repository: Path, manifest: Manifest, seconds: float) -> Figures:
    """Time a variant, served alone by a real Triton and called over gRPC.

    The picture is noise. Texts are as long as the context and no position is padding, since PyTorch
    always computes all of them. Batches over an encoder's limit are left out.

    Raises:
        BenchmarkError: Triton did not start, or cannot run it.
    """
    size, texts = manifest["preprocessing"]["image_size"], manifest["triton"]["text"][-1]
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    ids = token_ids(manifest, texts["length"], texts["length"])
    given = ((manifest["triton"]["image"], PIXELS, pixels), (texts, TOKEN_IDS, ids))
    times = {}
    with (
        services.triton(repository, manifest["id"]) as triton,
        grpc.InferenceServerClient(triton.grpc) as client,
    ):
        for name, (encoder, tensor, item) in zip(ENCODERS, given, strict=True):
            for batch in (n for n in BATCHES if n <= encoder["max_batch"]):
                items = np.repeat(item[None], batch, axis=0)
                fed = grpc.InferInput(tensor, items.shape, DATATYPES[items.dtype])
                fed.set_data_from_numpy(items)
                infer = partial(client.infer, encoder["name"], [fed], client_timeout=CALL_TIMEOUT)
                try:
                    times[name, batch] = repeat(infer, seconds)
                except grpc.InferenceServerException as error:
                    message = f"{encoder['name']}: Triton cannot run it: {error}"
                    raise BenchmarkError(message) from error
        return _figures(
            size_bytes(repository, manifest), times, processes.proportional_bytes(triton.pid)
        )


def _figures(size: int, times: dict[tuple[str, int], list[float]], memory: int) -> Figures:
    """The figures of a row; NaN for a batch that was left out."""
    found = {"size_mb": size / 1e6}
    for name in ENCODERS:
        p50, p99 = np.percentile(times[name, 1], [50, 99]) * 1000
        found |= {f"{name}_p50_ms": float(p50), f"{name}_p99_ms": float(p99)}
        for batch in BATCHES[1:]:
            taken = times.get((name, batch), [])
            rate = batch * len(taken) / sum(taken) if taken else float("nan")
            found[f"{name}s_per_second_at_{batch}"] = rate
    return {**found, "memory_mb": memory / 1e6}
