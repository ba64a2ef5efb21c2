"""`python -m benchmarks.tune`: finds the fastest settings for a model on this machine.

Each variant is a copy of the model's repository with one change, or a change of the gateway's
settings. A real Triton and a gateway serve each, under a load of images and captions. `--grid`
tries all combinations of the given values. Triton instances share the cores: each gets cores /
instances ONNX Runtime threads, and its own call of the gateway.

All variants run once in every round. A variant is faster or slower than the published repository
only if each of its rounds is faster or slower than every round of the latter. `--apply` writes the
faster settings into the repository.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from statistics import median

from tritonclient.grpc.model_config_pb2 import ModelConfig

from benchmarks import program
from benchmarks.reporting.page import record
from benchmarks.reporting.results import Label, Row
from benchmarks.reporting.tables import Cell, markdown
from benchmarks.systems import repositories, services
from benchmarks.systems.decoding import cores
from benchmarks.systems.published import CONFIG, Manifest, encoders, find
from benchmarks.systems.published import SUFFIX as MANIFEST
from benchmarks.traffic import loops
from benchmarks.traffic.requests import requests

LOADS = (("rest-image", 8), ("rest-image", 32), ("rest-text", 8), ("rest-text", 32))
QUEUE_DELAYS = ("0", "2000")  # microseconds
MAX_BATCHES = ("16", "64")
CALLS = "GATEWAY_TRITON_CALLS"
# Changes of a repository; any other name is a setting of the gateway.
INSTANCES, DELAY, BATCH, SPLIT = "instances", "queue delay us", "max batch", "split batches"
CHANGES = (INSTANCES, DELAY, BATCH, SPLIT)
AS_PUBLISHED = "as published"
FASTER, SLOWER = "faster", "slower"
ROUNDS = 3  # fewer do not show the spread

Variant = Mapping[str, str]  # the values of changes and settings, by name


def variants(choices: Mapping[str, Sequence[str]], *, grid: bool) -> list[Variant]:
    """The variants to try: as published, then one change at a time; or every combination."""
    if grid:
        names = list(choices)
        every = itertools.product(*choices.values())
        return [{}, *(dict(zip(names, values, strict=True)) for values in every)]
    return [{}, *({name: value} for name, values in choices.items() for value in values)]


def measure(
    repository: Path, manifest: Manifest, variant: Variant, seconds: float, seed: int
) -> Iterator[Row]:
    """Serve one variant and load it.

    Raises:
        BenchmarkError: It cannot be served this way.
    """
    model = manifest["id"]
    with repositories.copy(repository, manifest) as folder:
        settings = apply(folder, manifest, variant)
        with services.serving(folder, model, settings) as served:
            for number, (kind, load) in enumerate(LOADS, start=seed * 100):
                found = loops.measure(served.target, requests(kind, model, number), load, seconds)
                labels: dict[str, Label] = {"variant": name_of(variant), "kind": kind}
                yield Row({**labels, "concurrency": load}, found.values())


def apply(repository: Path, manifest: Manifest, variant: Variant) -> dict[str, str]:
    """Apply a variant to a copy of the repository; return the gateway's settings."""
    settings = {name: value for name, value in variant.items() if name not in CHANGES}
    repositories.edit(repository, manifest, partial(_change, variant))
    if INSTANCES in variant:
        settings.setdefault(CALLS, variant[INSTANCES])
    if BATCH in variant:
        image, *texts = (each | {"max_batch": int(variant[BATCH])} for each in encoders(manifest))
        known = {"triton": {"image": image, "text": texts}}
        repositories.write_manifest(repository, manifest | known)
    return settings


