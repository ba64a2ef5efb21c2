"""`python -m benchmarks.compare`: our service, what the machine allows, and what users run today.

For one model, in one run: the ceilings (`benchmarks.ceilings`), our service, and OpenCLIP in
PyTorch behind a plain FastAPI server. A packed text encoder drops padding; what that gains is seen
on the same service with captions as long as the context, the padded system. All run at the same
time and are measured in turns, one at a time, for `--repeats` rounds, so that a machine that slows
down slows all of them; the medians count. A JSON file, and a Markdown file with every figure and
target, are written after each measurement, so that a run that is stopped is of use.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path

from benchmarks import program
from benchmarks.reporting import targets
from benchmarks.reporting.page import tables
from benchmarks.reporting.results import ROOT, SUFFIX, Label, Results, Row, collect
from benchmarks.reporting.targets import (
    CAPTION,
    CAPTION_GRPC,
    CAPTIONS,
    CHECKED,
    IMAGE,
    IMAGE_GRPC,
    LABEL_SET,
    OPEN_LOOP,
)
from benchmarks.systems import services
from benchmarks.systems.contenders import OURS, PADDED, TORCH, Counts, Systems, start
from benchmarks.systems.published import Manifest, find
from benchmarks.traffic import loops
from benchmarks.traffic.arrivals import offer
from benchmarks.traffic.errors import BenchmarkError
from benchmarks.traffic.requests import Request, full_captions, requests

NAME = "compare"
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
    TORCH: ((IMAGE, 1), (IMAGE, 8), (IMAGE, 32), (CAPTION, 1), (CAPTION, 8), (CAPTION, 32)),
}  # fmt: skip
CAPACITY_LOAD = 32  # whose throughput is the capacity that the open loop offers a part of
OPEN_LONGER = 2.0  # times the seconds of a closed loop: a p99 needs many requests
SEEDS = 1_000  # of one round, so that no caption comes twice in a run


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; returns the exit code."""
    given = program.shortened(_parser().parse_args(arguments))
    given.repository = given.repository.resolve()
    manifest = find(given.repository, given.model)
    rows: list[Row] = []
    for row in measure(given, manifest):
        print(row, flush=True)
        rows.append(row)
        middle = targets.medians(rows)
        results = collect(NAME, manifest, vars(given), middle, targets.checks(middle))
        results.write(given.output / f"{NAME}{SUFFIX}")
        (given.output / f"{NAME}.md").write_text(tables(results) + "\n")
    print(f"\n{tables(results)}\n\nWritten to {given.output}: {NAME}{SUFFIX}, {NAME}.md")
    return 0


def measure(given: argparse.Namespace, manifest: Manifest) -> Iterator[Row]:
    """Measures everything that the options name.

    Raises:
        BenchmarkError: A program did not start, or the model cannot be measured so.
    """
    with ExitStack() as stack:
        systems = start(given.repository, manifest, services.settings(given.env), stack)
        if TORCH not in given.without:
            words = [manifest["open_clip_name"]]
            words += ["--pretrained", given.pretrained] if given.pretrained else []
            torch = services.torch_server(given.torch_python, words)
            systems.served[TORCH] = stack.enter_context(torch)
        if PADDED in given.without:
            systems.served.pop(PADDED, None)
        for repeat in range(given.repeats):
            yield from _round(systems, given.seconds, repeat)


def _round(systems: Systems, seconds: float, repeat: int) -> Iterator[Row]:
    """Every load and every ceiling once; in the first round the memory."""
    seeds = count(repeat * SEEDS)
    for system in systems.served:
        capacity: dict[str, float] = {}
        for kind, load in LOADS[system]:
            row = _closed(systems, system, kind, load, seconds, next(seeds))
            yield row
            if load == CAPACITY_LOAD:
                capacity[kind] = row.values["per_second"]
        if system == OURS:
            for kind in (IMAGE, CAPTION):
                yield _open(systems, kind, capacity[kind], seconds, next(seeds))
            if repeat == 0:
                yield Row({"system": OURS, "kind": "memory"}, systems.memory())
    yield from ceilings(systems.repository, systems.manifest, seconds)


def ceilings(repository: Path, manifest: Manifest, seconds: float) -> list[Row]:
    """Runs `python -m benchmarks.ceilings`, and returns its rows.

    Raises:
        BenchmarkError: It failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "benchmarks.ceilings", "--repository", str(repository),
            "--model", manifest["id"], "--seconds", str(seconds), "--output", folder,
        ]  # fmt: skip
        done = subprocess.run(  # noqa: S603 (the project's own program)
            command,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BenchmarkError(f"the ceilings: {done.stderr.strip()[-2000:]}")
        return list(Results.read(Path(folder) / f"ceilings{SUFFIX}").rows)


def requests_for(
    system: str, kind: str, manifest: Manifest, model: str, seed: int
) -> Iterator[Request]:
    """What a system is sent; `model` is its own name for the model."""
    if system == PADDED:
        return full_captions(model, manifest["tokenizer"]["context_length"], seed)
    return requests(KIND_OF[kind], model, seed)


def _closed(systems: Systems, system: str, kind: str, load: int, seconds: float, seed: int) -> Row:
    texts = [encoder["name"] for encoder in systems.manifest["triton"]["text"]]
    before = Counts.read(systems.triton.metrics, texts)
    target = systems.served[system].target
    stream = requests_for(system, kind, systems.manifest, target.model, seed)
    values = loops.measure_stream(target, stream, load, seconds).values()
    if system == OURS and kind in (CAPTION, CAPTION_GRPC):
        after = Counts.read(systems.triton.metrics, texts)
        values["mean_batch"] = after.mean_batch_since(before)
    return Row({"system": system, "kind": kind, "concurrency": load}, values)


def _open(systems: Systems, kind: str, capacity: float, seconds: float, seed: int) -> Row:
    target = systems.served[OURS].target
    length, rate = seconds * OPEN_LONGER, capacity * CHECKED
    outcome = offer(target, KIND_OF[kind], rate, length, seed=seed)
    labels: dict[str, Label] = {"system": OPEN_LOOP, "kind": kind}
    labels["percent_of_capacity"] = round(CHECKED * 100)
    return Row(labels, outcome.values(rate, length))


def _parser() -> argparse.ArgumentParser:
    made = program.parser(NAME, __doc__)
    program.add_model(made)
    add = made.add_argument
    add("--pretrained", help="the weights for PyTorch: tag or checkpoint (default: random)")
    add("--torch-python", type=Path, default=Path(sys.executable), metavar="FILE",
        help="a Python with open_clip and fastapi, such as .venv/export/bin/python")  # fmt: skip
    add("--without", nargs="+", default=[], choices=[PADDED, TORCH],
        help="leave these out")  # fmt: skip
    services.add_env(made)
    program.add_length(made, seconds=8.0, repeats=3)
    program.add_output(made)
    return made


if __name__ == "__main__":
    sys.exit(program.run(main))
