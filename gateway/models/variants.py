"""Finds the published variants of a model, and the fastest one on this machine."""

import platform
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from gateway.models.manifest import Manifest

HUB_PREFIX, FOLDER_PREFIX = "hf-hub:", "local-dir:"  # of OpenCLIP's names
CONFIG_NAME = "open_clip_config.json"  # of OpenCLIP's own folder and hub layout
FULL = "fp32"  # the precision that is published by default


def find_variants(
    published: Iterable[Manifest], model: str, pretrained: str | None, precisions: Sequence[str]
) -> list[Manifest | None]:
    """The variant of a model in each precision, or None; the newest of several.

    A model is recognised by the names of its architecture and weights, so a rewritten checkpoint
    file counts as the same model.

    Args:
        published: All models.
        model: `MODEL` of `python -m export`.
        pretrained: Its `--pretrained`.
        precisions: Its `--precision`.
    """
    name, own_weights = name_of(model)
    weights = {pretrained, pretrained and Path(pretrained).name}  # a manifest holds a file's name
    found = [
        each
        for each in published
        if each.open_clip_name == name and (own_weights or each.pretrained in weights)
    ]
    found.sort(key=lambda each: each.created)
    newest = {str(each.precision): each for each in found}
    return [newest.get(precision) for precision in precisions]


def name_of(model: str) -> tuple[str, bool]:
    """A model's name in a manifest, and whether the name includes the weights."""
    path = Path(model)
    if model.startswith(HUB_PREFIX):
        return model.removeprefix(HUB_PREFIX), True
    if model.startswith(FOLDER_PREFIX) or path.is_dir() or path.name == CONFIG_NAME:
        folder = Path(model.removeprefix(FOLDER_PREFIX))
        return (folder.parent if folder.name == CONFIG_NAME else folder).resolve().name, True
    return (path.stem if path.suffix == ".json" else model.replace("/", "-")), False


def fastest(variants: Sequence[Manifest], processor: str) -> tuple[Manifest, str]:
    """The fastest of the variants that passed their gates, and the reason in words.

    Return the first one if none passed, or if some were not measured on this kind of processor.
    """
    passed = [each for each in variants if each.gate.passed]
    if not passed:
        return variants[0], "the first, as none passed its gate"
    if len(passed) == 1:
        return passed[0], "the only one that passed its gate"
    among = ", ".join(each.id for each in passed)
    speeds = [_speed(each, processor) for each in passed]
    known = [speed for speed in speeds if speed is not None]
    if len(known) < len(passed):
        return passed[0], f"the first of {among}, which were not all measured on this processor"
    best = max(known)
    return (
        passed[known.index(best)],
        f"the fastest of {among}: {best:.2f} times as fast as FP32 on this processor",
    )


def _speed(variant: Manifest, processor: str) -> float | None:
    """Speed relative to FP32 at the batch size where the variant gains least."""
    if (variant.precision, variant.runtime) == (FULL, "onnxruntime"):
        return 1.0
    gate = variant.gate
    return min((each.both for each in gate.speeds if gate.processor == processor), default=None)


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The name of this machine's processor, as Linux reports it."""
    try:
        found = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.machine()
