"""The common parts of the benchmarks' command lines."""

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from benchmarks.traffic.errors import BenchmarkError

OUTPUT = Path("reports/benchmarks")
QUICK_SECONDS = 1.0
PREFIX = "GATEWAY_"


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """For `python -m benchmarks.<name>`, whose docstring describes it."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_model(made: argparse.ArgumentParser) -> None:
    """Add the options that choose the model."""
    made.add_argument(
        "--repository", type=lambda text: Path(text).resolve(), metavar="DIR",
        default=Path("model_repository").resolve(),
        help="repository of the model (default: model_repository)",
    )  # fmt: skip
    made.add_argument("--model", help="its id; optional if there is only one")


def measuring(
    name: str, description: str | None, seconds: float, repeats: int | None = None, *,
    env: bool = False, output: Path = OUTPUT,
) -> argparse.ArgumentParser:  # fmt: skip
    """A parser with the options of every program that measures a model; see `parsed`.

    Args:
        name: Of the program.
        description: Its docstring.
        seconds: Default length of each measurement.
        repeats: Default number of repeats; None: each is measured once.
        env: Whether there is an option for settings of the gateway.
        output: Default folder of the results.
    """
    made = parser(name, description)
    add_model(made)
    add = made.add_argument
    add("--seconds", type=float, default=seconds, metavar="S",
        help=f"length of each measurement (default: {seconds:g})")  # fmt: skip
    if repeats is not None:
        add("--repeats", type=int, default=repeats, metavar="N",
            help=f"measurements of each; the median counts (default: {repeats})")  # fmt: skip
    add("--quick", action="store_true",
        help="one second per measurement, once each: only shows that the program runs")  # fmt: skip
    if env:
        add("--env", action="append", default=[], type=_setting, metavar="NAME=VALUE",
            help="a setting of the gateway; may be repeated")  # fmt: skip
    add("--output", type=Path, default=output, metavar="DIR",
        help=f"folder for the files that are written (default: {output})")  # fmt: skip
    return made


def parsed(made: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """The parsed options of a program that measures; see `applied`."""
    return applied(made.parse_args(arguments))


def applied(given: argparse.Namespace) -> argparse.Namespace:
    """The options with `--quick` applied, and `env` as a dict of settings."""
    if given.quick:
        given.seconds = min(given.seconds, QUICK_SECONDS)
        if "repeats" in given:
            given.repeats = 1
    if "env" in given:
        given.env = dict(given.env)
    return given


def run(main: Callable[[], int]) -> int:
    """Run a program; return its exit code.

    SIGTERM and Ctrl-C raise an exception in it, so that it stops the programs that it started.
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


def _setting(pair: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not equals or not name.startswith(PREFIX):
        raise argparse.ArgumentTypeError(f"{pair}: give {PREFIX}NAME=VALUE")
    return name, value


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
