"""One round of a comparison: every system under every load, one at a time."""

from collections.abc import Iterator
from itertools import count

from benchmarks import ceilings
from benchmarks.openloop import CHECKED, sweep
from benchmarks.reporting.results import Label, Row
from benchmarks.reporting.targets import (
    CAPTION,
    CAPTION_GRPC,
    CAPTIONS,
    IMAGE,
    IMAGE_GRPC,
    LABEL_SET,
    OPEN_LOOP,
)
from benchmarks.systems.batching import Counts
from benchmarks.systems.contenders import OURS, PADDED, TORCH, Systems
from benchmarks.systems.published import Manifest, packed
from benchmarks.traffic import loops
from benchmarks.traffic.requests import Request, full_captions, requests

KIND_OF = {
    CAPTION: "rest-text", CAPTIONS: "rest-texts", IMAGE: "rest-image", LABEL_SET: "label-set",
    CAPTION_GRPC: "grpc-text", IMAGE_GRPC: "grpc-image",
}  # fmt: skip
LOADS = {
    OURS: (
        (IMAGE, 1), (IMAGE, 8), (LABEL_SET, 8), (IMAGE, 32), (CAPTION, 1), (CAPTION, 8),
        (CAPTION, 32), (CAPTIONS, 8), (IMAGE_GRPC, 32), (CAPTION_GRPC, 32),
    ),
    PADDED: ((CAPTION, 8), (CAPTION, 32)),
    TORCH: ((IMAGE, 1), (IMAGE, 8), (IMAGE, 32), (CAPTION, 1), (CAPTION, 8), (CAPTION, 32)),
}  # fmt: skip
CAPACITY_LOAD = 32  # whose throughput is the capacity that the open loop offers a part of
OPEN_LONGER = 2.0  # times the seconds of a closed loop: a p99 needs many requests
SEEDS = 1_000  # of one round, so that no caption comes twice in a run


def measure(systems: Systems, seconds: float, repeat: int) -> Iterator[Row]:
    """Every load and every ceiling once; in the first round the memory, before Triton's ceiling."""
    seeds = count(repeat * SEEDS)
    for system in systems.served:
        capacity: dict[str, float] = {}
        for kind, load in LOADS[system]:
            row = _closed(systems, system, kind, load, seconds, next(seeds))
            yield _repeated(row, repeat)
            if load == CAPACITY_LOAD:
                capacity[kind] = row.values["per_second"]
        if system == OURS:
            for kind in (IMAGE, CAPTION):
                yield _repeated(_open(systems, kind, capacity[kind], seconds, next(seeds)), repeat)
            if repeat == 0:
                yield _repeated(Row({"system": OURS, "kind": "memory"}, systems.memory()), repeat)
    rows = ceilings.in_a_process(systems.repository, systems.manifest, seconds, systems.triton.grpc)
    yield from (_repeated(row, repeat) for row in rows)


def requests_for(
    system: str, kind: str, manifest: Manifest, model: str, seed: int
) -> Iterator[Request]:
    """What a system is sent; `model` is its own name for the model.

    A packed text tower drops padding, so captions as long as the context stand for padded ones.
    """
    if system == PADDED and packed(manifest):
        return full_captions(model, manifest["tokenizer"]["context_length"], seed)
    return requests(KIND_OF[kind], model, seed)


def _closed(systems: Systems, system: str, kind: str, load: int, seconds: float, seed: int) -> Row:
    texts = [tower["name"] for tower in systems.manifest["triton"]["text"]]
    before = Counts.read(systems.triton.metrics, texts)
    target = systems.served[system].target
    stream = requests_for(system, kind, systems.manifest, target.model, seed)
    values = loops.measure_stream(target, stream, load, seconds).values()
    if system == OURS and kind in (CAPTION, CAPTION_GRPC):
        after = Counts.read(systems.triton.metrics, texts)
        values["mean_batch"] = after.mean_batch_since(before)
    return Row({"system": system, "kind": kind, "concurrency": load}, values)


def _open(systems: Systems, kind: str, capacity: float, seconds: float, seed: int) -> Row:
    target = systems.served[OURS].target
    length = seconds * OPEN_LONGER
    [row] = sweep(target, KIND_OF[kind], length, (CHECKED,), capacity=capacity, seed=seed)
    labels: dict[str, Label] = {"system": OPEN_LOOP, "kind": kind}
    return Row({**labels, "percent_of_capacity": row.labels["percent_of_capacity"]}, row.values)


def _repeated(row: Row, repeat: int) -> Row:
    return Row({**row.labels, "repeat": repeat}, row.values)
