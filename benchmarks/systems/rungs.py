"""The rungs of the precision ladder: PyTorch and each published variant, timed in turns."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.systems.published import Manifest, size_bytes
from benchmarks.systems.served import Served, Times
from benchmarks.systems.variants import Target
from benchmarks.traffic.errors import BenchmarkError

BATCHES = (1, 8, 32)
ENCODERS = ("image", "text")


@dataclass(slots=True)
class Row:
    """One line of the table; the times of all rounds together."""

    name: str
    size_bytes: int = 0
    min_cosines: tuple[float, float] | None = None  # image, text
    zero_shot: float | None = None  # 0 to 1
    memory_bytes: list[int] = field(default_factory=list)  # one per round
    seconds: dict[str, Times] = field(default_factory=lambda: {encoder: {} for encoder in ENCODERS})

    def add(self, encoder: str, times: Times) -> None:
        """Adds the times of another round."""
        for batch, taken in times.items():
            self.seconds[encoder].setdefault(batch, []).extend(taken)

    def percentile(self, encoder: str, percent: float) -> float | None:
        """Of the latency at batch 1, in milliseconds."""
        taken = self.seconds[encoder].get(1)
        return float(np.percentile(taken, percent)) * 1000 if taken else None

    def per_second(self, encoder: str, batch: int) -> float | None:
        """Items per second when calls of this batch size follow one another."""
        taken = self.seconds[encoder].get(batch)
        return batch * len(taken) / sum(taken) if taken else None


def climb(
    target: Target,
    repository: Path,
    published: Sequence[Manifest],
    seconds: float,
    rounds: int = 2,
    batches: Sequence[int] = BATCHES,
) -> list[Row]:
    """Times PyTorch and each published variant, one after the other, for several rounds.

    Raises:
        BenchmarkError: One of the programs failed.
    """
    pytorch = Row("PyTorch FP32", zero_shot=_accuracy(published[0], "pytorch_accuracy"))
    rows = [pytorch, *(_row(repository, manifest) for manifest in published)]
    for turn in range(rounds):
        for row, manifest in zip(rows, (None, *published), strict=True):
            sys.stderr.write(f"round {turn + 1} of {rounds}: {row.name}\n")
            if manifest is None:
                _time_pytorch(row, target, seconds, batches)
            else:
                _time_served(row, repository, manifest, seconds, batches)
    return rows


def _row(repository: Path, manifest: Manifest) -> Row:
    gate = manifest["gate"]
    return Row(
        manifest["id"],
        size_bytes(repository, manifest),
        (gate["image"]["min_cosine"], gate["text"]["min_cosine"]),
        _accuracy(manifest, "accuracy"),
    )


def _accuracy(manifest: Manifest, name: str) -> float | None:
    zero_shot = manifest["gate"]["zero_shot"]
    return None if zero_shot is None else float(zero_shot[name])


def _time_pytorch(row: Row, target: Target, seconds: float, batches: Sequence[int]) -> None:
    options = ["--json", "--seconds", str(seconds), "--batches", *map(str, batches)]
    command = [sys.executable, "-m", "export.torch_row", *target.arguments, *options]
    # Spinning OpenMP threads make PyTorch many times slower wherever a core is busy otherwise.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    done = subprocess.run(  # noqa: S603 (ours)
        command, check=False, stdout=subprocess.PIPE, env=environment
    )
    if done.returncode:
        raise BenchmarkError(f"PyTorch cannot run {target.model}; see the message above")
    found: dict[str, Any] = json.loads(done.stdout)
    row.size_bytes = found["size_bytes"]
    row.memory_bytes.append(found["memory_bytes"])
    for encoder in ENCODERS:
        row.add(encoder, {int(batch): taken for batch, taken in found["seconds"][encoder].items()})


def _time_served(
    row: Row, repository: Path, manifest: Manifest, seconds: float, batches: Sequence[int]
) -> None:
    with Served(repository, manifest) as served:
        row.add("image", served.image_times(batches, seconds))
        row.add("text", served.text_times(batches, seconds))
        row.memory_bytes.append(served.memory())
