"""`python -m benchmarks.report`: plots and Markdown tables from the JSON files of benchmarks."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import program
from benchmarks.reporting import plots
from benchmarks.reporting.page import CEILINGS, tables
from benchmarks.reporting.results import SUFFIX, Results, ResultsError


def write(files: Sequence[Path], output: Path) -> Path:
    """Write `report.md` and its plots into a folder; return the path of the report.

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
    """The part of the report for one run; its plot, if it has one, is drawn into the folder."""
    name, model = results.program, results.model.get("id", "any model")
    parts, plot = [f"## {name}: {model}"], output / f"{name}.png"
    if name == "openloop":
        plots.open_loop(results.rows, model, plot)
    elif name == "compare":
        plots.throughput(results.rows, CEILINGS, plot)
    elif name == "peers":
        machine, day = results.machine, time.strftime("%Y-%m-%d", time.gmtime(results.created))
        hardware = f"{model}; {machine['cpu']}, {machine['cores']} cores; {day}"
        plots.side_by_side(results.rows, hardware, plot)
    else:
        return "\n\n".join([*parts, tables(results)])
    return "\n\n".join([*parts, f"![{name}]({plot.name})", tables(results)])


def main(arguments: list[str] | None = None) -> int:
    """Write the report; return the exit code."""
    made = program.parser("report", __doc__)
    add = made.add_argument
    add("files", nargs="*", type=Path, help=f"files of results (default: all in {program.OUTPUT})")
    add("--output", type=Path, default=program.OUTPUT, metavar="DIR",
        help=f"folder for the files that are written (default: {program.OUTPUT})")  # fmt: skip
    given = made.parse_args(arguments)
    path = write(given.files or sorted(program.OUTPUT.rglob(f"*{SUFFIX}")), given.output)
    print(f"Written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(program.run(main))
