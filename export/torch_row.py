"""`python -m export.torch_row`: measures OpenCLIP's own PyTorch model, in FP32 on the CPU."""

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image

from export.errors import ExportError
from export.source.checkpoint import Checkpoint, load_checkpoint
from gateway.models.manifest import golden_pixels

BATCHES = (1, 8, 32)
TEXT = "a photo of a cat"
MIN_CALLS = 3  # timed at each batch, however slow


@dataclass(frozen=True, slots=True)
class TorchRow:
    """A measurement.

    Attributes:
        size_bytes: Size of weights and buffers in FP32.
        memory_bytes: Proportional set size of this process after the calls.
        seconds: Duration of each call, by encoder (`image`, `text`) and batch size.
    """

    model: str
    size_bytes: int
    memory_bytes: int
    threads: int
    seconds: dict[str, dict[int, list[float]]]


def measure(checkpoint: Checkpoint, seconds: float, batches: Sequence[int] = BATCHES) -> TorchRow:
    """Time `encode_image` and `encode_text` on inputs in memory, text at its full padded length.

    Args:
        checkpoint: The model.
        seconds: Duration of the measurement for each encoder and batch size.
        batches: Batch sizes.
    """
    model = checkpoint.model
    picture = checkpoint.transform(
        Image.fromarray(golden_pixels(checkpoint.preprocessing.image_size))
    )
    ids = checkpoint.tokenizer([TEXT])
    encoders: dict[str, tuple[Callable[..., torch.Tensor], torch.Tensor]] = {
        "image": (model.encode_image, picture[None]),
        "text": (model.encode_text, ids),
    }
    times = {
        name: {n: _time(encode, item.repeat(n, *[1] * (item.ndim - 1)), seconds) for n in batches}
        for name, (encode, item) in encoders.items()
    }
    tensors = [*model.parameters(), *model.buffers()]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return TorchRow(checkpoint.name, size, _memory(), torch.get_num_threads(), times)


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
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return an exit code as `python -m export` does."""
    parser = argparse.ArgumentParser(prog="python -m export.torch_row", description=__doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", help="as for `python -m export`")
    add("--pretrained", metavar="TAG|FILE", help="weights")
    add("--tokenizer", type=Path, metavar="DIR", help="folder with a Hugging Face tokenizer")
    add("--text-config", type=Path, metavar="DIR", help="folder with a text encoder's config.json")
    add("--seconds", type=float, default=3.0, help="for each figure (default: %(default)s)")
    add("--batches", type=int, nargs="+", default=list(BATCHES), help="items in a call")
    add("--json", action="store_true", help="print every call's seconds as JSON")
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
    row = measure(checkpoint, given.seconds, given.batches)
    sys.stdout.write(json.dumps(asdict(row)) + "\n" if given.json else _readable(row))
    return 0


def _readable(row: TorchRow) -> str:
    lines = [
        f"{row.model}: {row.size_bytes / 1e6:.1f} MB, {row.memory_bytes / 1e6:.0f} MB of memory"
    ]
    for encoder, batches in row.seconds.items():
        lines += [
            f"{encoder} encoder, batch {n}: {1000 * sorted(taken)[len(taken) // 2]:.2f} ms "
            f"(median), {n * len(taken) / sum(taken):.1f} items/s"
            for n, taken in batches.items()
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
