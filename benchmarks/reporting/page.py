"""Everything that a run measured, as Markdown tables."""

import time
from collections.abc import Sequence

from benchmarks.reporting import stages
from benchmarks.reporting.results import Results, Row
from benchmarks.reporting.tables import Cell, markdown
from benchmarks.reporting.targets import CAPTION, CEILING, IMAGE
from benchmarks.systems.contenders import OURS, PADDED, TORCH

FIGURES = (
    "offered_per_second", "per_second", "p50_ms", "p95_ms", "p99_ms", "mean_batch", "requests",
    "errors", "client_late_p99_ms", "cpu_ms", "gateway_mb", "triton_mb",
    "weights_mb", "best_per_second", "accepted_per_second", "accepted_median_ms", "accepted_p99_ms",
    "refused_per_second", "refused_median_ms", "other", "unsent", "grown_megabytes",
    "gateway_cores", "client_cores", "after_per_second", "memory_mb", "idle_cores",
    "ratio", "least", "most",
)  # fmt: skip
WHOLE = ("requests", "errors", "other", "unsent")  # figures that are counts
APART = ("stage", "function", "round")  # labels of rows that are not in the tables of all rows
CEILINGS = {IMAGE: "image", CAPTION: "text"}  # of each kind of request
OTHERS = {PADDED: "at the full context", TORCH: "PyTorch and FastAPI"}


def tables(results: Results) -> str:
    """Everything that a run measured, ready to be put into a page."""
    parts = [about(results)]
    if any(row.labels.get("system") == OURS for row in results.rows):
        parts.append(_comparison(results.rows))
    if results.checks:
        parts.append(checks_table(results))
    parts += rows_tables(results)
    if any("stage" in row.labels for row in results.rows):
        parts.append(stages.table(results.rows))
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


def _comparison(rows: Sequence[Row]) -> str:
    """A line for each kind of request and concurrency that our service was measured at."""
    known = {
        (row.labels.get("system"), row.labels["kind"], row.labels.get("concurrency")): row.values
        for row in rows
        if not {"batch", "length", "stage", "function", "workers"} & set(row.labels)
    }
    others = [system for system in OTHERS if any(key[0] == system for key in known)]
    header = ["request", "at a time", "items/s", "p50 ms", "p95 ms", "p99 ms", "errors"]
    header += ["ceiling: items/s"]
    for system in others:
        header += [f"{OTHERS[system]}: items/s", "p99 ms"]
    lines: list[list[Cell]] = []
    for (measured, kind, load), values in known.items():
        if measured != OURS or load is None:
            continue
        ceiling = known.get((CEILING, CEILINGS.get(str(kind), ""), None), {})
        line: list[Cell] = [str(kind), load]
        line += [values[name] for name in ("per_second", "p50_ms", "p95_ms", "p99_ms")]
        line += [int(values["errors"]), ceiling.get("per_second")]
        for other in others:
            found = known.get((other, kind, load), {})
            line += [found.get("per_second"), found.get("p99_ms")]
        lines.append(line)
    return markdown(header, lines)


def _cells(row: Row, labels: Sequence[str], figures: Sequence[str]) -> list[Cell]:
    known = [row.labels.get(name) for name in labels]
    return [*known, *(_figure(name, row.values.get(name)) for name in figures)]


def _figure(name: str, value: float | None) -> Cell:
    return int(value) if name in WHOLE and value is not None and value == value else value
