"""Measures an encoder in any engine: parity with PyTorch, speed, memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.reporting.results import Label, Row
from benchmarks.systems.encoders import repeat
from export.gate.metrics import bad_vectors, row_cosines
from export.gate.thresholds import DEFAULT_THRESHOLDS
from gpu_check.lines import FAIL, NOT_HERE, PASS, line

PARITY_BATCH = 8
SAME = 0.99999  # cosine of a CUDA graph's vectors to those without it
MB = 1e6

Vectors = NDArray[np.float32]  # [n, D]
Run = Callable[[], None]  # encodes the bound batch, and waits for the end
Bound = tuple[Run, Callable[[], Vectors]]  # and reads the result


class EngineError(Exception):
    """An engine cannot run an encoder; the message says why."""


class Engine(Protocol):
    """An encoder in some runtime."""

    def bind(self, items: NDArray[Any], *, graph: bool) -> Bound:
        """Put a batch [n, ...] into the device's memory, replacing the previous one.

        With `graph` it runs as a CUDA graph.
        """


@dataclass(frozen=True, slots=True)
class Encoder:
    """An encoder with the data for its measurement.

    Attributes:
        labels: Its model, precision and kind, for the output lines.
        path: File of its graph.
        items: Reference inputs [m, ...].
        truth: PyTorch's vectors of them, [m, D].
        batch: Makes a batch of n items to time.
        flops: Operations for an item, or None if they depend on it.
        ungraphed: Why it cannot run as a CUDA graph; empty if it can.
    """

    labels: dict[str, Label]
    path: Path
    items: NDArray[Any]
    truth: Vectors
    batch: Callable[[int], NDArray[Any]]
    flops: int | None
    ungraphed: str = ""


@dataclass(frozen=True, slots=True)
class Measure:
    """Options of the measurement of encoders.

    Attributes:
        part: For the output lines.
        batches: Numbers of items in a call.
        seconds: Length of each measurement.
        limit: Operations per second that the device can do.
        used_bytes: The memory in use.
        ungraphed: Why no encoder can run as a CUDA graph; empty if they can.
    """

    part: str
    batches: Sequence[int]
    seconds: float
    limit: float
    used_bytes: Callable[[], int]
    ungraphed: str = ""

    def lines(self, name: str, encoder: Encoder, make: Callable[[], Engine]) -> Iterator[Row]:
        """Measure an encoder in an engine: parity first, then each batch size."""
        before = self.used_bytes()
        labels: dict[str, Label] = {**encoder.labels, "engine": name}
        try:
            engine = make()
            yield self._parity(labels, encoder, engine)
        except Exception as error:  # engines' errors share no base
            yield line(self.part, labels, FAIL, error)
            return
        ungraphed = self.ungraphed or encoder.ungraphed
        for size in self.batches:
            items, plain = encoder.batch(size), None
            for graph in (False, True):
                graphed = "yes" if graph else "no"
                what: dict[str, Label] = {**labels, "batch": size, "CUDA graph": graphed}
                if graph and ungraphed:
                    yield line(self.part, what, NOT_HERE, ungraphed)
                    continue
                try:
                    run, vectors = engine.bind(items, graph=graph)
                    taken = repeat(run, self.seconds)
                    found = vectors()
                except Exception as error:  # as above
                    yield line(self.part, what, FAIL, error)
                    continue
                plain = found if plain is None else plain
                lowest = float(row_cosines(found, plain).min())
                why = "" if lowest >= SAME else f"cosine {lowest:.6f} to the run without a graph"
                rate = size * len(taken) / sum(taken)
                figures = {"per_second": rate, "p50_ms": float(np.median(taken)) * 1000}
                if encoder.flops is not None:
                    figures["percent_of_limit"] = 100 * rate * encoder.flops / self.limit
                figures["memory_mb"] = (self.used_bytes() - before) / MB
                yield line(self.part, what, FAIL if why else PASS, why, **figures)

    def _parity(self, labels: dict[str, Label], encoder: Encoder, engine: Engine) -> Row:
        count = len(encoder.items)
        rows = np.resize(np.arange(count), -(-count // PARITY_BATCH) * PARITY_BATCH)
        parts = []
        for part in rows.reshape(-1, PARITY_BATCH):
            run, vectors = engine.bind(encoder.items[part], graph=False)
            run()
            parts.append(vectors())
        found = np.concatenate(parts)[:count]
        cosines = row_cosines(found, encoder.truth)
        limits = DEFAULT_THRESHOLDS[str(labels["precision"])]
        lowest, mean = float(cosines.min()), float(cosines.mean())
        why = [f"{bad} vectors are not of length 1"] if (bad := bad_vectors(found)) else []
        if limits.min_cosine is not None and lowest < limits.min_cosine:
            why.append(f"the lowest cosine is below {limits.min_cosine}")
        if limits.mean_cosine is not None and mean < limits.mean_cosine:
            why.append(f"the mean cosine is below {limits.mean_cosine}")
        figures = {"items": count, "min_cosine": lowest, "mean_cosine": mean}
        return line(self.part, labels, FAIL if why else PASS, "; ".join(why), **figures)
