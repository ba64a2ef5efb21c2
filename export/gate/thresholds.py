"""The thresholds of each precision, and the check of a variant's figures."""

from collections.abc import Iterator, Mapping

from gateway.models.gate import (
    DATA_SET_ACCURACY,
    DATA_SET_RECALLS,
    RECALLS,
    Measured,
    Ranking,
    Thresholds,
)

_ACCURACY = "zero-shot accuracy"
_ROUNDING = 1e-9  # of float64 sums

Shares = tuple[float, float]  # the variant's and PyTorch's

DEFAULT_THRESHOLDS: Mapping[str, Thresholds] = {
    "fp32": Thresholds(min_cosine=0.99999),
    "fp16": Thresholds(min_cosine=0.9995),
    "bf16": Thresholds(min_cosine=0.9995),
    "int8": Thresholds(mean_cosine=0.99, accuracy_loss=1.0),
    "fp8": Thresholds(mean_cosine=0.99, accuracy_loss=1.0),
}


def failures(measured: Measured, thresholds: Thresholds) -> list[str]:
    """Describe each figure that misses its threshold, and by how much.

    Accuracy, recall and agreement count at each batch size and token length. Vectors that are not
    finite or not of length 1 fail in any case.
    """
    found = []
    for name, encoder in (("image", measured.image), ("text", measured.text)):
        if encoder.bad_vectors:
            found.append(
                f"the {name} encoder gave {encoder.bad_vectors} vectors that are not of length 1"
            )
        found += _short(f"the {name} encoder's lowest cosine", encoder.min_cosine,
                        thresholds.min_cosine)  # fmt: skip
        found += _short(f"the {name} encoder's mean cosine", encoder.mean_cosine,
                        thresholds.mean_cosine)  # fmt: skip
    found += _lost(measured, thresholds)
    found += _lost_on_data_sets(measured, thresholds)
    return found + _disagreement(measured, thresholds.agreement)


def unjudged(
    model_id: str, measured: Measured, thresholds: Thresholds, *, evaluated: bool
) -> list[str]:
    """Warn of accuracy and recall that have a threshold but were not measured.

    With `evaluated` the user gave pictures to evaluate on, so if there is no accuracy, they have
    no classes.
    """
    notes = []
    on_data_sets = {name for each in measured.data_sets for name in each.metrics}
    recalled = measured.retrieval is not None or not on_data_sets.isdisjoint(DATA_SET_RECALLS)
    accurate = measured.zero_shot is not None or DATA_SET_ACCURACY in on_data_sets
    if thresholds.accuracy_loss is not None and not accurate:
        why = "the pictures of --evaluate have no classes" if evaluated else "no --evaluate"
        others = recalled and thresholds.recall_loss is not None
        others |= thresholds.agreement is not None
        rest = "without it" if others else "by its cosines alone"
        notes.append(f"zero-shot accuracy was not measured ({why}): {model_id} was judged {rest}")
    if thresholds.recall_loss is not None and not recalled:
        notes.append(
            f"recall was not measured (no pictures with captions): {model_id} was judged without "
            "--max-recall-loss"
        )
    return notes


def _short(what: str, found: float, needed: float | None) -> Iterator[str]:
    if needed is not None and found < needed:
        yield f"{what} to PyTorch FP32 is {found:.7f}, {needed - found:.2g} short of {needed}"


def _shares(ranking: Ranking) -> dict[str, Shares]:
    """Accuracy and recalls by name, where they were measured."""
    found: dict[str, Shares] = {}
    if given := ranking.zero_shot:
        found[_ACCURACY] = given.accuracy, given.pytorch_accuracy
    if paired := ranking.retrieval:
        for name, field in RECALLS:
            found[name] = getattr(paired.recall, field), getattr(paired.pytorch_recall, field)
    return found


def _lost(measured: Measured, thresholds: Thresholds) -> Iterator[str]:
    """Report the worst ranking by each share that loses more than its limit."""
    limits = {_ACCURACY: thresholds.accuracy_loss}
    limits |= dict.fromkeys((name for name, _ in RECALLS), thresholds.recall_loss)
    rankings = [(_shares(each), each.where) for each in measured.rankings]
    for name, limit in limits.items():
        found = [(*shares[name], where) for shares, where in rankings if name in shares]
        if limit is not None and found:
            share, pytorch, where = max(found, key=lambda each: each[1] - each[0])
            yield from _below(name, share, pytorch, limit, where)


def _lost_on_data_sets(measured: Measured, thresholds: Thresholds) -> Iterator[str]:
    limits = {DATA_SET_ACCURACY: thresholds.accuracy_loss}
    limits |= dict.fromkeys(DATA_SET_RECALLS, thresholds.recall_loss)
    for each in measured.data_sets:
        for name, limit in limits.items():
            if limit is not None and name in each.metrics:
                shares = each.metrics[name], each.pytorch_metrics[name]
                yield from _below(name, *shares, limit, f"data set {each.name}")


def _below(what: str, found: float, pytorch: float, limit: float, where: str) -> Iterator[str]:
    lost = 100 * (pytorch - found)
    if lost > limit + _ROUNDING:
        yield (
            f"{what} is {100 * found:.2f} %, {lost:.2f} points below PyTorch's "
            f"{100 * pytorch:.2f} %, {lost - limit:.2f} more than the {limit:g} allowed ({where})"
        )


def _disagreement(measured: Measured, needed: float | None) -> list[str]:
    worst = min(measured.rankings, key=lambda each: each.agreement.top1, default=None)
    if needed is None or worst is None or worst.agreement.top1 >= needed:
        return []
    found = worst.agreement.top1
    return [
        f"{100 * found:.2f} % of the first candidates are PyTorch's, {100 * (needed - found):.2f} "
        f"points short of {100 * needed:g} % ({worst.where})"
    ]
