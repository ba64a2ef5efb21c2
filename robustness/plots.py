"""Rows -> PNG: small multiples, one colour a model, bands from the 5th to the 95th percentile."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.reporting.results import Row
from robustness.adversarial import changed
from robustness.service import Pixels

DPI = 80
COLUMNS = 4
COLOURS = 10 * ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
QUIET = "#666666"
LEAST = 1e-6  # lowest drawn cost; a logarithmic axis cannot show zero
BESIDE = 0.1  # offset between models that would hide each other, in steps
RINGS = (("white", 2.6), ("black", 1.0))


Shown = tuple[Row, Pixels, Pixels]  # an attack, and its picture before and after


def curves(
    rows: Sequence[Row], units: Mapping[str, str], path: Path, lines: Sequence[Row] = ()
) -> None:
    """Cosine and kept top labels by strength: a panel for each change that has a unit."""
    changes = [change for change in _names(rows, "change") if change in units]
    columns = min(COLUMNS, len(changes))
    size = (3.1, 2.6) if len(changes) > COLUMNS else (12.4 / columns, 3.6)
    height = math.ceil(len(changes) / columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * height + 0.5), layout="constrained")
    grid = figure.subplots(height, columns, sharey=True, squeeze=False).flat
    models = _names(rows, "model")
    for change, axes in zip(changes, grid, strict=False):
        _styled(axes)
        for number, (model, colour) in enumerate(zip(models, COLOURS, strict=False)):
            key = (change, model)
            own = [r for r in rows if (r.labels["change"], r.labels["model"]) == key]
            ticks = np.arange(len(own))
            x = ticks + BESIDE * number
            low, median, high, kept = (
                [row.values[name] for row in own]
                for name in ("cosine_p5", "cosine", "cosine_p95", "top_1_kept")
            )
            axes.fill_between(x, low, high, color=colour, alpha=0.14, linewidth=0)
            axes.plot(x, median, "o-", color=colour, markersize=3.5, label=f"{model}: cosine")
            axes.plot(x, kept, "--", color=colour, linewidth=1, label=f"{model}: top-1 kept")
            axes.set_xticks(ticks, [str(row.labels["strength"]) for row in own])
            for line in lines:
                if (line.labels["change"], line.labels["model"]) == key:
                    start, slope, r2 = (line.values[name] for name in ("at_0", "slope", "r2"))
                    axes.plot(x, start + slope * ticks / ticks[-1], ":", color=colour)
                    said = f"{model}: slope {slope:.2f}, R² {r2:.3f}"
                    axes.annotate(said, (0.98, 0.97 - 0.08 * number), color=colour, va="top",
                                  ha="right", xycoords="axes fraction")  # fmt: skip
        axes.set_title(change, fontsize="medium")
        axes.set_xlabel(units[change], fontsize="small", color=QUIET)
    for axes in figure.axes[len(changes) :]:
        axes.set_visible(False)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center",
                  ncols=4, frameon=False, fontsize="small")  # fmt: skip
    figure.savefig(path, dpi=DPI)


def costs(rows: Sequence[Row], path: Path) -> None:
    """Cost of each fault, 1 - cosine, the highest on top; a dot and a line for each model."""
    models = _names(rows, "model")
    first = [row for row in rows if row.labels["model"] == models[0]]
    order = [row.labels["change"] for row in sorted(first, key=lambda row: -row.values["cosine"])]
    figure = Figure(figsize=(9, 0.36 * len(order) + 1.2), layout="constrained")
    axes = figure.subplots()
    _styled(axes)
    for number, (model, colour) in enumerate(zip(models, COLOURS, strict=False)):
        own = [row for row in rows if row.labels["model"] == model]
        y = [order.index(row.labels["change"]) - 0.2 * number for row in own]
        least, median, most = (
            np.maximum([1 - row.values[name] for row in own], LEAST)
            for name in ("cosine_p95", "cosine", "cosine_p5")
        )
        axes.hlines(y, least, most, color=colour, alpha=0.35, linewidth=3)
        axes.plot(median, y, "o", color=colour, markersize=6, label=model)
    axes.set_xscale("log")
    axes.set_yticks(range(len(order)), [str(each) for each in order])
    axes.set_xlabel("1 - cosine to the right vectors: median, p5 to p95", color=QUIET)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=DPI)


def attacks(shown: Sequence[Shown], path: Path) -> None:
    """The pictures before and after, a line for each model; changed pixels are ringed."""
    models = _names([row for row, _, _ in shown], "model")
    columns = len(shown) // len(models)
    figure = Figure(figsize=(2.3 * columns, 2.6 * (len(models) + 1)), layout="constrained")
    grid = figure.subplots(len(models) + 1, columns, squeeze=False)
    for line, name in enumerate(["as it is", *models]):
        grid[line][0].set_ylabel(name, color=([QUIET, *COLOURS])[line])
    for i, (row, before, after) in enumerate(shown):
        line, column = divmod(i, columns)
        places = changed(before, after)
        said = f"kept with {row.values['tried']:g} pixels"
        if len(places):
            said = f"{row.labels['becomes']}: {len(places)} pixel{'s' * (len(places) > 1)}"
        _picture(grid[0][column], before, str(row.labels["label"]), QUIET)
        _picture(grid[line + 1][column], after, said, COLOURS[line])
        for colour, width in RINGS:
            grid[line + 1][column].scatter(places[:, 1], places[:, 0], s=90, facecolors="none",
                                           edgecolors=colour, linewidths=width)  # fmt: skip
    figure.savefig(path, dpi=DPI)


def _picture(axes: Axes, pixels: Pixels, title: str, colour: str) -> None:
    axes.imshow(pixels, interpolation="nearest")
    axes.set_title(title, fontsize="small", color=colour)
    axes.set(xticks=[], yticks=[])


def _styled(axes: Axes) -> None:
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize="small", color="#aaaaaa")


def _names(rows: Sequence[Row], label: str) -> list[str]:
    return list(dict.fromkeys(str(row.labels[label]) for row in rows))
