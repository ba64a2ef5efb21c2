"""Markdown tables of a report."""

from collections.abc import Sequence

from gateway.models.gate import RECALLS, Measured, Ranking, Recall

NONE = "–"  # noqa: RUF001 (an en dash, for an empty cell)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Format a Markdown table; columns after the first `left` are aligned to the right."""
    marks = ["---"] * left + ["--:"] * (len(head) - left)
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, marks, *escaped))


def recalls(recall: Recall) -> list[float]:
    """List the recalls in the order of `RECALLS`."""
    return [getattr(recall, name) for _, name in RECALLS]


def percent(share: float | None) -> str:
    """Format a share of 0 to 1 in percent; None as an empty cell."""
    return NONE if share is None else f"{100 * share:.2f}"


def by_batch(variants: Sequence[tuple[str, Measured]]) -> str:
    """Tabulate each variant's rankings by batch size and token length."""
    head = ["variant", "batch", "text at, tokens", "pictures", "texts", "top-1 as PyTorch, %",
            "top-5 as PyTorch, %", "zero-shot, %",
            *(f"{name}, %" for name, _ in RECALLS)]  # fmt: skip
    rows = [
        [f"`{name}`", str(each.batch), str(each.length), str(each.pictures), str(each.texts),
         percent(each.agreement.top1), percent(each.agreement.top5), *_shares(each)]
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


def _shares(ranking: Ranking) -> list[str]:
    """Format zero-shot accuracy, then the recalls; missing ones are empty."""
    zero_shot, retrieval = ranking.zero_shot, ranking.retrieval
    accuracy = _with_loss(zero_shot.accuracy, zero_shot.pytorch_accuracy) if zero_shot else NONE
    if retrieval is None:
        return [accuracy, *[NONE] * len(RECALLS)]
    found, pytorch = recalls(retrieval.recall), recalls(retrieval.pytorch_recall)
    return [accuracy, *(_with_loss(*pair) for pair in zip(found, pytorch, strict=True))]


def _with_loss(share: float, pytorch: float) -> str:
    lost = 100 * (pytorch - share)
    return f"{percent(share)} ({lost:.2f})"
