"""`python -m benchmarks.report`: plots and Markdown tables from the JSON files of benchmarks."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import program, stage_budget
from benchmarks.reporting import comparison, plots
from benchmarks.reporting.results import SUFFIX, Results, ResultsError, Row
from benchmarks.reporting.tables import Cell, markdown

FIGURES = (
    "offered_per_second", "per_second", "p50_ms", "p95_ms", "p99_ms", "mean_batch", "requests",
    "errors", "client_late_p99_ms", "cpu_ms", "metrics_error", "gateway_mb", "triton_mb",
    "weights_mb", "best_per_second", "accepted_per_second", "accepted_median_ms", "accepted_p99_ms",
    "refused_per_second", "refused_median_ms", "other", "unsent", "grown_megabytes",
    "gateway_cores", "client_cores", "after_per_second",
)  # fmt: skip
WHOLE = ("requests", "errors", "metrics_error", "other", "unsent")  # figures that are counts
COMPARED = {"image": "image", "caption": "text"}  # kinds, and the ceiling of each
APART = ("stage", "function")  # labels of rows that have tables of their own


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


def tables(results: Results) -> str:
    """Everything that a run measured, ready to be put into a page."""
    parts = [about(results)]
    if any(row.labels.get("system") == "ours" for row in results.rows):
        parts.append(comparison.table(results.rows))
    if results.checks:
        parts.append(checks_table(results))
    parts += rows_tables(results)
    if any("stage" in row.labels for row in results.rows):
        parts.append(stage_budget.table(results.rows))
    return "\n\n".join(parts)


def about(results: Results) -> str:
    """Where, when and on what it was measured."""
    machine, model = results.machine, results.model
    when = time.strftime("%Y-%m-%d", time.gmtime(results.created))
    packages = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    weights = f"{model['open_clip_name']} {model['precision']}, " if model else ""
    return (
        f"{weights}{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB; "
        f"{when}, commit {results.commit.rstrip('+')[:12] or 'unknown'}"
        f"{' with changes' if results.commit.endswith('+') else ''}.\n"
        f"Python {machine['python']}, {packages}."
    )


def draw(results: Results, output: Path) -> list[Path]:
    """The plots that belong to a run."""
    if results.program == "openloop":
        return [plots.open_loop(results, output / "openloop.png")]
    if results.program == "stage_budget":
        return [plots.stages(results, output / "stage_budget.png")]
    if results.program == "compare":
        return [plots.throughput(results, COMPARED, output / "compare.png")]
    if results.program == "load":
        return [plots.latencies(results, output / "load.png")]
    return []


def rows_tables(results: Results) -> list[str]:
    """All rows; those that have the same labels and figures are together in one table."""
    groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Row]] = {}
    for row in results.rows:
        if not any(label in row.labels for label in APART):
            figures = tuple(name for name in FIGURES if name in row.values)
            groups.setdefault((tuple(row.labels), figures), []).append(row)
    return [
        markdown([*labels, *figures], [_cells(row, labels, figures) for row in rows])
        for (labels, figures), rows in groups.items()
        if figures
    ]


def checks_table(results: Results) -> str:
    """All figures with targets."""
    lines: list[list[Cell]] = [
        [
            check.name,
            check.value,
            f"{'at least' if check.at_least else 'at most'} {check.target:g}",
            "pass" if check.passed else "**miss**",
        ]
        for check in results.checks
    ]
    return markdown(["what", "measured", "target", ""], lines)


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


def _cells(row: Row, labels: Sequence[str], figures: Sequence[str]) -> list[Cell]:
    known = [row.labels.get(name) for name in labels]
    return [*known, *(_figure(name, row.values.get(name)) for name in figures)]


def _figure(name: str, value: float | None) -> Cell:
    return int(value) if name in WHOLE and value is not None and value == value else value


if __name__ == "__main__":
    sys.exit(program.run(main))
