"""Writes a report on the variants of one model: tables, plots, and refusals with reasons."""

from collections.abc import Sequence
from pathlib import Path

from export.gate.variant_report import VariantReport
from export.report import plots
from export.report.tables import NONE, by_batch, data_sets, factors, percent, shares, table
from gateway.models.gate import RECALLS, Measured, Thresholds


def write_report(
    folder: Path, variants: Sequence[VariantReport], machine: str, not_run: Sequence[str] = ()
) -> Path:
    """Write `report.md` with a plot of the cosines; return its path.

    Args:
        folder: Created if missing; replaces the files of an earlier report.
        variants: At least one, all of one model.
        machine: Description of the machine, in one line.
        not_run: One line about each variant that could not run.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [
        f"# Model card of {variants[0].id}",
        next((each.about for each in variants if each.about), ""),
        "## Measured against OpenCLIP in PyTorch FP32",
        f"On {machine}. Every variant saw the same pictures and texts, prepared by the code that "
        "serves.",
        _summary(variants),
        _reasons(variants, not_run),
        "\n".join(f"- note: {note}" for variant in variants for note in variant.notes),
        "## Cosines",
        _cosines(folder, variants),
        "## Rankings",
        _rankings(variants),
        by_batch([(v.id, v.measured) for v in variants]),
        data_sets([(v.id, v.measured) for v in variants]),
        _latency(variants),
        _speeds(variants),
        _recipes(variants),
        "## Every run",
        _runs(variants),
    ]
    path = folder / "report.md"
    path.write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")
    return path


def _summary(variants: Sequence[VariantReport]) -> str:
    rows = [
        [
            f"`{v.id}`", v.precision, v.runtime, v.outcome, f"{v.size_bytes / 1e6:.1f}",
            f"{v.measured.image.min_cosine:.6f}", f"{v.measured.text.min_cosine:.6f}",
            percent(v.measured.zero_shot.accuracy if v.measured.zero_shot else None),
        ]
        for v in variants
    ]  # fmt: skip
    pytorch = variants[0].measured.zero_shot
    rows.insert(0, ["PyTorch", "fp32", "PyTorch", "the reference", NONE, "1", "1",
                    percent(pytorch.pytorch_accuracy if pytorch else None)])  # fmt: skip
    head = ("variant", "precision", "runtime", "outcome", "MB", "lowest cosine, image",
            "lowest cosine, text", "zero-shot, %")  # fmt: skip
    return table(head, rows, left=4)


def _reasons(variants: Sequence[VariantReport], not_run: Sequence[str]) -> str:
    lines = [f"- `{v.id}`, {v.outcome}: {line}" for v in variants for line in v.failures]
    lines += [f"- {line}" for line in not_run]
    return "\n".join(["Missed thresholds:", "", *lines]) if lines else ""


def _cosines(folder: Path, variants: Sequence[VariantReport]) -> str:
    plots.cosine_histogram(
        folder / "cosines.png",
        {
            "image": [(v.id, v.image_cosines) for v in variants],
            "text": [(v.id, v.text_cosines) for v in variants],
        },
    )
    rows = [
        [f"`{v.id}`", name, f"{encoder.min_cosine:.7f}", f"{encoder.p1_cosine:.7f}",
         f"{encoder.mean_cosine:.7f}", _asked(v.thresholds)]
        for v in variants
        for name, encoder in (("image", v.measured.image), ("text", v.measured.text))
    ]  # fmt: skip
    head = ("variant", "encoder", "lowest", "1st percentile", "mean", "asked for")
    note = "Each figure is the worst of all token lengths and batch sizes."
    return f"![Distance from PyTorch](cosines.png)\n\n{note}\n\n{table(head, rows, left=2)}"


def _asked(limits: Thresholds) -> str:
    asked = (("lowest", limits.min_cosine), ("mean", limits.mean_cosine))
    return ", ".join(f"{name} {value}" for name, value in asked if value is not None) or NONE


def _rankings(variants: Sequence[VariantReport]) -> str:
    first = variants[0].measured
    counts = (f"top-{count} of {first.agreement.candidates} as PyTorch" for count in (1, 5))
    names = [*counts, "zero-shot accuracy", *(name for name, _ in RECALLS)]
    columns = [[None, None, *shares(first)[1]]]
    for measured in (variant.measured for variant in variants):
        agreement = measured.agreement
        columns.append([agreement.top1, agreement.top5, *shares(measured)[0]])
    rows = [
        [name, *map(percent, row)]
        for name, *row in zip(names, *columns, strict=True)
        if any(share is not None for share in row)
    ]
    head = ("%", "PyTorch", *(f"`{v.id}`" for v in variants))
    return f"{_counts(first)}\n\n{table(head, rows)}"


def _counts(measured: Measured) -> str:
    """Number of pictures behind the shares."""
    counts = [f"{max(each.pictures for each in measured.rankings)} pictures"]
    if measured.zero_shot:
        counts.append(f"{measured.zero_shot.pictures} of them labelled")
    if measured.retrieval:
        counts.append(f"{measured.retrieval.pictures} with a text of their own")
    return ", ".join(counts)


def _latency(variants: Sequence[VariantReport]) -> str:
    rows = [
        [f"`{v.id}`", encoder, f"{given.p50_ms:.2f}", f"{given.p99_ms:.2f}"]
        for v in variants
        for encoder, given in v.latency
    ]
    head = ("variant", "encoder", "p50, ms", "p99, ms")
    return f"## Latency\n\n{table(head, rows, left=2)}" if rows else ""


def _speeds(variants: Sequence[VariantReport]) -> str:
    rows = [[f"`{v.id}`", str(each.batch), *factors(each)] for v in variants for each in v.speeds]
    if not rows:
        return ""
    head = ("variant", "batch", "image", "text", "both together")
    note = (
        "FP32's time in ONNX Runtime over the variant's: the median of rounds in which both take "
        "turns on this machine. A variant that is not faster, image and text together, is refused "
        "without `--allow-slow`."
    )
    return f"## Speed against FP32\n\n{note}\n\n{table(head, rows)}"


def _recipes(variants: Sequence[VariantReport]) -> str:
    lines = [f"- `{v.id}`: {v.recipe}" for v in variants if v.recipe]
    return "\n".join(["## Recipes", "", *lines]) if lines else ""


def _runs(variants: Sequence[VariantReport]) -> str:
    rows = [
        [f"`{v.id}`", "image" if run.length is None else f"text, {run.length} tokens",
         str(run.batch), str(run.items), f"{run.min_cosine:.7f}", f"{run.mean_cosine:.7f}",
         str(run.bad_vectors)]
        for v in variants
        for run in (*v.measured.image.runs, *v.measured.text.runs)
    ]  # fmt: skip
    head = ("variant", "encoder", "batch", "items", "lowest cosine", "mean cosine", "bad vectors")
    return table(head, rows, left=2)
