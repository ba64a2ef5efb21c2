"""`python -m benchmarks.tune`: which settings serve a model fastest on this machine.

Each variant is a copy of the model's repository with one thing changed, or settings of the gateway
changed, served by a real Triton and a gateway of its own, and loaded with images and captions. With
`--grid` all combinations of what is given are tried. Triton instances share the cores: each gets
cores / instances ONNX Runtime threads. The best of each column is marked.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks import program
from benchmarks.reporting.results import SUFFIX, Label, Row, collect
from benchmarks.reporting.tables import Cell, markdown
from benchmarks.systems import repositories, services
from benchmarks.systems.decoding import cores
from benchmarks.systems.published import Manifest, find
from benchmarks.traffic import loops
from benchmarks.traffic.errors import BenchmarkError

LOADS = (("rest-image", 8), ("rest-image", 32), ("rest-text", 8), ("rest-text", 32))
QUEUE_DELAYS = ("0", "500", "2000", "5000")  # microseconds
MAX_BATCHES = ("8", "16", "32", "64")
INSTANCES, DELAY, BATCH, LENGTHS = "instances", "queue delay us", "max batch", "token lengths"
AS_PUBLISHED = "as published"

Variant = Mapping[str, str]  # what is changed; other names are settings of the gateway


def variants(choices: Mapping[str, Sequence[str]], *, grid: bool) -> list[Variant]:
    """What to try: as published, then one change at a time; or every combination."""
    if grid:
        names = list(choices)
        return [
            dict(zip(names, values, strict=True)) for values in itertools.product(*choices.values())
        ]
    single = [{name: value} for name, values in choices.items() for value in values]
    return [{}, *single]


def measure(
    repository: Path, manifest: Manifest, variant: Variant, seconds: float, seed: int
) -> Iterator[Row]:
    """Serves one variant and loads it.

    Raises:
        BenchmarkError: It cannot be served so.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(repositories.copy(repository, manifest))
        settings = apply(folder, manifest, variant)
        model = manifest["id"]
        triton = stack.enter_context(services.triton(folder, model))
        served = stack.enter_context(services.gateway(folder, model, triton.grpc, settings))
        for number, (kind, load) in enumerate(LOADS):
            measured = loops.measure(served.target, kind, load, seconds, seed * 100 + number)
            labels: dict[str, Label] = {
                "variant": name_of(variant),
                "kind": kind,
                "concurrency": load,
            }
            yield Row(labels, measured.values())


def apply(repository: Path, manifest: Manifest, variant: Variant) -> dict[str, str]:
    """Changes a copy of the repository; returns the settings that are for the gateway."""
    settings = {}
    for name, value in variant.items():
        if name == INSTANCES:
            count = int(value)
            repositories.set_instances(repository, manifest, count, max(1, cores() // count))
        elif name == DELAY:
            repositories.set_queue_delay(repository, manifest, int(value))
        elif name == BATCH:
            manifest = repositories.set_max_batch(repository, manifest, int(value))
        elif name == LENGTHS:
            lengths = [int(length) for length in value.split("+")]
            manifest = repositories.keep_lengths(repository, manifest, lengths)
        else:
            settings[name] = value
    return settings


def name_of(variant: Variant) -> str:
    """A variant in words."""
    return ", ".join(f"{name} {value}" for name, value in variant.items()) or AS_PUBLISHED


def table(rows: Sequence[Row]) -> str:
    """Variants down, loads across: items per second, the median of the repeats, and p99."""
    names = list(dict.fromkeys(str(row.labels["variant"]) for row in rows))
    cells: dict[tuple[str, str, int], tuple[float, float]] = {}
    for name, (kind, load) in itertools.product(names, LOADS):
        wanted = {"variant": name, "kind": kind, "concurrency": load}
        found = [row.values for row in rows if wanted.items() <= row.labels.items()]
        if found:
            cells[name, kind, load] = (
                median(values["per_second"] for values in found),
                median(values["p99_ms"] for values in found),
            )
    lines: list[list[Cell]] = []
    for name in names:
        line: list[Cell] = [name]
        for kind, load in LOADS:
            rates = [rate for (_, k, c), (rate, _) in cells.items() if (k, c) == (kind, load)]
            rate, p99 = cells.get((name, kind, load), (float("nan"), float("nan")))
            shown = f"{rate:.4g} (p99 {p99:.0f} ms)"
            line.append(f"**{shown}**" if rate == max(rates, default=None) else shown)
        lines.append(line)
    return markdown(["variant", *(f"{kind}, {load}: items/s" for kind, load in LOADS)], lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; returns the exit code."""
    given = program.shortened(_parser().parse_args(arguments))
    rows: list[Row] = []
    repository = given.repository.resolve()
    manifest = find(repository, given.model)
    if given.token_lengths:
        repositories.check_lengths_are_fixed(manifest)  # now, rather than after the other variants
    tried = variants(_choices(given), grid=given.grid)
    for repeat in range(given.repeats):
        for number, variant in enumerate(tried):
            seed = repeat * len(tried) + number
            rows += measure(repository, manifest, variant, given.seconds, seed)
            print(f"round {repeat + 1}: {name_of(variant)}", flush=True)
            results = collect("tune", manifest, vars(given), rows)
            path = results.write(given.output / f"tune{SUFFIX}")
            (given.output / "tune.md").write_text(table(rows) + "\n")
    print(f"\n{table(rows)}\n\nWritten to {path}, with tune.md")
    return 0


def _choices(given: argparse.Namespace) -> dict[str, list[str]]:
    """The values to try, by the name of what they change.

    Raises:
        BenchmarkError: An `--env` is not NAME=VALUE,VALUE.
    """
    choices = {
        INSTANCES: given.instances,
        DELAY: given.queue_delays,
        BATCH: given.max_batches,
        LENGTHS: given.token_lengths,
    }
    for pair in given.env:
        name, equals, values = pair.partition("=")
        if not equals or not name.startswith(services.PREFIX):
            raise BenchmarkError(f"--env {pair}: give {services.PREFIX}NAME=VALUE,VALUE")
        choices[name] = values.split(",")
    return {name: list(values) for name, values in choices.items() if values}


def _parser() -> argparse.ArgumentParser:
    made = program.parser("tune", __doc__)
    program.add_model(made)
    add = made.add_argument
    every = [str(count) for count in range(1, cores() + 1) if cores() % count == 0]
    add("--instances", nargs="*", default=every, metavar="N", help="of every encoder")
    add("--queue-delays", nargs="*", default=QUEUE_DELAYS, metavar="US", help="microseconds")
    add("--max-batches", nargs="*", default=MAX_BATCHES, metavar="N", help="items in a batch")
    add("--token-lengths", nargs="*", default=[], metavar="N+N",
        help="such as 16+77 16+24+32+77; of a model whose text encoder is not packed")  # fmt: skip
    add("--env", action="append", default=[], metavar="NAME=V,V",
        help="values of a setting of the gateway; may be repeated")  # fmt: skip
    add("--grid", action="store_true", help="every combination, not one change at a time")
    program.add_length(made, seconds=8.0, repeats=3)
    program.add_output(made)
    return made


if __name__ == "__main__":
    sys.exit(program.run(main))
