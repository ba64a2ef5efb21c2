"""Writes the results of a run as files and as Markdown tables."""

import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence

from benchmarks.reporting import stages
from benchmarks.reporting.results import SUFFIX, Check, Results, Row, collect
from benchmarks.reporting.tables import Cell, markdown
from benchmarks.reporting.targets import CAPTION, CEILING, IMAGE, OURS, PADDED
from benchmarks.systems.published import Manifest

APART = ("stage", "function", "round")  # labels of rows that are not in the tables of all rows
CEILINGS = {IMAGE: "image", CAPTION: "text"}  # of each kind of request


def record(
    program: str,
    manifest: Manifest | None,
    given: Namespace,
    rows: Iterable[Row],
    summary: Callable[[Sequence[Row]], Sequence[Row]] = lambda rows: rows,
    checks: Callable[[Sequence[Row]], Sequence[Check]] = lambda _: (),
    versions: Mapping[str, str] | None = None,
    text: Callable[[Results], str] | None = None,
) -> list[Row]:
    """Print each row of a run as soon as it is measured, and return all rows.

    `<program>.benchmark.json` and `<program>.md` are written after each row, so that a stopped run
    is still useful; the latter is printed at the end.

    Args:
        program: Its name.
        manifest: Of the model; None for a service that was already running.
        given: The options of the program; `output` is the folder.
        rows: The measurements.
        summary: Turns the measured rows into those that are written.
        checks: Compares the written rows with their targets.
        versions: Of further packages.
        text: Makes the Markdown; None: `tables`.
    """
    known: list[Row] = []
    written = ""
    for row in rows:
        print(row, flush=True)
        known.append(row)
        shown = summary(known)
        results = collect(program, manifest, vars(given), shown, checks(shown), versions)
        results.write(given.output / f"{program}{SUFFIX}")
        written = (text or tables)(results)
        (given.output / f"{program}.md").write_text(f"{written}\n")
    print(f"\n{written}\n\nWritten to {given.output}: {program}{SUFFIX}, {program}.md")
    return known


def tables(results: Results) -> str:
    """All results of a run as Markdown for a page."""
    parts = [about(results)]
    if {CEILING, OURS} <= {row.labels.get("system") for row in results.rows}:
        parts.append(_comparison(results.rows))
    if results.checks:
        parts.append(checks_table(results))
    parts += rows_tables(results)
    if any("stage" in row.labels for row in results.rows):
        parts.append(stages.table(results.rows))
    return "\n\n".join(parts)


def about(results: Results) -> str:
    """The machine, the time and the versions of the measurement."""
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
    """All rows; those with the same labels and figures share a table, a single one is upright."""
    groups: dict[tuple[str, ...], list[list[Cell]]] = {}
    for row in results.rows:
        if not any(label in row.labels for label in APART):
            cells: list[Cell] = [*row.labels.values(), *row.values.values()]
            groups.setdefault((*row.labels, *row.values), []).append(cells)
    return [
        markdown(names, lines) if len(lines) > 1 else _upright(names, lines[0])
        for names, lines in groups.items()
    ]


def checks_table(results: Results) -> str:
    """All figures with targets."""
    lines = [
        [
            check.name,
            check.value,
            f"{'at least' if check.at_least else 'at most'} {check.target:g}",
            "pass" if check.passed else "**miss**",
        ]
        for check in results.checks
    ]
    return markdown(["what", "measured", "target", ""], lines)


def _upright(names: Sequence[str], cells: Sequence[Cell]) -> str:
    spoken = (name.replace("_", " ") for name in names)
    return markdown(["", ""], list(zip(spoken, cells, strict=True)))


def _comparison(rows: Sequence[Row]) -> str:
    """A line for each kind of request and concurrency that our service was measured at."""
    known = {
        (row.labels["system"], row.labels["kind"], row.labels.get("concurrency")): row.values
        for row in rows
        if not {"batch", "length"} & set(row.labels)
    }
    lines: list[list[Cell]] = []
    for (system, kind, load), values in known.items():
        if system == OURS and load is not None:
            ceiling = known.get((CEILING, CEILINGS.get(str(kind), ""), None), {})
            padded = known.get((PADDED, kind, load), {})
            figures = ("per_second", "p50_ms", "p95_ms", "p99_ms", "errors")
            line: list[Cell] = [kind, load, *(values[name] for name in figures)]
            lines.append([*line, ceiling.get("per_second"), padded.get("per_second")])
    header = ["request", "at a time", "items/s", "p50 ms", "p95 ms", "p99 ms", "errors"]
    return markdown([*header, "ceiling: items/s", "at the full context: items/s"], lines)
