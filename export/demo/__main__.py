"""Command line of the demo model: ``python -m export.demo train|samples|scenes``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from export.demo.model import CHECKPOINT
from export.demo.samples import write_samples, write_scenes
from export.demo.train import Progress, Recipe, save_checkpoint, train

THREADS = 2
EVERY = 25  # steps between reports


def _print_progress(progress: Progress, steps: int) -> None:
    if progress.step % EVERY == 0 or progress.step in (1, steps):
        print(
            f"step {progress.step:5}/{steps}  loss {progress.loss:.3f}  "
            f"accuracy {progress.accuracy:6.1%}  {progress.elapsed:5.0f} s",
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the model from nothing on the CPU, or draw the sample images or other scenes."""
    parser = argparse.ArgumentParser(prog="python -m export.demo", description=main.__doc__)
    commands = parser.add_subparsers(required=True, dest="command")
    add = commands.add_parser("train").add_argument
    add(
        "--steps", type=int, default=Recipe().steps, help="of 48 scenes each (default: %(default)s)"
    )
    add("--out", type=Path, default=CHECKPOINT, help="safetensors to write (default: %(default)s)")
    add = commands.add_parser("samples").add_argument
    add("--out", type=Path, default=Path("docs/samples"), help="folder (default: %(default)s)")
    add = commands.add_parser("scenes").add_argument
    add("--count", type=int, default=1_000, help="number of scenes (default: %(default)s)")
    add("--seed", type=int, default=0, help="another one draws others (default: %(default)s)")
    add("--out", type=Path, required=True, help="folder for the pictures")
    add("--captions", type=Path, required=True, help="file for their captions, one a line")
    given = parser.parse_args(arguments)
    if given.command == "samples":
        written = write_samples(given.out)
    elif given.command == "scenes":
        write_scenes(given.out, given.captions, given.count, given.seed)
        written = [given.captions]
    else:
        torch.set_num_threads(THREADS)
        recipe = Recipe(steps=given.steps)
        save_checkpoint(train(recipe, lambda p: _print_progress(p, recipe.steps)), given.out)
        written = [given.out]
    for path in written:
        print(f"wrote {path} ({path.stat().st_size:,} bytes)")


if __name__ == "__main__":
    main()
