"""`python -m benchmarks.report`: plots and Markdown tables from the JSON files of benchmarks."""

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import program
from benchmarks.reporting import plots
from benchmarks.reporting.page import tables
from benchmarks.reporting.results import SUFFIX, Results, ResultsError

COMPARED = {"image": "image", "caption": "text"}  # kinds, and the ceiling of each


def write(files: Sequence[Path], output: Path) -> Path:
    """Writes `report.md` and its plots into a folder; returns the path of the report.

    Raises:
        ResultsError: A file cannot be read, or there is none.
    """
    if not files:
        raise ResultsError(f"no *{SUFFIX} here; run a benchmark first")
    output.mkdir(parents=True, exist_ok=True)
    parts = ["# Benchmarks", *(section(Results.read(file), output) for file in files)]
    path = output / "report.md"
    path.write_text("\n\n".join(parts) + "\n")
    return path


def section(results: Results, output: Path) -> str:
    """The part of the report for one run; its plots are drawn into the folder."""
    title = f"## {results.program}: {results.model.get('id', 'any model')}"
    drawn = [f"![{plot.stem}]({plot.name})" for plot in draw(results, output)]
    return "\n\n".join([title, *drawn, tables(results)])


def draw(results: Results, output: Path) -> list[Path]:
    """The plots that belong to a run."""
    if results.program == "openloop":
        return [plots.open_loop(results, output / "openloop.png")]
    if results.program == "compare":
        return [plots.throughput(results, COMPARED, output / "compare.png")]
    return []


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the report; returns the exit code."""
    made = program.parser("report", __doc__)
    made.add_argument(
        "files", nargs="*", type=Path, help=f"files of results (default: all in {program.OUTPUT})"
    )
    program.add_output(made)
    given = made.parse_args(arguments)
    path = write(given.files or sorted(program.OUTPUT.rglob(f"*{SUFFIX}")), given.output)
    print(f"Written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(program.run(main))
