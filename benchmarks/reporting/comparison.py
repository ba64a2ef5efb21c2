"""The short table of a comparison: our service beside the ceiling and the others."""

from collections.abc import Sequence

from benchmarks.reporting.results import Row
from benchmarks.reporting.tables import Cell, markdown
from benchmarks.reporting.targets import CAPTION, CEILING, IMAGE
from benchmarks.systems.contenders import OURS, PADDED, TORCH

CEILINGS = {IMAGE: "image", CAPTION: "text"}  # of each kind of request
OTHERS = {PADDED: "at the full context", TORCH: "PyTorch and FastAPI"}


def table(rows: Sequence[Row]) -> str:
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
