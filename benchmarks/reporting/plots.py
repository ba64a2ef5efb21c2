"""The plots of the results, drawn without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from benchmarks.reporting.knee import knee
from benchmarks.reporting.results import Results, Row

matplotlib.use("Agg")

DPI = 120
PERCENTILES = (("p50_ms", "p50", "-"), ("p99_ms", "p99", "--"))


def open_loop(results: Results, path: Path) -> Path:
    """Latency against offered load, a panel for each kind of request, with the knee marked."""
    kinds = list(dict.fromkeys(row.labels["kind"] for row in results.rows))
    figure = Figure(figsize=(6 * len(kinds), 4.2), layout="constrained")
    for axes, kind in zip(_panels(figure, len(kinds)), kinds, strict=True):
        rows = [row for row in results.rows if row.labels["kind"] == kind]
        offered = [row.values["offered_per_second"] for row in rows]
        for name, label, style in PERCENTILES:
            axes.plot(offered, [row.values[name] for row in rows], style, marker="o", label=label)
        late = [max(row.values["client_late_p99_ms"], 1e-3) for row in rows]
        axes.plot(offered, late, ":", color="grey", label="the client's own lateness, p99")
        at = knee(offered, [row.values["p50_ms"] for row in rows])
        axes.axvline(offered[at], color="black", linewidth=0.8)
        axes.annotate(f" knee: {offered[at]:.3g}/s", (offered[at], 1), xycoords=_top(axes),
                      va="top")  # fmt: skip
        axes.set(xlabel="offered load, requests/s", ylabel="latency, ms", yscale="log")
        axes.set(title=", ".join(filter(None, [str(kind), results.model.get("id")])))
        axes.legend()
    return _save(figure, path)


def throughput(results: Results, kinds: Mapping[str, str], path: Path) -> Path:
    """Items per second by concurrency: a panel for each kind, a bar for each system.

    `kinds` gives the ceiling of each kind, which is drawn as a line.
    """
    ceilings = {
        str(row.labels["kind"]): row.values["per_second"]
        for row in results.rows
        if row.labels.get("system") == "ceiling" and not {"batch", "length"} & set(row.labels)
    }
    loaded = [row for row in results.rows if "concurrency" in row.labels]
    shown = [kind for kind in kinds if any(row.labels["kind"] == kind for row in loaded)]
    figure = Figure(figsize=(5 * max(1, len(shown)), 4), layout="constrained")
    for axes, kind in zip(_panels(figure, len(shown)), shown, strict=True):
        rows = [row for row in loaded if row.labels["kind"] == kind]
        loads = sorted({int(row.labels["concurrency"]) for row in rows})
        systems = list(dict.fromkeys(row.labels["system"] for row in rows))
        for number, system in enumerate(systems):
            rates = [_rate(rows, system, load) for load in loads]
            places = np.arange(len(loads)) + (number + 0.5) / (len(systems) + 1) - 0.5
            axes.bar(places, rates, 1 / (len(systems) + 1), label=str(system), align="edge")
        if kinds[kind] in ceilings:
            axes.axhline(ceilings[kinds[kind]], color="black", linewidth=0.8, label="ceiling")
        axes.set_xticks(range(len(loads)), [str(load) for load in loads])
        axes.set(title=kind, xlabel="requests at a time", ylabel="items/s")
        axes.legend(fontsize="small")
    return _save(figure, path)


def _rate(rows: Sequence[Row], system: str | int, load: int) -> float:
    found = [
        row.values["per_second"]
        for row in rows
        if row.labels["system"] == system and row.labels["concurrency"] == load
    ]
    return found[0] if found else 0.0


def _panels(figure: Figure, count: int) -> list[Any]:
    return [] if not count else list(figure.subplots(1, count, squeeze=False)[0])


def _top(axes: Any) -> Any:  # noqa: ANN401 (matplotlib's own types say no more)
    return axes.get_xaxis_transform()


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    return path
