"""Command line of the demo model: ``python -m export.demo train|evaluate|samples``."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import torch

from export.demo.captions import HELD_OUT_TEMPLATES
from export.demo.evaluate import CHECKPOINT, PLAIN_TEMPLATES, accuracy, create_demo
from export.demo.samples import write_samples
from export.demo.train import Progress, Recipe, save_checkpoint, train

EVALUATION_SEED = 777


def _print_progress(progress: Progress, steps: int, every: int = 25) -> None:
    if progress.step % every == 0 or progress.step in (1, steps):
        print(
            f"step {progress.step:5}/{steps}  loss {progress.loss:.3f}  "
            f"accuracy {progress.accuracy:6.1%}  {progress.elapsed:5.0f} s",
            flush=True,
        )


def _evaluate(arguments: argparse.Namespace) -> None:
    model = create_demo(arguments.checkpoint)
    for kind, templates in (("plain", PLAIN_TEMPLATES), ("held out", HELD_OUT_TEMPLATES)):
        rates = accuracy(model, arguments.seed, arguments.count, templates, arguments.size)
        for template, rate in rates.items():
            print(f"{rate:6.1%}  {template}")
        print(f"{mean(rates.values()):6.1%}  mean of the {kind} templates")


def _train(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    recipe = Recipe(seed=arguments.seed, steps=arguments.steps)
    model = train(recipe, lambda progress: _print_progress(progress, recipe.steps))
    save_checkpoint(model, arguments.out)
    print(f"wrote {arguments.out} ({arguments.out.stat().st_size:,} bytes)")


def _samples(arguments: argparse.Namespace) -> None:
    for path in write_samples(arguments.out):
        print(f"wrote {path} ({path.stat().st_size:,} bytes)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.demo",
        description="Trains, measures and illustrates the demo model, which knows drawn shapes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=text, description=text, formatter_class=parser.formatter_class
        )

    recipe = Recipe()
    command = add("train", "train the model from nothing on the CPU")
    command.add_argument("--seed", type=int, default=recipe.seed, help="decides the weights")
    command.add_argument("--steps", type=int, default=recipe.steps, help="of 48 scenes each")
    command.add_argument("--threads", type=int, default=2, help="CPU threads")
    command.add_argument("--out", type=Path, default=CHECKPOINT, help="safetensors to write")
    command.set_defaults(run=_train)

    command = add("evaluate", "measure zero-shot accuracy on freshly drawn scenes")
    command.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="weights")
    command.add_argument("--seed", type=int, default=EVALUATION_SEED, help="of the scenes")
    command.add_argument("--count", type=int, default=960, help="scenes to draw")
    command.add_argument("--size", type=int, default=64, help="side of the scenes in pixels")
    command.set_defaults(run=_evaluate)

    command = add("samples", "draw the sample images")
    command.add_argument("--out", type=Path, default=Path("docs/samples"), help="folder")
    command.set_defaults(run=_samples)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name (those of the process by default)."""
    chosen = _parser().parse_args(arguments)
    chosen.run(chosen)


if __name__ == "__main__":
    main()
