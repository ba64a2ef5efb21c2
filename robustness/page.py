"""Rows -> Markdown: a section for each part, with the models side by side."""

from collections.abc import Sequence
from math import nan

from benchmarks.reporting.page import about
from benchmarks.reporting.results import Results, Row
from benchmarks.reporting.tables import Cell, markdown
from robustness.drift import FAST
from robustness.figures import ADVERSARIAL, DRIFT, FIT, GREY, PARTS, PIXELS, TEXT

NAME = "robustness"
TITLES = {
    GREY: "Grey pixels", PIXELS: "Noise, blur, compression, light", DRIFT: "Preprocessing drift",
    TEXT: "Text", ADVERSARIAL: "Adversarial pixels",
}  # fmt: skip
NOT_FAST = "The gateway's fast mode is left out: it needs a gateway that this program starts."


def page(results: Results) -> str:
    """Format the report."""
    models = list(dict.fromkeys(str(row.labels["model"]) for row in results.rows))
    sections = [f"# Robustness of {' and '.join(models)}", about(results)]
    sections.append(f"Measured on {results.settings['measured_on']}.")
    for part in PARTS:
        rows = [row for row in results.rows if row.labels["part"] == part]
        if rows:
            sections += [f"## {TITLES[part]}", f"![{TITLES[part]}]({NAME}-{part}.png)"]
            if part == GREY:
                sections.append(_fits([r for r in results.rows if r.labels["part"] == FIT]))
            if part == DRIFT and FAST not in [row.labels["change"] for row in rows]:
                sections.append(NOT_FAST)
            sections.append(_attacks(rows) if part == ADVERSARIAL else _table(rows, models))
    return "\n\n".join(sections)


def _table(rows: Sequence[Row], models: Sequence[str]) -> str:
    """A line for each change and strength, with cosine, kept labels and accuracy of each model."""
    found = {tuple(row.labels[n] for n in ("change", "strength", "model")): row for row in rows}
    header, lines = ["change", "strength"], []
    for model in models:
        header += [f"{model}: cosine", "p5 to p95", "top-1 kept, %", "accuracy, %"]
    for change, strength in dict.fromkeys(key[:2] for key in found):
        line: list[Cell] = [change, strength]
        for model in models:
            row = found.get((change, strength, model))
            values = row.values if row else {}
            low, median, high = (values.get(f"cosine{end}", nan) for end in ("_p5", "", "_p95"))
            line += [f"{median:.5f}", f"{low:.4f} to {high:.4f}"]
            line += [100 * values.get(name, nan) for name in ("top_1_kept", "accuracy")]
        lines.append(line)
    return markdown(header, lines)


def _fits(rows: Sequence[Row]) -> str:
    lines = [
        [f"{row.labels['model']}: {row.labels['change']}",
         *(f"{row.values[name]:.3f}" for name in ("at_0", "slope", "r2"))]
        for row in rows
    ]  # fmt: skip
    header = ["linear fit of the median cosine", "at 0 %", "change from 0 to 100 %", "R²"]
    return markdown(header, lines)


def _attacks(rows: Sequence[Row]) -> str:
    lines = [
        [row.labels["model"], row.labels["picture"], row.labels["label"],
         row.labels["becomes"] or "not changed", row.values["pixels"] or None,
         row.values["tried"], row.values["embedded"]]
        for row in rows
    ]  # fmt: skip
    header = ["model", "picture", "top label", "becomes", "by pixels", "at most tried", "embedded"]
    return markdown(header, lines)