def _change(variant: Variant, config: ModelConfig) -> None:
    if INSTANCES in variant:
        count = int(variant[INSTANCES])
        for group in config.instance_group:
            group.count = count
        threads = max(1, cores() // count)
        config.parameters["intra_op_thread_count"].string_value = str(threads)
    if DELAY in variant:
        config.dynamic_batching.max_queue_delay_microseconds = int(variant[DELAY])
    if BATCH in variant:
        config.max_batch_size = int(variant[BATCH])
    if SPLIT in variant:
        config.parameters["split_batches"].string_value = variant[SPLIT]


def write(repository: Path, manifest: Manifest, chosen: Mapping[str, Variant]) -> dict[str, str]:
    """Write the variants of `rest-image` and `rest-text` into the repository, file by file.

    Each `config.pbtxt` keeps all other keys. Return the gateway's settings.
    """
    models, settings = dict(manifest["triton"]), dict[str, str]()
    for kind, variant in chosen.items():
        modality = kind.removeprefix("rest-")
        with repositories.copy(repository, manifest) as folder:
            settings |= apply(folder, manifest, variant)
            models[modality] = found = find(folder, manifest["id"])["triton"][modality]
            for encoder in found if isinstance(found, list) else [found]:
                config = Path(encoder["name"]) / CONFIG
                _replace(repository / config, (folder / config).read_text())
    changed = json.dumps(manifest | {"triton": models}, indent=1)
    _replace(repository / (manifest["id"] + MANIFEST), changed)
    return settings


def _replace(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)


def name_of(variant: Variant) -> str:
    """A variant in words."""
    return ", ".join(f"{name} {value}" for name, value in variant.items()) or AS_PUBLISHED


@dataclass(frozen=True, slots=True)
class Measured:
    """The rounds of one variant under one load: items per second of each, and the median p99."""

    rates: list[float]
    p99_ms: float

    def against(self, published: "Measured") -> str:
        """`FASTER` or `SLOWER` than published, or neither if rounds overlap or are too few."""
        if min(len(self.rates), len(published.rates)) < ROUNDS:
            return ""
        if min(self.rates) > max(published.rates):
            return FASTER
        return SLOWER if max(self.rates) < min(published.rates) else ""


def measured(rows: Sequence[Row], name: str, kind: str, load: int) -> Measured | None:
    """The measurements of a variant under a load; None if there are none."""
    wanted = {"variant": name, "kind": kind, "concurrency": load}
    found = [row.values for row in rows if wanted.items() <= row.labels.items()]
    if not found:
        return None
    p99_ms = median(values["p99_ms"] for values in found)
    return Measured([values["per_second"] for values in found], p99_ms)


def choose(rows: Sequence[Row], tried: Sequence[Variant]) -> dict[str, Variant]:
    """The fastest variant for each kind of request, if the difference exceeds the spread.

    It is faster than the published one under at least one load, and slower under none.
    """
    chosen: dict[str, Variant] = {}
    for kind in dict.fromkeys(kind for kind, _ in LOADS):
        best = 0.0
        for variant in tried:
            pairs = [
                (each, published)
                for of, load in LOADS
                if of == kind
                and (each := measured(rows, name_of(variant), kind, load))
                and (published := measured(rows, AS_PUBLISHED, kind, load))
            ]
            verdicts = {each.against(published) for each, published in pairs}
            gain = prod(median(each.rates) / median(other.rates) for each, other in pairs)
            if FASTER in verdicts and SLOWER not in verdicts and gain > best:
                chosen[kind], best = variant, gain
    return chosen


def table(rows: Sequence[Row]) -> str:
    """A row per variant, a column per load: items/s (median, lowest and highest round) and p99."""
    lines: list[list[Cell]] = []
    for name in dict.fromkeys(str(row.labels["variant"]) for row in rows):
        line: list[Cell] = [name]
        for kind, load in LOADS:
            each = measured(rows, name, kind, load)
            published = measured(rows, AS_PUBLISHED, kind, load)
            if each is None or published is None:
                line.append("")
                continue
            low, high = min(each.rates), max(each.rates)
            shown = f"{median(each.rates):.4g} ({low:.4g} to {high:.4g}, p99 {each.p99_ms:.0f} ms)"
            verdict = each.against(published)
            line.append(f"**{shown}, {verdict}**" if verdict else shown)
        lines.append(line)
    return markdown(["variant", *(f"{kind}, {load}: items/s" for kind, load in LOADS)], lines)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write; return the exit code."""
    given = program.parsed(_parser(), arguments)
    repository, manifest = given.repository, find(given.repository, given.model)
    choices = {
        INSTANCES: given.instances,
        DELAY: given.queue_delays,
        BATCH: given.max_batches,
        SPLIT: given.split_batches,
        **{name: values.split(",") for name, values in given.env.items()},
    }
    tried = variants({name: values for name, values in choices.items() if values}, grid=given.grid)
    runs = enumerate(tried * given.repeats)
    rows = record("tune", manifest, given, (
        row
        for seed, variant in runs
        for row in measure(repository, manifest, variant, given.seconds, seed)
    ), text=lambda results: table(results.rows))  # fmt: skip
    chosen = choose(rows, tried)
    for kind, variant in chosen.items():
        print(f"{kind}: {name_of(variant)} is faster")
    if not chosen:
        print("nothing is faster than the repository as published")
    elif given.apply:
        settings = write(repository, manifest, chosen)
        print(f"written to {repository}; restart Triton to use it")
        for name, value in settings.items():
            print(f"and give the gateway {name}={value}")
    return 0


def _parser() -> argparse.ArgumentParser:
    made = program.measuring("tune", __doc__, seconds=8.0, repeats=5, env=True)
    add = made.add_argument
    every = [str(count) for count in range(1, cores() + 1) if cores() % count == 0]
    add("--instances", nargs="*", default=every, metavar="N", help="of every encoder")
    add("--queue-delays", nargs="*", default=QUEUE_DELAYS, metavar="US", help="microseconds")
    add("--max-batches", nargs="*", default=MAX_BATCHES, metavar="N", help="items in a batch")
    add("--split-batches", nargs="*", default=("0", "1"), metavar="0|1",
        help="whether each thread of the CPU backend runs rows of its own")  # fmt: skip
    add("--grid", action="store_true", help="try every combination, not one change at a time")
    add("--apply", action="store_true", help="write the faster settings into the repository")
    return made


if __name__ == "__main__":
    sys.exit(program.run(main))
