"""`python -m benchmarks.ladder`: every variant of a model, exported, served and timed again.

Exports all variants that this machine can, which the exporter itself measures against PyTorch.
Then each published variant is served alone by a real Triton and timed over gRPC, and so is the
plain PyTorch model, in turns, so that a machine that slows down slows all of them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.reporting.ladder_table import NOTES, machine, table, write
from benchmarks.systems.rungs import climb
from benchmarks.systems.variants import PRECISIONS, Target, export
from benchmarks.traffic.errors import BenchmarkError
from server.backends.processor import has_bf16


def main(arguments: Sequence[str] | None = None) -> int:
    """Exports, measures, prints and writes; 1 where something failed."""
    given = _parser().parse_args(arguments)
    target = Target(given.model, given.pretrained, given.tokenizer, given.text_config)
    try:
        published = export(target, given.repository, _export_arguments(given, target))
        rows = climb(target, given.repository, published, given.seconds, given.rounds)
    except BenchmarkError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    path = write(given.output, target, rows, given.seconds)
    sys.stdout.write(f"{machine()}\n\n{table(rows)}\n\n{NOTES}\n\nwritten to {path}\n")
    return 0


def _export_arguments(given: argparse.Namespace, target: Target) -> list[str]:
    options: list[tuple[str, object]] = [
        *(("--precision", precision) for precision in given.precision or _possible()),
        *(("--runtime", runtime) for runtime in given.runtime),
        ("--report", given.output / target.slug),
        ("--evaluate", given.evaluate),
        ("--evaluate-texts", given.evaluate_texts),
        ("--calibrate-images", given.calibrate_images),
        ("--calibrate-texts", given.calibrate_texts),
    ]
    words = [str(word) for option in options if option[1] is not None for word in option]
    return [*words, "--allow-slow", *given.export_argument]


def _possible() -> list[str]:
    """The precisions that this processor can compute in."""
    return [each for each in PRECISIONS if each != "bf16" or has_bf16()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ladder", description=__doc__)
    add = parser.add_argument
    # fmt: off
    add("--model", required=True, help="as for `python -m export`")
    add("--pretrained", metavar="TAG|FILE", help="weights")
    add("--tokenizer", type=Path, metavar="DIR", help="folder with a Hugging Face tokenizer")
    add("--text-config", type=Path, metavar="DIR", help="folder with a text encoder's config.json")
    add("--repository", type=Path, default=Path("model_repository"), metavar="DIR",
        help="where to publish the variants (default: %(default)s)")
    add("--output", type=Path, default=Path("reports"), metavar="DIR",
        help="where to write the table (default: %(default)s)")
    add("--seconds", type=float, default=3.0,
        help="length of each measurement (default: %(default)s)")
    add("--rounds", type=int, default=2, metavar="N",
        help="how often to measure each variant (default: %(default)s)")
    add("--precision", action="append", choices=PRECISIONS,
        help="only this one; may be repeated (default: all that this processor has)")
    add("--runtime", action="append", default=[], choices=("onnxruntime", "openvino", "tensorrt"),
        help="may be repeated (default: onnxruntime, and openvino for BF16)")
    add("--evaluate", default="drawn", metavar="DIR|drawn",
        help="labelled pictures to measure accuracy on (default: the demo's scenes)")
    add("--evaluate-texts", metavar="FILE", help="captions to measure on")
    add("--calibrate-images", default="drawn", metavar="DIR|drawn",
        help="pictures that INT8 takes its ranges from (default: the demo's scenes)")
    add("--calibrate-texts", metavar="FILE", help="captions for that")
    add("--export-argument", action="append", default=[], metavar="ARG",
        help="passed on to `python -m export`, such as --export-argument=--max-batch=32")
    # fmt: on
    return parser


if __name__ == "__main__":
    sys.exit(main())
