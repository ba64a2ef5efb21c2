"""`python -m benchmarks.ladder`: exports, serves and times every variant of a model.

Exports all variants that this machine supports; the exporter itself measures them against PyTorch.
Then each published variant, served alone by a real Triton over gRPC, and the plain PyTorch model
are timed in turns, so that a machine that slows down slows all of them. Options that are not listed
here are passed on to `python -m export`.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import program
from benchmarks.reporting.page import record
from benchmarks.reporting.results import Row
from benchmarks.reporting.targets import medians
from benchmarks.systems import rungs
from benchmarks.systems.published import Manifest
from server.backends.processor import has_bf16

DRAWN = ("--evaluate", "--calibrate-images")  # `drawn`, unless given otherwise


def measure(
    model: Sequence[str], repository: Path, published: Sequence[Manifest], given: argparse.Namespace
) -> Iterator[Row]:
    """A row for PyTorch and for each published variant, in turns for several rounds.

    Raises:
        BenchmarkError: One of the programs failed.
    """
    for _ in range(given.repeats):
        accuracy = _accuracy(published[0], "pytorch_accuracy")
        labels = {"variant": "PyTorch FP32", "lowest cosine, image / text": ""}
        yield Row({**labels, "zero-shot": accuracy}, rungs.pytorch(model, given.seconds))
        for manifest in published:
            lowest = (f"{manifest['gate'][name]['min_cosine']:.6f}" for name in rungs.ENCODERS)
            labels = {"variant": manifest["id"], "lowest cosine, image / text": " / ".join(lowest)}
            figures = rungs.served(repository, manifest, given.seconds)
            yield Row({**labels, "zero-shot": _accuracy(manifest, "accuracy")}, figures)


def main(arguments: list[str] | None = None) -> int:
    """Export, measure, print and write; return the exit code."""
    made = program.measuring("ladder", __doc__, seconds=3.0, repeats=2)
    add = made.add_argument
    add("--pretrained", metavar="TAG|FILE", help="weights")
    add("--tokenizer", metavar="DIR", help="folder with a Hugging Face tokenizer")
    add("--text-config", metavar="DIR", help="folder with a text encoder's config.json")
    add("--precision", action="append", choices=rungs.PRECISIONS,
        help="only this precision; repeatable (default: all that run here)")  # fmt: skip
    given, passed_on = made.parse_known_args(arguments)
    program.applied(given)
    if not given.model:
        made.error("give --model")
    model = [given.model]
    for option in ("pretrained", "tokenizer", "text_config"):
        if value := getattr(given, option):
            model += [f"--{option.replace('_', '-')}", value]
    possible = [each for each in rungs.PRECISIONS if each != "bf16" or has_bf16()]
    wanted = [word for each in given.precision or possible for word in ("--precision", each)]
    missing = [name for name in DRAWN if not any(re.match(f"{name}(=|$)", w) for w in passed_on)]
    drawn = [word for name in missing for word in (name, "drawn")]
    words = [*wanted, *drawn, "--allow-slow", *passed_on]
    published = rungs.export(model, given.repository, words)
    record("ladder", None, given, measure(model, given.repository, published, given), medians)
    return 0


def _accuracy(manifest: Manifest, name: str) -> str:
    zero_shot = manifest["gate"]["zero_shot"]
    return "" if zero_shot is None else f"{zero_shot[name]:.3f}"


if __name__ == "__main__":
    sys.exit(program.run(main))
