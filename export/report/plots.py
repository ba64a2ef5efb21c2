"""Plot of the cosines of measured variants as a PNG file, in colours for the colour-blind."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from export.gate.metrics import Cosines

# Okabe and Ito, "Color Universal Design"; without its yellow, which is too pale on white.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
LINES = ("solid", "dashed", "dashdot", "dotted")
RESOLUTION = 1e-8  # smaller distances of float32 vectors are noise
DPI = 120


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
        panel.set(xscale="log", title=f"{encoder} encoder")
        panel.minorticks_off()  # drawing them takes as long as the rest of the plot
        panel.set_xlabel("1 − cosine to PyTorch FP32 (left is better)")  # noqa: RUF001
        panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="#dddddd", linewidth=0.7)
    panels[0].set_ylabel("share of items")
    handles, labels = panels[0].get_legend_handles_labels()
    columns = min(4, len(labels))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    figure.savefig(path, dpi=DPI)
