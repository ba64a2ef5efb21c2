"""The gateway's CPU time by stage: assignment of samples to stages, tables, targets."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.reporting.results import Check, Row, ratio
from benchmarks.reporting.tables import Cell, markdown

ALONE = "decode alone"
MOST_MS = 1.0  # of a text request, and of an image request without decoding
WORKERS_MOST = 1.1  # times the CPU of one worker
OTHER = "rest of the gateway"
LOOP = "event loop"
THREADS = "gRPC's threads"
IMAGE_THREADS = ("prepare", "ThreadPoolExecutor", "asyncio_")

# The stage of a frame by its module, or its module and function; the first match counts.
STAGES = (
    # The event loop's code, such as uvicorn's other modules, is at the bottom of every stack, and
    # so matches only if nothing else does.
    ("gateway.__main__", LOOP),
    ("gateway.process", LOOP),
    ("gateway.images.preprocess", "decode"),
    ("PIL.", "decode"),
    ("gateway.models.tokenizer", "tokenize"),
    ("ftfy", "tokenize"),
    ("gateway.rest.convert", "encode answer"),
    ("gateway.rest.endpoints", "encode answer"),
    ("gateway.rpc.convert", "encode answer"),
    ("gateway.inference.grpc_client", "call Triton"),
    ("gateway.inference.messages", "call Triton"),
    ("tritonclient", "call Triton"),
    ("gateway.rest", "HTTP"),
    ("uvicorn.protocols", "HTTP"),
    ("uvicorn.middleware", "HTTP"),
    ("uvicorn", LOOP),
    ("starlette", "HTTP"),
    ("fastapi", "HTTP"),
    ("httptools", "HTTP"),
    ("pydantic", "HTTP"),
    ("gateway.rpc", "gRPC edge"),
    ("grpc", "gRPC edge"),
    ("gateway", OTHER),
)


def shares(profile: Mapping[str, Any]) -> dict[str, float]:
    """Share of the CPU time by stage, from a file of `benchmarks.systems.sampler`; sums to 1."""
    found: Counter[str] = Counter()
    for stack, seconds in profile["main"]:
        found[stage(stack)] += seconds
    for name, seconds in profile["threads"].items():
        found["decode" if name.startswith(IMAGE_THREADS) else THREADS] += seconds
    whole = found.total() or 1.0
    return {name: seconds / whole for name, seconds in found.most_common()}


def stage(stack: Iterable[str]) -> str:
    """The stage of a stack of `module:function`, innermost first."""
    for frame in stack:
        for prefix, name in STAGES:
            if frame.startswith(prefix):
                return name
    return LOOP


def hottest(profile: Mapping[str, Any], count: int) -> list[tuple[str, float]]:
    """The functions with the most own CPU time of the main thread, with their shares."""
    found: Counter[str] = Counter()
    for stack, seconds in profile["main"]:
        found[stack[0] if stack else ""] += seconds
    return [(name, seconds / found.total()) for name, seconds in found.most_common(count)]


def checks(rows: Sequence[Row]) -> list[Check]:
    """Checks of the gateway's cost; none for figures that were not measured."""
    whole = {str(r.labels["kind"]): r.values["cpu_ms"] for r in rows if set(r.labels) == {"kind"}}
    made = []
    if "rest-text" in whole:
        value = whole["rest-text"]
        made.append(Check("gateway CPU per text request, REST, ms", value, MOST_MS, False))
    if "rest-image" in whole:
        value = whole["rest-image"] - whole[ALONE]
        name = "gateway CPU per image request without decoding, REST, ms"
        made.append(Check(name, value, MOST_MS, False))
    for what in ("text", "image"):
        if {f"rest-{what}", f"grpc-{what}"} <= set(whole):
            value = ratio(whole[f"grpc-{what}"], whole[f"rest-{what}"])
            made.append(Check(f"gateway CPU per {what} request, gRPC / REST", value, 1.0, False))
    for row in (row for row in rows if "workers" in row.labels):
        kind, workers = str(row.labels["kind"]), row.labels["workers"]
        name = f"gateway CPU per request, {kind}, {workers} workers / 1"
        value = ratio(row.values["cpu_ms"], whole[kind])
        made.append(Check(name, value, WORKERS_MOST, False))
    return made


def table(rows: Sequence[Row]) -> str:
    """A table of milliseconds, a row per stage and a column per kind."""
    kinds = list(dict.fromkeys(str(r.labels["kind"]) for r in rows if "stage" in r.labels))
    names = list(dict.fromkeys(str(r.labels["stage"]) for r in rows if "stage" in r.labels))
    known = {
        (row.labels["kind"], row.labels.get("stage", "all")): row.values["cpu_ms"]
        for row in rows
        if "cpu_ms" in row.values and not {"workers", "function"} & set(row.labels)
    }
    lines: list[list[Cell]] = [
        [name, *(known.get((kind, name)) for kind in kinds)] for name in [*names, "all"]
    ]
    return markdown(["CPU ms per request", *kinds], lines)


def functions(rows: Sequence[Row]) -> str:
    """A table per kind of the hottest functions of the main thread."""
    found = [row for row in rows if "function" in row.labels]
    lines: list[list[Cell]] = [
        [f"`{row.labels['function']}`", str(row.labels["kind"]), row.values["share_of_main_thread"]]
        for row in found
    ]
    return markdown(["function", "kind", "share of the main thread"], lines)
