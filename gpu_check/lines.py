"""The lines of a check, in one JSON file of the benchmarks' schema and one Markdown file."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.reporting import results
from benchmarks.reporting.page import about
from benchmarks.reporting.results import SUFFIX, Label, Results, ResultsError, Row
from benchmarks.reporting.tables import Cell, markdown

NAME = "gpu-check"
PARTS = ("environment", "encoders", "plans", "service")
PASS, FAIL, NOT_HERE = "pass", "fail", "not here"
LONGEST = 300  # characters of a reason


def line(
    part: str, labels: dict[str, Label], verdict: str, why: object = "", **figures: float
) -> Row:
    """One line: the labels, the verdict, the reason or the error, and the figures."""
    reason = " ".join(str(why).replace("|", "/").split())[:LONGEST]
    return Row({"part": part, **labels, "verdict": verdict, "why": reason}, figures)


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Sort lines by their part."""
    return sorted(rows, key=lambda row: PARTS.index(str(row.labels["part"])))


def kept(output: Path, parts: Sequence[str], models: Sequence[str]) -> list[Row]:
    """Read the lines that a run of these parts and models does not replace.

    Raises:
        ResultsError: They are from another machine, or cannot be read.
    """
    path = output / f"{NAME}{SUFFIX}"
    if not path.exists():
        return []
    found = Results.read(path)
    if found.machine != results.machine():
        raise ResultsError(f"{path} is from another machine; give another --output")
    return [
        row
        for row in found.rows
        if row.labels["part"] not in parts or row.labels.get("model", models[0]) not in models
    ]


def page(found: Results) -> str:
    """Format all lines as Markdown: the counts of verdicts, then a table for each part."""
    counts = Counter(row.labels["verdict"] for row in found.rows)
    counted = ", ".join(f"{counts[verdict]} {verdict}" for verdict in (PASS, FAIL, NOT_HERE))
    sections = ["# GPU check", about(found), f"{counted}."]
    for part in dict.fromkeys(row.labels["part"] for row in found.rows):
        rows = [row for row in found.rows if row.labels["part"] == part]
        last = ["verdict", "why"]
        labels = [n for n in _union(row.labels for row in rows) if n not in ("part", *last)]
        columns = [*labels, *_union(row.values for row in rows), *last]
        cells = [[_cell(row, name) for name in columns] for row in rows]
        sections += [f"## {part}", markdown(columns, cells)]
    return "\n\n".join(sections)


def _cell(row: Row, name: str) -> Cell:
    value = row.labels.get(name, row.values.get(name))
    return f"{value:.7f}" if name.endswith("cosine") and isinstance(value, float) else value


def _union(names: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for each in names for name in each))
