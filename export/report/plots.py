"""Plots of measured variants as PNG files, in colours for the colour-blind."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from export.gate.metrics import Cosines

# Okabe and Ito, "Color Universal Design"; without its yellow, which is too pale on white.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
GREY = "#777777"
LINES = ("solid", "dashed", "dashdot", "dotted")
RESOLUTION = 1e-8  # smaller distances of float32 vectors are noise
DPI = 120
MANY = 12  # maximum number of bars with values written above them

Series = tuple[str, Sequence[float | None]]  # name, one value per group
Intervals = tuple[str, Sequence[tuple[float, float] | None]]  # name, (p50, p99) per group


def cosine_histogram(path: Path, encoders: dict[str, Sequence[tuple[str, Cosines]]]) -> None:
    """Plot the distances to PyTorch: one panel per encoder, one line per variant.

    Args:
        path: PNG to write.
        encoders: For each encoder, the names of the variants and their cosines.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(encoders), sharey=True))
    given = [cosines for variants in encoders.values() for _, cosines in variants]
    farthest = max((float((1 - cosines).max()) for cosines in given), default=RESOLUTION)
    edges = np.geomspace(RESOLUTION / 2, max(farthest, 1e-3) * 2, 61)
    for panel, (encoder, variants) in zip(panels, encoders.items(), strict=True):
        for index, (name, cosines) in enumerate(variants):
            distances = np.maximum(1 - cosines, RESOLUTION)
            counts, _ = np.histogram(distances, edges)
            shares = counts / len(cosines)
            colour, line = COLOURS[index % len(COLOURS)], LINES[index % len(LINES)]
            panel.stairs(shares, edges, fill=True, color=colour, alpha=0.15)
            panel.stairs(shares, edges, color=colour, linestyle=line, linewidth=1.6, label=name)
        panel.set_xscale("log")
        panel.set_title(f"{encoder} encoder")
        panel.set_xlabel("1 − cosine to PyTorch FP32 (left is better)")  # noqa: RUF001
        panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        _tidy(panel)
    panels[0].set_ylabel("share of items")
    _legend(figure, panels[0])
    figure.savefig(path, dpi=DPI)


def shares_chart(path: Path, groups: Sequence[str], series: Sequence[Series]) -> None:
    """Plot bars from 0 to 100 %, one group per figure, the first series (PyTorch) in grey.

    Args:
        path: PNG to write.
        groups: Names of the figures.
        series: Values of each variant, 0 to 1, or None.
    """
    figure = Figure(figsize=(max(6.0, 1.2 + 0.36 * len(groups) * len(series)), 3.6))
    figure.set_layout_engine("constrained")
    panel = figure.subplots()
    width = 0.84 / len(series)
    for index, (name, values) in enumerate(series):
        places = np.arange(len(groups)) + (index - (len(series) - 1) / 2) * width
        heights = [0.0 if value is None else value for value in values]
        colour = GREY if index == 0 else COLOURS[(index - 1) % len(COLOURS)]
        panel.bar(places, heights, width * 0.92, color=colour, label=name)
        if len(series) > MANY:
            continue
        for place, value in zip(places, values, strict=True):
            if value is not None:
                panel.annotate(
                    f"{100 * value:.3g}", (place, value), (0, 2), ha="center", va="bottom",
                    fontsize=7, textcoords="offset points",
                )  # fmt: skip
    panel.set_xticks(range(len(groups)), groups)
    panel.set_ylim(0, 1.08)
    panel.set_yticks(np.linspace(0, 1, 6))
    panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _tidy(panel)
    _legend(figure, panel)
    figure.savefig(path, dpi=DPI)


def latency_chart(path: Path, groups: Sequence[str], series: Sequence[Intervals]) -> None:
    """Plot median and 99th percentile in milliseconds, one row per variant and group.

    Args:
        path: PNG to write.
        groups: Names of the timed encoders.
        series: (p50, p99) of each variant in milliseconds, or None.
    """
    rows = sum(interval is not None for _, values in series for interval in values)
    figure = Figure(figsize=(7, 1.2 + 0.3 * (rows + len(groups))), layout="constrained")
    panel = figure.subplots()
    ticks: list[tuple[float, str]] = []
    for group, title in enumerate(groups):
        for index, (name, values) in enumerate(series):
            interval = values[group]
            if interval is None:
                continue
            row = len(ticks) + 0.6 * group
            ticks.append((row, f"{name}, {title}"))
            colour = COLOURS[index % len(COLOURS)]
            panel.plot(interval, (row, row), color=colour, linewidth=2)
            panel.plot(interval[0], row, "o", color=colour)
            panel.plot(interval[1], row, "|", color=colour, markersize=11, markeredgewidth=2)
    panel.set_yticks([row for row, _ in ticks], [label for _, label in ticks])
    panel.margins(y=0.1)
    panel.invert_yaxis()
    panel.set_xlim(left=0)
    panel.set_xlabel("milliseconds at batch 1: median (dot) to 99th percentile (bar)")
    _tidy(panel, axis="x")
    figure.savefig(path, dpi=DPI)


def _tidy(panel: Axes, axis: str = "y") -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis=axis, color="#dddddd", linewidth=0.7)  # type: ignore[arg-type]
    panel.set_axisbelow(True)


def _legend(figure: Figure, panel: Axes) -> None:
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False
    )
