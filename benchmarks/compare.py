"""`python -m benchmarks.compare`: compares the service with the limits of the machine.

Measures the ceilings (`benchmarks.ceilings`) and the service for one model in one run. A packed
text encoder drops padding; captions of the full context length on the same service, the padded
system, show the gain. All are measured in turns for `--repeats` rounds, so that a machine that
slows down slows all of them; the medians count.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from benchmarks import ceilings, program
from benchmarks.reporting import targets
from benchmarks.reporting.page import record
from benchmarks.reporting.results import Label, Row, ratio
from benchmarks.reporting.targets import (
    CAPTION,
    CAPTION_GRPC,
    CAPTIONS,
    CHECKED,
    IMAGE,
    IMAGE_GRPC,
    LABEL_SET,
    OPEN_LOOP,
    OURS,
    PADDED,
)
from benchmarks.systems import processes, services
from benchmarks.systems.published import Manifest, find, packed, weights_bytes
from benchmarks.traffic import loops
from benchmarks.traffic.arrivals import offer
from benchmarks.traffic.requests import LABEL_SET as SERVED_LABEL_SET
from benchmarks.traffic.requests import Request, captions, labels, requests

KIND_OF = {
    CAPTION: "rest-text", CAPTIONS: "rest-texts", IMAGE: "rest-image", LABEL_SET: "label-set",
    CAPTION_GRPC: "grpc-text", IMAGE_GRPC: "grpc-image",
}  # fmt: skip
LOADS = {
    OURS: (
        (IMAGE, 1), (IMAGE, 8), (LABEL_SET, 8), (IMAGE, 32), (CAPTION, 1), (CAPTION, 8),
        (CAPTION, 32), (CAPTIONS, 8), (IMAGE_GRPC, 32), (CAPTION_GRPC, 32),
    ),
    PADDED: ((CAPTION, 8), (CAPTION, 32)),
}  # fmt: skip
CAPACITY_LOAD = 32  # its throughput is the capacity; the open loop offers a fraction of it
OPEN_LONGER = 2.0  # times the seconds of a closed loop: a p99 needs many requests
SEEDS = 1_000  # of one round, so that no caption repeats in a run
LABELS = 1_000
MB = 10**6


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write; return the exit code."""
    made = program.measuring("compare", __doc__, seconds=8.0, repeats=3, env=True)
    given = program.parsed(made, arguments)
    manifest = find(given.repository, given.model)
    rows = measure(given, manifest)
    record("compare", manifest, given, rows, targets.medians, targets.checks)
    return 0


def measure(given: argparse.Namespace, manifest: Manifest) -> Iterator[Row]:
    """Every load and every ceiling once per round; memory in the first round.

    Raises:
        BenchmarkError: A program did not start, or the model cannot be measured this way.
    """
    repository, seconds = given.repository, given.seconds
    label_set = {"name": SERVED_LABEL_SET, "labels": labels(LABELS), "templates": "plain"}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        (folder / "labels.yaml").write_text(json.dumps(label_set))  # JSON is YAML
        settings = {"GATEWAY_LABEL_SETS": str(folder), **given.env}
        triton = stack.enter_context(services.triton(repository, manifest["id"]))
        gateway = services.gateway(repository, manifest["id"], triton, settings)
        served = stack.enter_context(gateway)
        for repeat in range(given.repeats):
            seeds = count(repeat * SEEDS)
            for system in (OURS, PADDED) if packed(manifest) else (OURS,):
                for kind, load in LOADS[system]:
                    row = _closed(
                        served, triton, manifest, system, kind, load, seconds, next(seeds)
                    )
                    yield row
                    if system == OURS and load == CAPACITY_LOAD and kind in (IMAGE, CAPTION):
                        yield _open(served, kind, row.values["per_second"], seconds, next(seeds))
            if repeat == 0:
                resident = map(processes.resident_bytes, processes.tree(served.pid))
                yield Row({"system": OURS, "kind": "memory"}, {
                    "gateway_mb": max(resident) / MB,
                    "triton_mb": processes.proportional_bytes(triton.pid) / MB,
                    "weights_mb": weights_bytes(repository, manifest) / MB,
                })  # fmt: skip
            yield from ceilings.measure(repository, manifest, seconds)


def requests_for(system: str, kind: str, manifest: Manifest, seed: int) -> Iterator[Request]:
    """The requests for a system."""
    if system == PADDED:
        return captions(manifest["id"], seed, manifest["tokenizer"]["context_length"])
    return requests(KIND_OF[kind], manifest["id"], seed)


def _closed(
    served: services.Gateway, triton: services.Triton, manifest: Manifest, system: str, kind: str,
    load: int, seconds: float, seed: int,
) -> Row:  # fmt: skip
    before = _executed(triton, manifest)
    stream = requests_for(system, kind, manifest, seed)
    values = loops.measure(served.target, stream, load, seconds).values()
    if system == OURS and kind in (CAPTION, CAPTION_GRPC):
        items, executions = (
            a - b for a, b in zip(_executed(triton, manifest), before, strict=True)
        )
        values["mean_batch"] = ratio(items, executions)
    return Row({"system": system, "kind": kind, "concurrency": load}, values)


def _executed(triton: services.Triton, manifest: Manifest) -> list[float]:
    """Numbers of texts and of text batches that Triton has encoded since it started."""
    names = {encoder["name"] for encoder in manifest["triton"]["text"]}
    with urlopen(triton.metrics, timeout=10) as answer:  # noqa: S310 (a Triton of ours)
        found = {
            each.name: each.samples
            for each in text_string_to_metric_families(answer.read().decode())
        }
    return [
        sum(sample.value for sample in found[name] if sample.labels["model"] in names)
        for name in ("nv_inference_count", "nv_inference_exec_count")
    ]


def _open(served: services.Gateway, kind: str, capacity: float, seconds: float, seed: int) -> Row:
    length, rate = seconds * OPEN_LONGER, capacity * CHECKED
    outcome = offer(served.target, KIND_OF[kind], rate, length, seed=seed)
    labels: dict[str, Label] = {"system": OPEN_LOOP, "kind": kind}
    labels["percent_of_capacity"] = round(CHECKED * 100)
    return Row(labels, outcome.values(rate, length))


if __name__ == "__main__":
    sys.exit(program.run(main))
