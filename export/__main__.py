"""`python -m export`: publishes an OpenCLIP model in a Triton model repository."""

import argparse
import logging
import sys
import warnings
from pathlib import Path

from export.errors import ExportError

_DESCRIPTION = """\
Turns an OpenCLIP model into two ONNX encoders, compares them with PyTorch FP32, and publishes
them in a model repository that Triton and the gateway serve. A running service keeps the old
version until the new one is complete.
"""

_EXAMPLES = """\
examples:
  python -m export ViT-B-32 --pretrained laion2b_s34b_b79k
  python -m export RN50 --pretrained /models/rn50.pt --id my-resnet
  python -m export local-dir:/models/my-clip --max-batch 128
  python -m export ViT-B-16-SigLIP --pretrained FILE --tokenizer /models/siglip-tokenizer
  python -m export --remove my-resnet

Without network, give files: --pretrained FILE, --tokenizer DIR, or local-dir:/FOLDER.
Exit codes: 0 published, 1 an error, 2 the ONNX encoders fall short of --min-cosine.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m export",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = top.add_argument
    # fmt: off
    add("model", nargs="?", metavar="MODEL",
        help="an OpenCLIP name, local-dir:/FOLDER, hf-hub:ORG/NAME or a JSON model config")
    add("--pretrained", metavar="TAG|FILE", help="weights; left out: random ones, to try things")
    add("--repository", type=Path, default=Path("model_repository"), metavar="DIR",
        help="where to publish (default: %(default)s)")
    add("--id", metavar="ID", help="what clients send as `model` (default: NAME or NAME.TAG)")
    add("--remove", metavar="ID", help="take a published model back, and do nothing else")
    add("--tokenizer", type=Path, metavar="DIR",
        help="folder with a Hugging Face tokenizer, instead of the hub's")
    add("--compact", action="store_true",
        help="store weights that FP16 holds exactly as FP16: the same results, a smaller file")
    # fmt: on
    _add_serving(top)
    _add_gate(top)
    return top


def _add_serving(top: argparse.ArgumentParser) -> None:
    add = top.add_argument_group("how Triton serves it").add_argument
    # fmt: off
    add("--max-batch", type=_positive, default=64, metavar="N",
        help="most items in one execution (default: %(default)s)")
    add("--token-lengths", type=_lengths, default=(16, 24, 32), metavar="N,N,...,full",
        help="lengths to serve text at, where the model allows; the full context always is one "
        "(default: 16,24,32,full)")
    add("--device", choices=("auto", "cpu", "gpu"), default="auto",
        help="where Triton runs it (default: %(default)s, a GPU if there is one)")
    add("--instances", type=_positive, default=1, metavar="N",
        help="copies of each encoder on each device (default: %(default)s)")
    add("--threads", type=_positive, metavar="N",
        help="ONNX Runtime threads of each instance on a CPU (default: its own choice)")
    # fmt: on


def _add_gate(top: argparse.ArgumentParser) -> None:
    add = top.add_argument_group("what it must pass").add_argument
    # fmt: off
    add("--samples", type=Path, action="append", default=[], metavar="FILE",
        help="a picture of yours to measure on, besides the built-in ones; may be repeated")
    add("--min-cosine", type=_cosine, default=0.9999, metavar="X",
        help="refuse below this cosine to PyTorch FP32 (default: %(default)s)")
    # fmt: on


def main(arguments: list[str] | None = None) -> int:
    """Runs one export or removal; returns the exit code."""
    top = parser()
    given = top.parse_args(arguments)
    if (given.model is None) == (given.remove is None):
        top.error("give either MODEL or --remove ID")
    logging.disable(logging.ERROR)  # errors are said again, in one line
    warnings.simplefilter("ignore")
    try:
        return _remove(given) if given.remove else _export(given)
    except ExportError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing published\n")
        return 130


def _remove(given: argparse.Namespace) -> int:
    from export.repository import remove

    remove(given.repository, given.remove)
    sys.stdout.write(f"removed {given.remove} from {given.repository}\n")
    return 0


def _export(given: argparse.Namespace) -> int:
    from export.pbtxt import Serving  # torch takes seconds to import; --help need not wait
    from export.pipeline import Options, export_model
    from export.progress import Progress
    from export.summary import summary

    options = Options(
        model=given.model,
        repository=given.repository,
        pretrained=given.pretrained,
        model_id=given.id,
        tokenizer=given.tokenizer,
        token_lengths=given.token_lengths,
        compact=given.compact,
        samples=tuple(given.samples),
        min_cosine=given.min_cosine,
        serving=Serving(given.max_batch, given.device, given.instances, given.threads),
    )
    manifest = export_model(options, Progress())
    sys.stdout.write(summary(manifest, given.repository))
    return 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _cosine(text: str) -> float:
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not over 0 and at most 1")
    return number


def _lengths(text: str) -> tuple[int, ...]:
    """`16,24,full` -> (16, 24)."""
    try:
        lengths = tuple(int(part) for part in text.split(",") if part.strip() != "full")
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: numbers or `full`, with commas") from None
    if any(length < 2 for length in lengths):
        raise argparse.ArgumentTypeError("a token length is 2 or more")
    return lengths


if __name__ == "__main__":
    sys.exit(main())
