"""The command line of `python -m export`."""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

REPOSITORY = Path("model_repository")  # the default of `make run`
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")

_DESCRIPTION = """\
Converts an OpenCLIP model to encoders for Triton, in each given precision, compares them with
PyTorch FP32, and publishes those that pass in a model repository that Triton and the gateway
serve. A variant for a CPU must also be faster than FP32 there. A running service keeps the old
version until the new one is complete.
"""

_EXAMPLES = """\
examples:
  python -m export ViT-B-32 --pretrained laion2b_s34b_b79k
  python -m export ViT-B-32 --pretrained laion2b_s34b_b79k --precision fp32,int8 \\
      --calibrate-images DIR --calibrate-texts FILE --evaluate DIR
  python -m export RN50 --pretrained /models/rn50.pt --id my-resnet
  python -m export local-dir:/models/my-clip --max-batch 128
  python -m export --custom examples.models.mixers:clip
  python -m export ViT-B-16-SigLIP --pretrained FILE --tokenizer /models/siglip-tokenizer
  python -m export --remove my-resnet
  python -m export push my-resnet s3://bucket/my-resnet    # and `pull`; see `push --help`

Without network, give files: --pretrained FILE, --tokenizer DIR, --text-config DIR, or
local-dir:/FOLDER.
Exit codes: 0 published, 1 an error, 2 a variant failed the gate.
"""


