"""`python -m benchmarks.compare`: our service, what the machine allows, and what users run today.

For one model, in one run: the ceilings (`benchmarks.ceilings`), our service, our service with text
padded to the full context, and OpenCLIP in PyTorch behind a plain FastAPI server. A packed text
tower drops padding, so there the padded system is the same service with captions as long as the
context: it computes the same positions. All are up at the same time and are measured in turns, one
at a time, so many times over, so that a machine that slows down slows all of them; the medians
count. At the end the gateway alone, before encoders that
do no work (`benchmarks.stage_budget`). A JSON file, and a Markdown file with every figure and every
target, are written anew after each measurement, so that a run that is stopped is of use.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import program, report, rounds, stage_budget
from benchmarks.reporting import targets
from benchmarks.reporting.results import SUFFIX, Results, Row, collect
from benchmarks.reporting.targets import GATEWAY
from benchmarks.systems import services
from benchmarks.systems.contenders import PADDED, TORCH, Wanted, start
from benchmarks.systems.published import Manifest, find

NAME = "compare"


class Recorder:
    """Keeps what is measured, and writes all of it after each measurement."""

    def __init__(self, given: argparse.Namespace, manifest: Manifest) -> None:
        self._given = given
        self._manifest = manifest
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Takes a row, prints it, and writes the files."""
        self._rows.append(row)
        if "function" not in row.labels:
            what = ", ".join(str(value) for value in row.labels.values())
            figures = "  ".join(f"{name} {value:.4g}" for name, value in row.values.items())
            print(f"{what}: {figures}", flush=True)
        results = self.results()
        results.write(self._given.output / f"{NAME}{SUFFIX}")
        (self._given.output / f"{NAME}.md").write_text(report.tables(results) + "\n")

    def results(self) -> Results:
        """The medians so far, with the checks on them."""
        rows = targets.medians(self._rows)
        alone = [_unmarked(row) for row in rows if row.labels.get("system") == GATEWAY]
        checks = targets.checks(rows, self._manifest)
        checks += stage_budget.checks(alone)
        return collect(NAME, self._manifest, vars(self._given), rows, checks)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; returns the exit code."""
    given = program.shortened(_parser().parse_args(arguments))
    given.repository = given.repository.resolve()
    recorder = Recorder(given, find(given.repository, given.model))
    for row in measure(given):
        recorder.add(row)
    results = recorder.results()
    print(f"\n{report.tables(results)}\n\nWritten to {given.output}: {NAME}{SUFFIX}, {NAME}.md")
    return 0


def measure(given: argparse.Namespace) -> Iterator[Row]:
    """Everything that is asked for.

    Raises:
        BenchmarkError: A program did not start, or the model cannot be measured so.
    """
    manifest = find(given.repository, given.model)
    settings = services.settings(given.env)
    wanted = Wanted(
        given.repository, manifest, given.without, settings, given.torch_python, given.pretrained
    )
    with ExitStack() as stack:
        systems = start(wanted, stack)
        for repeat in range(given.repeats):
            yield from rounds.measure(systems, given.seconds, repeat)
    if GATEWAY not in given.without:
        kinds = stage_budget.KINDS
        budget = stage_budget.measure(
            given.repository, manifest, kinds, given.seconds / 2, given.repeats, settings
        )
        yield from (Row({"system": GATEWAY, **row.labels}, row.values) for row in budget)


def _unmarked(row: Row) -> Row:
    return Row({name: v for name, v in row.labels.items() if name != "system"}, row.values)


def _parser() -> argparse.ArgumentParser:
    made = program.parser(NAME, __doc__)
    program.add_model(made)
    add = made.add_argument
    add("--pretrained", help="the weights for PyTorch: tag or checkpoint (default: random)")
    add("--torch-python", type=Path, default=Path(sys.executable), metavar="FILE",
        help="a Python with open_clip and fastapi, such as .venv/export/bin/python")  # fmt: skip
    add("--without", nargs="+", default=[], choices=[PADDED, TORCH, GATEWAY],
        help="leave these out")  # fmt: skip
    services.add_env(made)
    program.add_length(made, seconds=8.0, repeats=3)
    program.add_output(made)
    return made


if __name__ == "__main__":
    sys.exit(program.run(main))
