"""The targets of the service, relative to the machine's limits."""

from collections.abc import Iterable, Sequence
from statistics import median

from benchmarks.reporting.results import Check, Label, Row, ratio

OURS, PADDED = "ours", "padded"
CEILING = "ceiling"
OPEN_LOOP = "open loop"  # ours at a constant rate
CAPTION, CAPTIONS, IMAGE = "caption", "16 captions", "image"
LABEL_SET, CAPTION_GRPC, IMAGE_GRPC = "zero-shot, 1,000 labels", "caption, gRPC", "image, gRPC"
SERVED_LOADS = (8, 32)
CHECKED = 0.7  # of the capacity: the load at which an open loop's p99 is compared with its p50
MEMORY_MB, SERVER_SLACK_MB = 200, 300


def medians(rows: Iterable[Row]) -> list[Row]:
    """One row for all repeats of a measurement: the median of each figure, the sum of errors."""
    grouped: dict[tuple[tuple[str, Label], ...], dict[str, list[float]]] = {}
    for row in rows:
        figures = grouped.setdefault(tuple(row.labels.items()), {})
        for name, value in row.values.items():
            figures.setdefault(name, []).append(value)
    return [
        Row(dict(labels), {n: sum(f) if n == "errors" else median(f) for n, f in figures.items()})
        for labels, figures in grouped.items()
    ]


def checks(rows: Sequence[Row]) -> list[Check]:
    """Every target of `python -m benchmarks.compare`.

    Args:
        rows: The medians. A missing figure (NaN) fails; without a padded system there is no check.
    """
    known = {
        (row.labels["system"], row.labels["kind"], row.labels.get("concurrency", 0)): row.values
        for row in rows
        if not {"batch", "length"} & set(row.labels)
    }

    def at(system: str, kind: str, load: int = 0, name: str = "per_second") -> float:
        return known.get((system, kind, load), {}).get(name, float("nan"))

    captions, alone = at(OURS, CAPTION, 32), at(CEILING, "image", name="p50_ms")
    made = [
        Check(f"image, {load} at a time: images/s of ceiling",
              ratio(at(OURS, IMAGE, load), at(CEILING, "image")), 0.90)
        for load in SERVED_LOADS
    ] + [
        Check("image, 1 at a time: p50 of encoder alone + decode",
              ratio(at(OURS, IMAGE, 1, "p50_ms"), alone), 1.15, at_least=False),
        Check("caption, 32 at a time: texts/s of encoder alone",
              ratio(captions, at(CEILING, "text")), 0.85),
        Check("caption, 8 at a time of 32 at a time", ratio(at(OURS, CAPTION, 8), captions), 0.50),
        Check("caption, 32 at a time: mean Triton batch", at(OURS, CAPTION, 32, "mean_batch"), 4.0),
    ]  # fmt: skip
    if any(system == PADDED for system, _, _ in known):
        padded = ratio(captions, at(PADDED, CAPTION, 32))
        made.append(Check("caption, 32 at a time: texts/s of the model padded", padded, 3.5))
    for kind in (IMAGE, CAPTION):
        made.append(tail(kind, *(at(OPEN_LOOP, kind, name=n) for n in ("p50_ms", "p99_ms"))))
        for load in SERVED_LOADS:
            spread = at(OURS, kind, load, "p99_ms") / at(OURS, kind, load, "p50_ms")
            made.append(Check(f"{kind}, {load} at a time: p99 / p50", spread, 2.0, at_least=False))
    weights = at(OURS, "memory", name="weights_mb")
    return [
        *made,
        Check("zero-shot with a warm set of 1,000 labels: time of an image embedding",
              ratio(at(OURS, IMAGE, 8), at(OURS, LABEL_SET, 8)), 1.1, at_least=False),
        Check("gateway: resident MB", at(OURS, "memory", name="gateway_mb"), MEMORY_MB,
              at_least=False),
        Check("Triton: MB beyond weights x instances",
              at(OURS, "memory", name="triton_mb") - weights, SERVER_SLACK_MB, at_least=False),
    ]  # fmt: skip


def tail(kind: str, p50: float, p99: float) -> Check:
    """Whether the tail of an open loop is short at `CHECKED` of the capacity."""
    name = f"open loop, {kind}, {round(CHECKED * 100)} % of capacity: p99 / p50"
    return Check(name, p99 / p50, 3.0, at_least=False)
