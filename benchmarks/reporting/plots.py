"""The plots of the results, drawn without a display."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.reporting.results import Label, Row
from benchmarks.reporting.targets import CEILING
from benchmarks.systems.peers import OURS

DPI = 120
BLUES = ("#08519c", "#3182bd", "#74add1")  # one colour for each precision of ours
OTHERS = ("#e6853e", "#9a9a9a", "#b5651d", "#c9a66b")
PERCENTILES = (("p50_ms", "p50", "-"), ("p99_ms", "p99", "--"))


def open_loop(measured: Sequence[Row], model: str, path: Path) -> Path:
    """Latency against offered load, a panel for each kind of request, with the knee marked."""
    kinds = list(dict.fromkeys(str(row.labels["kind"]) for row in measured))
    figure = Figure(figsize=(6 * len(kinds), 4.2), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        rows = [row for row in measured if row.labels["kind"] == kind]
        offered = [row.values["offered_per_second"] for row in rows]
        for name, label, style in PERCENTILES:
            axes.plot(offered, [row.values[name] for row in rows], style, marker="o", label=label)
        late = [max(row.values["client_late_p99_ms"], 1e-3) for row in rows]
        axes.plot(offered, late, ":", color="grey", label="the client's own lateness, p99")
        for row, at in zip(rows, offered, strict=True):
            if str(row.labels["state"]).startswith("knee"):
                axes.axvline(at, color="black", linewidth=0.8)
                top = axes.get_xaxis_transform()
                axes.annotate(f" knee: {at:.3g}/s", (at, 1), xycoords=top, va="top")
        axes.set(xlabel="offered load, requests/s", ylabel="latency, ms", yscale="log")
        axes.set(title=", ".join(filter(None, [kind, model])))
        axes.legend()
    return _save(figure, path)


def throughput(measured: Sequence[Row], kinds: Mapping[str, str], path: Path) -> Path:
    """Items per second by concurrency: a panel for each kind, a bar for each system.

    `kinds` gives the ceiling of each kind, drawn as a line if it was measured.
    """
    loads: dict[str, dict[str, dict[int, float]]] = {kind: {} for kind in kinds}
    ceilings: dict[str, float] = {}
    for row in measured:
        system, kind = str(row.labels.get("system")), str(row.labels["kind"])
        if system == CEILING and not {"batch", "length"} & set(row.labels):
            ceilings[kind] = row.values["per_second"]
        elif "concurrency" in row.labels and kind in loads:
            rates = loads[kind].setdefault(system, {})
            rates[int(row.labels["concurrency"])] = row.values["per_second"]
    figure = Figure(figsize=(5 * len(kinds), 4), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        every = sorted({load for rates in loads[kind].values() for load in rates})
        width = 1 / (len(loads[kind]) + 1)
        for number, (system, rates) in enumerate(loads[kind].items()):
            places = np.arange(len(every)) + (number + 0.5) * width - 0.5
            heights = [rates.get(load, 0.0) for load in every]
            axes.bar(places, heights, width, label=system, align="edge")
        if kinds[kind] in ceilings:
            axes.axhline(ceilings[kinds[kind]], color="black", linewidth=0.8, label=CEILING)
        axes.set_xticks(range(len(every)), [str(load) for load in every])
        axes.set(title=kind, xlabel="requests at a time", ylabel="items/s")
        axes.legend(fontsize="small")
    return _save(figure, path)


def side_by_side(measured: Sequence[Row], caption: str, path: Path) -> Path:
    """Items per second and p99 of all services, a panel for captions and one for images."""
    rows = [row for row in measured if "p99_ms" in row.values and "round" not in row.labels]
    systems = dict.fromkeys(str(row.labels["system"]) for row in rows)
    ours, others = cycle(BLUES), cycle(OTHERS)
    colours = {each: next(ours if each.startswith(OURS) else others) for each in systems}
    figure = Figure(figsize=(11, 6.6), layout="constrained")
    for column, item in zip(figure.subplots(2, 2).T, ("caption", "image"), strict=True):
        cells: dict[tuple[Label, Label], dict[str, Mapping[str, float]]] = {}
        for row in rows:
            if item in (kind := str(row.labels["kind"])):
                cell = cells.setdefault((kind, row.labels["concurrency"]), {})
                cell[str(row.labels["system"])] = row.values
        names = [f"{kind}\n{load} at a time" for kind, load in cells]
        for axes, value, title in zip(
            column,
            ("per_second", "p99_ms"),
            (f"{item}s/s, more is better", "p99 in ms, less is better"),
            strict=True,
        ):
            width = 0.84 / len(systems)
            for number, system in enumerate(systems):
                heights = [found[system][value] for found in cells.values()]
                places = np.arange(len(cells)) + number * width - 0.42
                bars = axes.bar(places, heights, 0.92 * width, label=system, align="edge",
                                color=colours[system])  # fmt: skip
                if value == "per_second":
                    axes.bar_label(bars, fmt="%.0f", fontsize=7, padding=1)
            axes.set_xticks(range(len(cells)), names, fontsize=8)
            axes.set_title(title, loc="left", fontsize=10)
            axes.spines[["top", "right"]].set_visible(False)
            if value == "p99_ms":
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter("{x:.0f}")
    handles, labels = column[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    figure.supxlabel(caption, fontsize=8, color="dimgrey")
    return _save(figure, path)


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    return path
