"""What a packed text encoder gains: captions per second, against fixed and exact lengths.

All ways run the same captions in turns, on all cores; the median of the rounds counts. Batches are
filled in the captions' order: at fixed lengths with those that are padded to the same length, at
exact lengths with those of the same length, and packed with any.
"""

import argparse
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.reporting.tables import Cell, markdown
from benchmarks.systems.decoding import cores
from benchmarks.systems.direct import batch_of
from benchmarks.systems.published import TOKEN_IDS, Manifest
from benchmarks.traffic.captions import Captions, tokens

CLIP: Manifest = {"golden": {"token_ids": (49406, 320, 49407)}, "tokenizer": {"pad_id": 0}}
LENGTHS = (16, 24, 32)  # and the full context
BATCHES, PACKED_BATCHES = (4, 8, 16), (1, 4, 8, 16, 32)
HEADER = ("captions", "rows at most", "mean rows", "texts/s")

Ids = NDArray[np.int32]  # [n, L]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run all captions: the calls of a graph, and the seconds that each round took."""

    name: str
    batch: int  # rows at most
    graph: Path
    calls: Sequence[Ids]
    seconds: list[float] = field(default_factory=list)


def ways(packed: Path, fixed: Path, counts: Sequence[int], context: int) -> list[Way]:
    """Every way to run captions with these token counts, none above the context."""
    lengths = [*(length for length in LENGTHS if length < context), context]
    name = f"padded to {'/'.join(map(str, lengths))}"
    exact = range(1, context + 1)
    return [
        *(Way(name, size, fixed, sorted_calls(counts, size, lengths)) for size in BATCHES),
        *(Way("exact lengths", size, fixed, sorted_calls(counts, size, exact)) for size in BATCHES),
        *(Way("packed", size, packed, calls(counts, size)) for size in PACKED_BATCHES),
    ]


def sorted_calls(counts: Sequence[int], size: int, lengths: Sequence[int]) -> list[Ids]:
    """Batches in each of which all captions are padded to the same one of the lengths."""
    made = []
    for place, length in enumerate(lengths):
        own = [count for count in counts if bisect_left(lengths, count) == place]
        made += calls(own, size, length)
    return made


def calls(counts: Sequence[int], size: int, length: int | None = None) -> list[Ids]:
    """Batches of captions as they come, padded to the length, or else to the longest of each."""
    starts = range(0, len(counts), size)
    return [batch_of(CLIP, counts[start : start + size], length) for start in starts]


def measure(made: Sequence[Way], rounds: int) -> None:
    """Times every way once in each round, after a call that does not count."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    providers = ["CPUExecutionProvider"]
    sessions = {
        graph: onnxruntime.InferenceSession(graph, options, providers)
        for graph in {way.graph for way in made}
    }
    for turn in range(rounds):
        for way in made:
            run = sessions[way.graph].run
            if not turn:
                run(None, {TOKEN_IDS: way.calls[0]})
            start = time.perf_counter()
            for ids in way.calls:
                run(None, {TOKEN_IDS: ids})
            way.seconds.append(time.perf_counter() - start)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a row for each way and batch."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.packed_text", description=__doc__
    )
    add = parser.add_argument
    add("packed", type=Path, metavar="PACKED.onnx", help="a packed text encoder of a CLIP model")
    add("fixed", type=Path, metavar="FIXED.onnx", help="one of the same model at fixed lengths")
    add("--context", type=int, default=77, metavar="N", help="tokens at most (default: 77)")
    add("--captions", type=int, default=192, metavar="N", help="how many (default: 192)")
    add("--rounds", type=int, default=3, metavar="N", help="default: 3")
    given = parser.parse_args(arguments)
    counts = [min(tokens(caption), given.context) for caption in Captions().take(given.captions)]
    made = ways(given.packed, given.fixed, counts, given.context)
    measure(made, given.rounds)
    rows: list[list[Cell]] = [
        [way.name, way.batch, len(counts) / len(way.calls), len(counts) / median(way.seconds)]
        for way in made
    ]
    print(markdown(HEADER, rows))


if __name__ == "__main__":
    main()
