"""What the precision ladder found, as a Markdown table and as JSON."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.reporting import results
from benchmarks.systems.rungs import BATCHES, ENCODERS, Row
from benchmarks.systems.variants import Target
from server.backends.processor import processor_flags

NONE = "–"  # noqa: RUF001 (an en dash, for an empty cell)
FLAGS = (  # of processors, that decide which precision is fast
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
)  # fmt: skip
NOTES = """\
PyTorch runs in its own process, with OMP_WAIT_POLICY=PASSIVE, on input that is ready in memory.
The others are served by Triton, one at a time, and timed by a client on the same machine that
sends its next request when the last is answered. Text is at the full context length for all of
them; served at fewer tokens it is faster. Memory is that of tritonserver and the processes of all
encoders, or of PyTorch's process."""


def table(rows: Sequence[Row]) -> str:
    """A Markdown table, one row per variant, PyTorch first."""
    head = [
        "model", "size, MB", "lowest cosine, image / text", "zero-shot, %",
        *(f"{t}: p50 / p99 at batch 1, ms" for t in ENCODERS),
        *(f"{t}s/s at batch {' / '.join(map(str, BATCHES[1:]))}" for t in ENCODERS),
        "memory, MB",
    ]  # fmt: skip
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *(_cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(row: Row) -> list[str]:
    return [
        row.name,
        f"{row.size_bytes / 1e6:.1f}",
        " / ".join(f"{cosine:.6f}" for cosine in row.min_cosines or ()) or NONE,
        NONE if row.zero_shot is None else f"{100 * row.zero_shot:.1f}",
        *(_joined([row.percentile(encoder, p) for p in (50, 99)]) for encoder in ENCODERS),
        *(_joined([row.per_second(encoder, n) for n in BATCHES[1:]]) for encoder in ENCODERS),
        f"{max(row.memory_bytes) / 1e6:.0f}" if row.memory_bytes else NONE,
    ]


def _joined(values: Iterable[float | None]) -> str:
    return " / ".join(NONE if value is None else _short(value) for value in values)


def _short(value: float) -> str:
    """With three digits or more."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The figures of the table, and those that it has no room for."""
    return [
        {
            "name": row.name,
            "size_bytes": row.size_bytes,
            "min_cosines": row.min_cosines,
            "zero_shot_accuracy": row.zero_shot,
            "memory_bytes": row.memory_bytes,
            "towers": {
                encoder: {
                    "p50_ms": row.percentile(encoder, 50),
                    "p99_ms": row.percentile(encoder, 99),
                    "items_per_second": {
                        n: row.per_second(encoder, n) for n in row.seconds[encoder]
                    },
                    "calls": {n: len(taken) for n, taken in row.seconds[encoder].items()},
                }
                for encoder in ENCODERS
            },
        }
        for row in rows
    ]


def machine() -> str:
    """What this runs on, in a line."""
    found = results.machine()
    known = processor_flags() or ()
    flags = " ".join(flag for flag in FLAGS if flag in known) or "none of its matrix flags"
    return f"{found['cpu']} ({flags}), {found['cores']} cores; Python {found['python']}"


def write(folder: Path, target: Target, rows: Sequence[Row], seconds: float) -> Path:
    """Writes `ladder-<model>.md` and `.json` into a folder; returns the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    title = " ".join(filter(None, (target.model, target.pretrained)))
    path = folder / f"ladder-{target.slug}.md"
    path.write_text(
        f"# The precision ladder of {title}\n\nOn {machine()}; {seconds:g} s for each figure and "
        f"round.\n\n{table(rows)}\n\n{NOTES}\n",
        encoding="utf-8",
    )
    content = {"model": target.model, "pretrained": target.pretrained, "machine": machine(),
               "seconds": seconds, "rows": as_json(rows)}  # fmt: skip
    path.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path
