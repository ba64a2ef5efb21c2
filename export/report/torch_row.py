"""`python -m export.report.torch_row`: measures OpenCLIP's own PyTorch model, in FP32 on the CPU.

Prints JSON: the size of weights and buffers and the memory of the process in bytes, and the seconds
of each call by encoder and batch size. `python -m benchmarks.ladder` reads it.
"""

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from export.errors import ExportError
from export.source.checkpoint import Checkpoint, load_checkpoint
from gateway.models.manifest import golden_pixels

BATCHES = (1, 8, 32)
TEXT = "a photo of a cat"
MIN_CALLS = 3  # timed at each batch, however slow


def measure(checkpoint: Checkpoint, seconds: float, batches: Sequence[int]) -> dict[str, object]:
    """Time `encode_image` and `encode_text`, each for `seconds` at each batch size.

    Inputs are in memory, and texts have their full padded length.
    """
    model = checkpoint.model
    pixels = golden_pixels(checkpoint.preprocessing.image_size)
    encoders: dict[str, tuple[Callable[..., torch.Tensor], torch.Tensor]] = {
        "image": (model.encode_image, checkpoint.transform(Image.fromarray(pixels))[None]),
        "text": (model.encode_text, checkpoint.tokenizer([TEXT])),
    }
    times = {
        name: {n: _time(encode, item.repeat(n, *[1] * (item.ndim - 1)), seconds) for n in batches}
        for name, (encode, item) in encoders.items()
    }
    tensors = [*model.parameters(), *model.buffers()]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return {"size_bytes": size, "memory_bytes": _memory(), "seconds": times}


def _time(encode: Callable[..., torch.Tensor], items: torch.Tensor, seconds: float) -> list[float]:
    taken: list[float] = []
    with torch.inference_mode():
        encode(items, normalize=True)
        end = time.perf_counter() + seconds
        while len(taken) < MIN_CALLS or time.perf_counter() < end:
            start = time.perf_counter()
            encode(items, normalize=True)
            taken.append(time.perf_counter() - start)
    return taken


def _memory() -> int:
    """Proportional set size of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return an exit code as `python -m export` does."""
    parser = argparse.ArgumentParser(prog="python -m export.report.torch_row", description=__doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", help="as for `python -m export`")
    add("--pretrained", metavar="TAG|FILE", help="weights")
    add("--tokenizer", type=Path, metavar="DIR", help="folder with a Hugging Face tokenizer")
    add("--text-config", type=Path, metavar="DIR", help="folder with a text encoder's config.json")
    add("--seconds", type=float, default=3.0, help="for each figure (default: %(default)s)")
    add("--batches", type=int, nargs="+", default=list(BATCHES), help="items in a call")
    given = parser.parse_args(arguments)
    logging.disable(logging.ERROR)  # errors are reported below, in one line
    warnings.simplefilter("ignore")
    try:
        checkpoint = load_checkpoint(
            given.model, given.pretrained, given.tokenizer, given.text_config
        )
    except ExportError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return error.exit_code
    print(json.dumps(measure(checkpoint, given.seconds, given.batches)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
