"""What the benchmarks' command lines share."""

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from benchmarks.traffic.errors import BenchmarkError

OUTPUT = Path("reports/benchmarks")
QUICK_SECONDS = 1.0


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """For `python -m benchmarks.<name>`, whose docstring describes it."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_model(made: argparse.ArgumentParser) -> None:
    """Which model is measured."""
    made.add_argument(
        "--repository", type=Path, default=Path("model_repository"), metavar="DIR",
        help="where the model is (default: model_repository)",
    )  # fmt: skip
    made.add_argument("--model", help="its id; may be left out where there is only one")


def add_length(made: argparse.ArgumentParser, seconds: float, repeats: int | None = None) -> None:
    """How long is measured, and how often; see `shortened`."""
    made.add_argument(
        "--seconds", type=float, default=seconds, metavar="S",
        help=f"length of each measurement (default: {seconds:g})",
    )  # fmt: skip
    if repeats is not None:
        made.add_argument(
            "--repeats", type=int, default=repeats, metavar="N",
            help=f"how often each is measured; the median counts (default: {repeats})",
        )  # fmt: skip
    made.add_argument(
        "--quick", action="store_true",
        help="a second for each measurement, once: shows that it runs, and no more",
    )  # fmt: skip


def add_output(made: argparse.ArgumentParser, output: Path = OUTPUT) -> None:
    """Where the files of results go."""
    made.add_argument(
        "--output", type=Path, default=output, metavar="DIR",
        help=f"folder for the files that are written (default: {output})",
    )  # fmt: skip


def shortened(given: argparse.Namespace) -> argparse.Namespace:
    """What was given, with `--quick` carried out."""
    if given.quick:
        given.seconds = min(given.seconds, QUICK_SECONDS)
        if "repeats" in given:
            given.repeats = 1
    return given


def run(main: Callable[[], int]) -> int:
    """Runs a program; returns its exit code.

    SIGTERM and Ctrl-C end it as an exception does, so that it stops all that it has started.
    """
    signal.signal(signal.SIGTERM, _stop)
    try:
        return main()
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 128 + signal.SIGINT


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
