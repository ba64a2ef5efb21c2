"""Which part of the gateway a sample of its CPU time belongs to."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

OTHER = "rest of the gateway"
LOOP = "event loop"
THREADS = "gRPC's threads"
IMAGE_THREADS = ("prepare", "ThreadPoolExecutor", "asyncio_")

# The stage of a frame by its module, or its module and function; the first that fits counts.
STAGES = (
    # What runs the loop, as uvicorn's other modules do, is below every stack, and so is reached
    # only where nothing else fits.
    ("gateway.__main__", LOOP),
    ("gateway.images.preprocess", "decode"),
    ("PIL.", "decode"),
    ("gateway.models.tokenizer", "tokenize"),
    ("ftfy", "tokenize"),
    ("gateway.rest.convert", "encode answer"),
    ("gateway.rest.responses", "encode answer"),
    ("gateway.rpc.convert", "encode answer"),
    ("gateway.inference.grpc_client", "call Triton"),
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
    """Each stage's part of the CPU time, from a file of `benchmarks.systems.sampler`; sums to 1."""
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
    """The functions that use most of the main thread's CPU time themselves, with their parts."""
    found: Counter[str] = Counter()
    for stack, seconds in profile["main"]:
        found[stack[0] if stack else ""] += seconds
    return [(name, seconds / found.total()) for name, seconds in found.most_common(count)]
