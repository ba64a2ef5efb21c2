"""Tables of a report in Markdown."""

from collections.abc import Sequence

from gateway.models.gate import RECALLS, Measured, Ranking, Recall

NONE = "–"  # noqa: RUF001 (an en dash, for an empty cell)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; all columns but the first `left` are aligned to the right."""
    marks = ["---"] * left + ["--:"] * (len(head) - left)
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, marks, *escaped))


def recalls(recall: Recall) -> list[float]:
    """In the order of `RECALLS`."""
    return [getattr(recall, name) for _, name in RECALLS]


def percent(share: float | None) -> str:
    """A share of 0 to 1 in percent; empty where there is none."""
    return NONE if share is None else f"{100 * share:.2f}"


def by_batch(variants: Sequence[tuple[str, Measured]]) -> str:
    """A table of each variant's rankings, by batch size and token length, from ids and figures."""
    head = ["variant", "batch", "text at, tokens", "pictures", "texts", "top-1 as PyTorch, %",
            "top-5 as PyTorch, %", "zero-shot, %",
            *(f"{name}, %" for name, _ in RECALLS)]  # fmt: skip
    rows = [
        [f"`{name}`", str(each.batch), str(each.length), str(each.pictures), str(each.texts),
         percent(each.agreement.top1), percent(each.agreement.top5), *_shares(each)]
        for name, measured in variants
        for each in measured.rankings
    ]  # fmt: skip
    told = [at for at in range(len(head)) if any(row[at] != NONE for row in rows)]
    note = (
        "The same at each batch size and token length, over as many pictures and texts as ran at "
        "it. In brackets what is lost to PyTorch on the same pictures, in points."
    )
    kept = [[row[at] for at in told] for row in (head, *rows)]
    return f"{note}\n\n{table(kept[0], kept[1:])}"


def _shares(ranking: Ranking) -> list[str]:
    """Zero-shot accuracy, then the recalls; empty where there are none."""
    zero_shot, retrieval = ranking.zero_shot, ranking.retrieval
    accuracy = _beside(zero_shot.accuracy, zero_shot.pytorch_accuracy) if zero_shot else NONE
    if retrieval is None:
        return [accuracy, *[NONE] * len(RECALLS)]
    found, pytorch = recalls(retrieval.recall), recalls(retrieval.pytorch_recall)
    return [accuracy, *(_beside(*pair) for pair in zip(found, pytorch, strict=True))]


def _beside(share: float, pytorch: float) -> str:
    lost = 100 * (pytorch - share)
    return f"{percent(share)} ({lost:.2f})"
