"""The targets of the service, relative to what the machine allows and what users run today."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median

from benchmarks.reporting.results import Check, Row, ratio
from benchmarks.systems.contenders import OURS, PADDED, TORCH

CEILING = "ceiling"
OPEN_LOOP = "open loop"  # ours at a constant rate
CAPTION, CAPTIONS, IMAGE = "caption", "16 captions", "image"
LABEL_SET, CAPTION_GRPC, IMAGE_GRPC = "zero-shot, 1,000 labels", "caption, gRPC", "image, gRPC"
SERVED_LOADS = (8, 32)
CHECKED = 0.7  # of the capacity: the load at which an open loop's p99 is held against its p50
MEMORY_MB, SERVER_SLACK_MB = 200, 300

Key = tuple[str, str, int]  # system, kind, concurrency
Figure = Callable[[Key, str], float]


def medians(rows: Iterable[Row]) -> list[Row]:
    """One row for all repeats of a measurement: the median of each figure; errors are added up."""
    grouped: dict[tuple[tuple[str, str | int], ...], list[Row]] = {}
    for row in rows:
        grouped.setdefault(tuple(row.labels.items()), []).append(row)
    return [Row(dict(labels), _median(several)) for labels, several in grouped.items()]


def checks(rows: Sequence[Row]) -> list[Check]:
    """Every target that has to do with the systems that were measured.

    Args:
        rows: The medians. What is missing of a system that was measured fails, as NaN.
    """
    known: dict[Key, Mapping[str, float]] = {
        (
            str(row.labels.get("system", "")),
            str(row.labels["kind"]),
            int(row.labels.get("concurrency", 0)),
        ): row.values
        for row in rows
        if not {"batch", "length"} & set(row.labels)
    }
    systems = {system for system, _, _ in known}

    def figure(key: Key, name: str) -> float:
        return known.get(key, {}).get(name, float("nan"))

    made = _ceilings(figure)
    made += _padded(figure) if PADDED in systems else []
    made += _pytorch(figure) if TORCH in systems else []
    return [*made, *_tails(figure), *_costs(figure)]


def tail(kind: str, p50: float, p99: float) -> Check:
    """Whether the tail of an open loop is short at `CHECKED` of the capacity."""
    name = f"open loop, {kind}, {round(CHECKED * 100)} % of capacity: p99 / p50"
    return _check(name, p99 / p50, 3.0, at_least=False)


def _ceilings(figure: Figure) -> list[Check]:
    image_ceiling = figure((CEILING, "image", 0), "per_second")
    text_ceiling = figure((CEILING, "text", 0), "per_second")
    made = [
        _check(
            f"image, {load} at a time: images/s of ceiling",
            ratio(figure((OURS, IMAGE, load), "per_second"), image_ceiling),
            0.90,
        )
        for load in SERVED_LOADS
    ]
    alone = figure((CEILING, "image", 0), "p50_ms")
    made.append(
        _check(
            "image, 1 at a time: p50 of encoder alone + decode",
            ratio(figure((OURS, IMAGE, 1), "p50_ms"), alone),
            1.15,
            at_least=False,
        )
    )
    captions = figure((OURS, CAPTION, 32), "per_second")
    made += [
        _check(
            "caption, 32 at a time: texts/s of encoder alone", ratio(captions, text_ceiling), 0.85
        ),
        _check(
            "caption, 8 at a time of 32 at a time",
            ratio(figure((OURS, CAPTION, 8), "per_second"), captions),
            0.50,
        ),
        _check(
            "caption, 32 at a time: mean Triton batch",
            figure((OURS, CAPTION, 32), "mean_batch"),
            4.0,
        ),
    ]
    return made


def _padded(figure: Figure) -> list[Check]:
    captions, padded = (figure((system, CAPTION, 32), "per_second") for system in (OURS, PADDED))
    return [
        _check("caption, 32 at a time: texts/s of the model padded", ratio(captions, padded), 3.5)
    ]


def _pytorch(figure: Figure) -> list[Check]:
    made = [
        _check(
            f"{kind}, 32 at a time: items/s of the PyTorch server",
            ratio(figure((OURS, kind, 32), "per_second"), figure((TORCH, kind, 32), "per_second")),
            target,
        )
        for kind, target in ((IMAGE, 1.5), (CAPTION, 5.0))
    ]
    made += [
        _check(
            f"{kind}, 32 at a time: p99 of the PyTorch server",
            ratio(figure((OURS, kind, 32), "p99_ms"), figure((TORCH, kind, 32), "p99_ms")),
            1.0,
            at_least=False,
        )
        for kind in (IMAGE, CAPTION)
    ]
    return made


def _tails(figure: Figure) -> list[Check]:
    offered = [
        tail(kind, *(figure((OPEN_LOOP, kind, 0), name) for name in ("p50_ms", "p99_ms")))
        for kind in (IMAGE, CAPTION)
    ]
    return offered + [
        _check(
            f"{kind}, {load} at a time: p99 / p50",
            figure((OURS, kind, load), "p99_ms") / figure((OURS, kind, load), "p50_ms"),
            2.0,
            at_least=False,
        )
        for kind in (IMAGE, CAPTION)
        for load in SERVED_LOADS
    ]


def _costs(figure: Figure) -> list[Check]:
    image = figure((OURS, IMAGE, 8), "per_second")
    labelled = figure((OURS, LABEL_SET, 8), "per_second")
    memory: Key = (OURS, "memory", 0)
    return [
        _check(
            "zero-shot with a warm set of 1,000 labels: time of an image embedding",
            ratio(image, labelled),
            1.1,
            at_least=False,
        ),
        _check("gateway: resident MB", figure(memory, "gateway_mb"), MEMORY_MB, at_least=False),
        _check(
            "Triton: MB beyond weights x instances",
            figure(memory, "triton_mb") - figure(memory, "weights_mb"),
            SERVER_SLACK_MB,
            at_least=False,
        ),
    ]


def _check(name: str, value: float, target: float, *, at_least: bool = True) -> Check:
    return Check(name, value, target, at_least)


def _median(rows: Sequence[Row]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row.values)
    values = {name: [row.values[name] for row in rows if name in row.values] for name in names}
    return {
        name: sum(found) if name == "errors" else median(found) for name, found in values.items()
    }
