"""`make gpu-check`: what a GPU machine does with this service, a verdict for each line.

Parts, each of which may be run alone: environment, encoders, plans, service. Their lines are
merged in DIR/gpu-check.benchmark.json and DIR/gpu-check.md.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks import program
from benchmarks.reporting.results import Label, Row
from benchmarks.systems import services
from benchmarks.systems.published import Manifest, manifests
from benchmarks.traffic.errors import BenchmarkError
from export.tensorrt.errors import PlanError
from export.tensorrt.plan import import_tensorrt
from gpu_check import environment, lines, plans, service
from gpu_check.cuda import Device
from gpu_check.engines import Measure
from gpu_check.lines import FAIL, NOT_HERE, line
from gpu_check.models import inputs_of, published
from gpu_check.sessions import NO_TF32, OnnxEngine, Runtime

BATCHES = (1, 8, 32, 128)
LIMIT_S = 2.0  # to measure the limit for
NO_CUDA = "no CUDA"
CACHE = "timing.cache"
ON_GPU = {"GATEWAY_TRITON_CALLS": "2"}  # so that a GPU does not wait for the gateway


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, print and write; return 1 if a line fails."""
    given = program.shortened(_parser().parse_args(arguments))
    given.repository = given.repository.resolve()
    found = manifests(given.repository)
    unknown = [model for model in given.model or () if model not in found]
    if unknown or not found:
        known = ", ".join(found) or "none"
        raise BenchmarkError(
            f"{given.repository}: no model {' '.join(unknown)}; there are: {known}"
        )
    chosen = {model: found[model] for model in given.model or found}
    rows = lines.kept(given.output, given.parts, list(chosen))
    runtime = Runtime()
    for part in given.parts:
        for row in PARTS[part](given, runtime, chosen):
            print(row, flush=True)
            rows.append(row)
            path = lines.write(given.output, rows, vars(given))
    failed = [row for row in rows if row.labels["verdict"] == FAIL]
    print(f"\nWritten to {path}; {len(failed)} of {len(rows)} lines fail")
    return 1 if failed else 0


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
    options = plans.options_of(given.batches, given.output / CACHE)
    for manifest in chosen.values():
        inputs = inputs_of(manifest, given.inputs)
        yield from plans.lines(manifest, inputs, measure, trt, device, options)


def _service(
    given: argparse.Namespace, runtime: Runtime, chosen: dict[str, Manifest]
) -> Iterator[Row]:
    settings = (ON_GPU if runtime.device == "cuda" else {}) | services.settings(given.env)
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
    made = program.parser("gpu_check", __doc__)
    made.prog = "python -m gpu_check"
    add = made.add_argument
    add("--repository", type=Path, default=Path("model_repository"), metavar="DIR",
        help="where the models are (default: model_repository)")  # fmt: skip
    add("--model", action="append", metavar="ID", help="only this one; may be repeated")
    add("--inputs", type=Path, default=Path("reports/gpu-inputs"), metavar="DIR",
        help="what make gpu-inputs wrote (default: reports/gpu-inputs)")  # fmt: skip
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
        help=f"of {', '.join(PARTS)} (default: all)")  # fmt: skip
    add("--batches", nargs="+", type=int, default=BATCHES, metavar="N",
        help="items in a call, and requests at a time (default: 1 8 32 128)")  # fmt: skip
    services.add_env(made)
    program.add_length(made, seconds=2.0)
    program.add_output(made, Path("reports/gpu-check"))
    return made


if __name__ == "__main__":
    sys.exit(program.run(main))
