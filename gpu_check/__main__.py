"""`make gpu-check`: checks this service on a GPU machine, with a verdict on each line.

Each part can run alone: environment, encoders, plans, service. Their lines are merged in
DIR/gpu-check.benchmark.json and DIR/gpu-check.md.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks import program
from benchmarks.reporting.page import record
from benchmarks.reporting.results import Label, Row
from benchmarks.systems.published import Manifest, find, manifests
from benchmarks.traffic.errors import BenchmarkError
from export.tensorrt.errors import PlanError
from export.tensorrt.plan import import_tensorrt
from gpu_check import environment, lines, plans, service
from gpu_check.cuda import Device
from gpu_check.engines import Measure
from gpu_check.lines import FAIL, NOT_HERE, line
from gpu_check.models import inputs_of, published
from gpu_check.sessions import NO_TF32, OnnxEngine, Runtime

LIMIT_S = 2.0  # spent on measuring the limit
NO_CUDA = "no CUDA"
CACHE = "timing.cache"
ON_GPU = {"GATEWAY_TRITON_CALLS": "2"}  # so that a GPU does not wait for the gateway


def main(arguments: list[str] | None = None) -> int:
    """Check, print and write; return 1 if a line fails."""
    given = program.parsed(_parser(), arguments)
    found = manifests(given.repository)
    chosen = {given.model: find(given.repository, given.model)} if given.model else found
    if not chosen:
        raise BenchmarkError(f"{given.repository}: there is no model")
    before = lines.kept(given.output, given.parts, list(chosen))
    runtime = Runtime()
    made = (row for part in given.parts for row in PARTS[part](given, runtime, chosen))
    rows = record(
        lines.NAME, None, given, made, lambda rows: lines.in_order([*before, *rows]),
        text=lines.page,
    )  # fmt: skip
    return int(any(row.labels["verdict"] == FAIL for row in rows))


def _environment(_: argparse.Namespace, runtime: Runtime, __: dict[str, Manifest]) -> Iterator[Row]:
    return environment.lines(runtime)


def _encoders(
    given: argparse.Namespace, runtime: Runtime, chosen: dict[str, Manifest]
) -> Iterator[Row]:
    measure = _measure("encoders", given, runtime)
    for model, manifest in chosen.items():
        if runtime.missing:
            wanted: dict[str, Label] = {"model": model, "engine": "ONNX Runtime CUDA"}
            yield line("encoders", wanted, NOT_HERE, runtime.missing)
        if manifest["runtime"] != "onnxruntime":
            why = f"its runtime is {manifest['runtime']}"
            yield line("encoders", {"model": model}, NOT_HERE, why)
            continue
        forms: dict[str, dict[str, str]] = {runtime.name: {}}
        if manifest["precision"] == "fp32" and runtime.device == "cuda":
            forms[f"{runtime.name} without TF32"] = NO_TF32
        for encoder in published(given.repository, manifest, inputs_of(manifest, given.inputs)):
            size = manifest["embedding_size"]
            for name, options in forms.items():
                make = partial(OnnxEngine, runtime, encoder.path, size, options)
                yield from measure.lines(name, encoder, make)


def _plans(
    given: argparse.Namespace, runtime: Runtime, chosen: dict[str, Manifest]
) -> Iterator[Row]:
    try:
        trt, device = import_tensorrt(), Device()
    except PlanError as error:
        for model in chosen:
            yield line("plans", {"model": model, "engine": "TensorRT"}, NOT_HERE, error)
        return
    measure = replace(_measure("plans", given, runtime), used_bytes=device.used_bytes, ungraphed="")
    for manifest in chosen.values():
        inputs = inputs_of(manifest, given.inputs)
        yield from plans.lines(manifest, inputs, measure, trt, device, given.output / CACHE)


def _service(
    given: argparse.Namespace, runtime: Runtime, chosen: dict[str, Manifest]
) -> Iterator[Row]:
    settings = (ON_GPU if runtime.device == "cuda" else {}) | given.env
    for model, manifest in chosen.items():
        try:
            yield from service.lines(
                given.repository, manifest, runtime, given.batches, given.seconds, settings
            )
        except BenchmarkError as error:
            yield line("service", {"model": model, "request": "start"}, FAIL, error)


PARTS: dict[str, Callable[..., Iterator[Row]]] = {
    "environment": _environment, "encoders": _encoders, "plans": _plans, "service": _service,
}  # fmt: skip


def _measure(part: str, given: argparse.Namespace, runtime: Runtime) -> Measure:
    limit = runtime.limit(min(LIMIT_S, given.seconds))
    why = NO_CUDA if runtime.missing else ""
    return Measure(part, given.batches, given.seconds, limit, runtime.used_bytes, why)


def _parser() -> argparse.ArgumentParser:
    made = program.measuring(
        "gpu_check", __doc__, seconds=2.0, env=True, output=Path("reports/gpu-check")
    )
    made.prog = "python -m gpu_check"
    add = made.add_argument
    add("--inputs", type=Path, default=Path("reports/gpu-inputs"), metavar="DIR",
        help="folder from make gpu-inputs (default: reports/gpu-inputs)")  # fmt: skip
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
        help=f"of {', '.join(PARTS)} (default: all)")  # fmt: skip
    add("--batches", nargs="+", type=int, default=(1, 8, 32, 128), metavar="N",
        help="items per call, and concurrent requests (default: 1 8 32 128)")  # fmt: skip
    return made


if __name__ == "__main__":
    sys.exit(program.run(main))
