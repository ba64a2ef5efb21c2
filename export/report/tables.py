"""Markdown tables of a report."""

from collections.abc import Sequence

from gateway.models.gate import RECALLS, Measured, Ranking, Speed

NONE = "–"  # noqa: RUF001 (an en dash, for an empty cell)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Format a Markdown table; columns after the first `left` are aligned to the right."""
    marks = ["---"] * left + ["--:"] * (len(head) - left)
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, marks, *escaped))


def shares(given: Measured | Ranking) -> tuple[list[float | None], list[float | None]]:
    """The variant's and PyTorch's accuracy, then recalls as `RECALLS`; None where not measured."""
    zero_shot, retrieval = given.zero_shot, given.retrieval
    found: list[float | None] = [zero_shot.accuracy if zero_shot else None]
    pytorch: list[float | None] = [zero_shot.pytorch_accuracy if zero_shot else None]
    for _, name in RECALLS:
        found.append(getattr(retrieval.recall, name) if retrieval else None)
        pytorch.append(getattr(retrieval.pytorch_recall, name) if retrieval else None)
    return found, pytorch


def percent(share: float | None) -> str:
    """Format a share of 0 to 1 in percent; None as an empty cell."""
    return NONE if share is None else f"{100 * share:.2f}"


def factors(speed: Speed) -> list[str]:
    """Format the speeds of the image encoder, of the text encoder and of both together."""
    return [f"{factor:.2f}" for factor in (speed.image, speed.text, speed.both)]


def by_batch(variants: Sequence[tuple[str, Measured]]) -> str:
    """Tabulate each variant's rankings by batch size and token length."""
    head = ["variant", "batch", "text at, tokens", "pictures", "texts", "top-1 as PyTorch, %",
            "top-5 as PyTorch, %", "zero-shot, %",
            *(f"{name}, %" for name, _ in RECALLS)]  # fmt: skip
    rows = [
        [f"`{name}`", str(each.batch), str(each.length), str(each.pictures), str(each.texts),
         percent(each.agreement.top1), percent(each.agreement.top5),
         *map(_with_loss, *shares(each))]
        for name, measured in variants
        for each in measured.rankings
    ]  # fmt: skip
    filled = [at for at in range(len(head)) if any(row[at] != NONE for row in rows)]
    note = (
        "The same at each batch size and token length, over the pictures and texts that ran at it. "
        "In brackets the loss against PyTorch on the same pictures, in points."
    )
    kept = [[row[at] for at in filled] for row in (head, *rows)]
    return f"{note}\n\n{table(kept[0], kept[1:])}"


def _with_loss(share: float | None, pytorch: float | None) -> str:
    if share is None or pytorch is None:
        return NONE
    return f"{percent(share)} ({100 * (pytorch - share):.2f})"


def data_sets(variants: Sequence[tuple[str, Measured]]) -> str:
    """Tabulate CLIP_benchmark's metrics on each data set, next to PyTorch's; empty without any."""
    rows = [
        [each.name, str(each.pictures), name, f"{pytorch:.4f}",
         *(f"{measured.data_sets[at].metrics[name]:.4f}" for _, measured in variants)]
        for at, each in enumerate(variants[0][1].data_sets)
        for name, pytorch in each.pytorch_metrics.items()
    ]  # fmt: skip
    if not rows:
        return ""
    head = ["data set", "pictures", "metric", "PyTorch", *(f"`{name}`" for name, _ in variants)]
    note = "With the names and the definitions of CLIP_benchmark, as shares of 1."
    return f"## Data sets\n\n{note}\n\n{table(head, rows, left=3)}"
