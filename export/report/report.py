"""Writes a report on the variants of one model: tables, plots, and refusals with reasons."""

from collections.abc import Callable, Sequence
from pathlib import Path

from export.gate.variant_report import Latency, VariantReport
from export.report import plots
from export.report.tables import NONE, by_batch, percent, recalls, table
from gateway.models.gate import RECALLS, Measured, Thresholds


def write_report(
    folder: Path, variants: Sequence[VariantReport], machine: str, not_run: Sequence[str] = ()
) -> Path:
    """Write `report.md` with its plots.

    Args:
        folder: Created if missing; replaces the files of an earlier report.
        variants: At least one, all of one model.
        machine: Description of the machine, in one line.
        not_run: One line about each variant that could not run.

    Returns:
        The path of `report.md`.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [
        "# Measured against OpenCLIP in PyTorch FP32",
        f"On {machine}. Every variant saw the same pictures and texts, prepared by the code that "
        "serves.",
        _summary(variants),
        _reasons(variants, not_run),
        "\n".join(f"- note: {note}" for variant in variants for note in variant.notes),
        "## Cosines",
        _cosines(folder, variants),
        "## Rankings",
        _rankings(folder, variants),
        by_batch([(v.id, v.measured) for v in variants]),
        _latency(folder, variants),
        _speeds(variants),
        _recipes(variants),
        "## Every run",
        _runs(variants),
    ]
    path = folder / "report.md"
    path.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
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
    return "\n".join(["What fell short:", "", *lines]) if lines else ""


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


def _asked(thresholds: Thresholds) -> str:
    asked = []
    if thresholds.min_cosine is not None:
        asked.append(f"lowest {thresholds.min_cosine}")
    if thresholds.mean_cosine is not None:
        asked.append(f"mean {thresholds.mean_cosine}")
    return ", ".join(asked) or NONE


def _rankings(folder: Path, variants: Sequence[VariantReport]) -> str:
    first = variants[0].measured
    pytorch: list[float | None] = [None, None]
    names = [f"top-{count} of {first.agreement.candidates} as PyTorch" for count in (1, 5)]
    values = [[v.measured.agreement.top1, v.measured.agreement.top5] for v in variants]
    columns: list[list[float | None]] = [list(row) for row in values]
    if first.zero_shot:
        names.append("zero-shot accuracy")
        pytorch.append(first.zero_shot.pytorch_accuracy)
        _extend(columns, variants, lambda m: [m.zero_shot.accuracy if m.zero_shot else None])
    if first.retrieval:
        names += [name for name, _ in RECALLS]
        pytorch += recalls(first.retrieval.pytorch_recall)
        _extend(columns, variants, _recalled)
    series = [("PyTorch", pytorch), *zip([v.id for v in variants], columns, strict=True)]
    labels = [name.replace(", ", "\n").replace(" as ", "\nas ") for name in names]
    plots.shares_chart(folder / "accuracy.png", labels, series)
    rows = [
        [name, *(percent(values[index]) for _, values in series)]
        for index, name in enumerate(names)
    ]
    head = ("%", "PyTorch", *(f"`{v.id}`" for v in variants))
    return "\n\n".join(("![Accuracy](accuracy.png)", _counts(first), table(head, rows, left=1)))


def _counts(measured: Measured) -> str:
    """Number of pictures behind the shares."""
    zero_shot, retrieval = measured.zero_shot, measured.retrieval
    return ", ".join(
        [
            f"{measured.image.runs[-1].items} pictures",
            *([f"{zero_shot.pictures} of them labelled"] if zero_shot else []),
            *([f"{retrieval.pictures} with a text of their own"] if retrieval else []),
        ]
    )


def _extend(
    columns: list[list[float | None]],
    variants: Sequence[VariantReport],
    more: Callable[[Measured], list[float | None]],
) -> None:
    for column, variant in zip(columns, variants, strict=True):
        column += more(variant.measured)


def _recalled(measured: Measured) -> list[float | None]:
    if measured.retrieval is None:
        return [None] * len(RECALLS)
    return [*recalls(measured.retrieval.recall)]


def _latency(folder: Path, variants: Sequence[VariantReport]) -> str:
    timed = [v for v in variants if v.latency]
    if not timed:
        (folder / "latency.png").unlink(missing_ok=True)
        return ""
    encoders = list(dict.fromkeys(encoder for v in timed for encoder, _ in v.latency))
    known = {v.id: dict(v.latency) for v in variants}
    plots.latency_chart(
        folder / "latency.png",
        encoders,
        [
            (v.id, [_interval(known[v.id].get(encoder)) for encoder in encoders])
            for v in variants
        ],
    )  # fmt: skip
    rows = [
        [f"`{v.id}`", encoder, f"{given.p50_ms:.2f}", f"{given.p99_ms:.2f}"]
        for v in timed
        for encoder, given in v.latency
    ]
    head = ("variant", "encoder", "p50, ms", "p99, ms")
    return f"## Latency\n\n![Latency](latency.png)\n\n{table(head, rows, left=2)}"


def _speeds(variants: Sequence[VariantReport]) -> str:
    rows = [
        [
            f"`{v.id}`",
            str(speed.batch),
            *(f"{x:.2f}" for x in (speed.image, speed.text, speed.both)),
        ]
        for v in variants
        for speed in v.speeds
    ]
    if not rows:
        return ""
    head = ("variant", "batch", "image", "text", "both together")
    note = (
        "FP32's time in ONNX Runtime over the variant's: the median of rounds in which both take "
        "turns on this machine. A variant that is not faster, image and text together, is refused "
        "without `--allow-slow`."
    )
    return f"## Speed against FP32\n\n{note}\n\n{table(head, rows)}"


def _interval(latency: Latency | None) -> tuple[float, float] | None:
    return (latency.p50_ms, latency.p99_ms) if latency else None


def _recipes(variants: Sequence[VariantReport]) -> str:
    lines = [f"- `{v.id}`: {v.recipe}" for v in variants if v.recipe]
    return "\n".join(["## How each was made", "", *lines]) if lines else ""


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