class _Parser(argparse.ArgumentParser):
    """Exits with 1 on wrong usage: argparse's 2 means that a variant failed the gate."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: error: {message}\n")


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    top = _Parser(
        prog="python -m export",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = top.add_argument
    # fmt: off
    add("model", nargs="?", metavar="MODEL",
        help="an OpenCLIP name, local-dir:/FOLDER, hf-hub:ORG/NAME or a JSON model config")
    add("--custom", metavar="MODULE:FACTORY",
        help="in place of MODEL: a function that returns an export.source.custom.CustomModel; its "
        "module is imported and runs, so name only code that you trust")
    add("--pretrained", type=lambda text: text or None, metavar="TAG|FILE",
        help="weights (default: random ones, for tests)")
    add("--license", dest="licence", metavar="NAME",
        help="licence of the weights, for the model card (default: that of their card on the hub)")
    add("--repository", type=Path, default=REPOSITORY, metavar="DIR",
        help="where to publish (default: %(default)s)")
    add("--id", dest="model_id", metavar="ID",
        help="the `model` that clients send (default: NAME or NAME.TAG); a variant adds its "
        "precision and runtime, such as ID.int8")
    add("--version", type=_positive, metavar="N",
        help="version number; keeps the previous version, so that a running service switches "
        "without a failed request and `python -m export.versions` can switch back "
        "(default: the next number, replacing the previous version)")
    add("--tokenizer", type=Path, metavar="DIR",
        help="folder with a Hugging Face tokenizer, instead of the hub's")
    add("--text-config", type=Path, metavar="DIR",
        help="folder with the Hugging Face config.json of the text encoder, instead of the hub's")
    # fmt: on
    _add_variants(top)
    _add_serving(top)
    _add_gate(top)
    _add_instead(top)
    return top


def transfer_parser() -> argparse.ArgumentParser:
    """Build the parser of the command lines that begin with `push` or `pull`."""
    top = _Parser(prog="python -m export")
    actions = top.add_subparsers(dest="action", required=True)
    # fmt: off
    push = actions.add_parser("push", help="copy a published model to another place",
        description="Copies a published model to another place, the index of its files last.")
    push.add_argument("id", metavar="ID", help="the model")
    push.add_argument("place", metavar="DEST",
        help="a folder, s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, hf://ORG/NAME, or an https:// "
        "address that takes PUT; for this model alone")
    pull = actions.add_parser("pull", help="publish models from other places",
        description="Publishes models that were pushed, unless they are published already. Their "
        "graphs run as they are: pull from those that you trust.")
    pull.add_argument("places", nargs="+", metavar="SOURCE",
        help="a folder, or an s3://, gs://, hf:// or https:// address")
    pull.add_argument("--version", type=_positive, metavar="N",
        help="version number; keeps the previous version (default: the next number, replacing "
        "the previous version)")
    for each in (push, pull):
        each.add_argument("--repository", type=Path, default=REPOSITORY, metavar="DIR",
            help="the model repository (default: %(default)s)")
    # fmt: on
    return top


def _add_variants(top: argparse.ArgumentParser) -> None:
    add = top.add_argument_group("variants").add_argument
    # fmt: off
    add("--precision", type=_precisions, action="extend", default=[],
        metavar="fp32,fp16,bf16,int8,fp8",
        help="one or more (default: fp32); bf16 needs a processor with BF16, fp8 needs --runtime "
        "tensorrt and a GPU of compute capability 8.9 or later")
    add("--runtime", choices=("onnxruntime", "openvino", "tensorrt"), action="append",
        default=[],
        help="repeatable (default: onnxruntime, and openvino for bf16); openvino runs bf16 only; "
        "tensorrt needs TensorRT and a GPU")
    add("--compact", action="store_true",
        help="store weights as FP16 where that is exact: the same results, a smaller file")
    add("--calibrate-images", dest="calibrate", metavar="DIR|drawn",
        help="pictures to calibrate INT8 and FP8 with; `drawn`: the demo's scenes")
    add("--calibrate-texts", type=Path, metavar="FILE", help="its captions, one per line")
    add("--calibration", dest="method", default="percentile",
        choices=("minmax", "entropy", "percentile"),
        help="method that chooses the ranges of INT8 (default: %(default)s); FP8 takes minmax")
    # fmt: on


def _add_serving(top: argparse.ArgumentParser) -> None:
    add = top.add_argument_group("how Triton serves it").add_argument
    # fmt: off
    add("--max-batch", type=_positive, default=64, metavar="N",
        help="largest batch (default: %(default)s)")
    add("--token-lengths", type=_lengths, metavar="packed|N,N,...,full",
        help="`packed`: texts of any length share a batch without padding; or the lengths to pad "
        "text to, always including the full context (default: packed if the model and runtime "
        "allow it, else 16,24,32,full)")
    add("--device", choices=("auto", "cpu", "gpu"), default="auto",
        help="device that Triton runs it on (default: %(default)s, a GPU if there is one)")
    add("--instances", type=_positive, default=1, metavar="N",
        help="copies of each encoder on each device (default: %(default)s)")
    add("--threads", type=_positive, metavar="N",
        help="threads of each instance on a CPU (default: one for each core)")
    # fmt: on


def _add_gate(top: argparse.ArgumentParser) -> None:
    add = top.add_argument_group("the gate").add_argument
    # fmt: off
    add("--evaluate", action="append", default=[], metavar="DIR|URL|drawn",
        help="pictures to measure on, besides the built-in ones; repeatable. A data set in "
        "CLIP_benchmark's webdataset layout, in a folder or at a URL, gives that package's "
        "metrics; folders named for their classes give zero-shot accuracy; `drawn`: the demo's "
        "scenes")
    add("--evaluate-split", default="test", metavar="NAME",
        help="split of such data sets (default: %(default)s)")
    add("--evaluate-texts", type=Path, metavar="FILE",
        help="captions to measure on; `PICTURE<tab>CAPTION` lines give retrieval recall as well")
    add("--samples", type=Path, action="append", default=[], metavar="FILE",
        help="one more picture to measure on; repeatable")
    add("--min-cosine", type=_cosine, metavar="X",
        help="refuse if any item falls below this cosine to PyTorch FP32 (default: fp32 0.99999, "
        "fp16 and bf16 0.9995)")
    add("--mean-cosine", type=_cosine, metavar="X",
        help="refuse below this mean cosine (default: int8 and fp8 0.99)")
    add("--max-accuracy-loss", dest="accuracy_loss", type=float, metavar="POINTS",
        help="refuse a larger loss of zero-shot accuracy (default: int8 and fp8 1)")
    add("--max-recall-loss", dest="recall_loss", type=float, metavar="POINTS",
        help="refuse a larger loss of any retrieval recall (default: no limit)")
    add("--min-agreement", dest="agreement", type=_cosine, metavar="SHARE",
        help="refuse if fewer pictures have PyTorch's first candidate, 0 to 1 (default: no limit)")
    add("--small-batch-items", type=_positive, default=1000, metavar="N",
        help="largest number of pictures, and of texts of each length, to measure at batch 1 and "
        "2; all run at the largest batch (default: %(default)s)")
    add("--allow-failing", action="store_true",
        help="publish a variant that fails the gate, marked as failing")
    add("--allow-slow", action="store_true",
        help="publish a variant for a CPU even if FP32 is as fast on this machine")
    add("--report", type=Path, metavar="DIR",
        help="folder for report.md and its plots (default: reports/ID)")
    # fmt: on


def _add_instead(top: argparse.ArgumentParser) -> None:
    add = top.add_argument_group("instead of an export").add_argument
    # fmt: off
    add("--list", action="store_true", help="show the models and weights that OpenCLIP offers")
    add("--published", action="store_true",
        help="print the ids under which MODEL is published in these precisions; exit with 1 if "
        "one is missing")
    add("--gpu-inputs", type=Path, metavar="DIR",
        help="write the files of MODEL that `make gpu-check` needs on a GPU machine into DIR")
    add("--remove", action="append", metavar="ID",
        help="remove a published model; repeatable")
    add("--check-engines", type=Path, metavar="DIR",
        help="check that the TensorRT plans of a repository can run on this machine")
    # fmt: on


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _precisions(text: str) -> list[str]:
    chosen = [part for part in text.split(",") if part]
    for each in chosen:
        if each not in PRECISIONS:
            raise argparse.ArgumentTypeError(f"{each!r} is none of {', '.join(PRECISIONS)}")
    return chosen


def _cosine(text: str) -> float:
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not over 0 and at most 1")
    return number


def _lengths(text: str) -> tuple[int, ...] | None:
    """Parse `16,24,full` to (16, 24), and `packed` to None."""
    if text == "packed":
        return None
    try:
        lengths = tuple(int(part) for part in text.split(",") if part.strip() != "full")
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: `packed`, or numbers and `full` with commas"
        ) from None
    if any(length < 2 for length in lengths):
        raise argparse.ArgumentTypeError("a token length is 2 or more")
    return lengths
