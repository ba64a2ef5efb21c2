"""Writes a model card: description, origin, measurements and limits of a model."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from export.gate.variant_report import Latency
from export.report.tables import NONE, data_sets, factors, percent, shares, table
from gateway.models.gate import RECALLS, Gate
from gateway.models.manifest import MAX_CARD_BYTES, Manifest

# Front matter of a card, which the Hugging Face hub reads.
HUB_HEADER = """\
---
library_name: openclip-triton
pipeline_tag: zero-shot-image-classification
---
"""
_RESIZED = {
    "shortest": "the short side is resized to {0}, and {0} x {0} are cut from the centre",
    "longest": "the long side is resized to {0}, and the rest is filled",
    "squash": "resized to {0} x {0}, whatever the shape",
}


def card(
    manifest: Manifest,
    origin: str | None = None,
    licence: str | None = None,
    latency: Sequence[tuple[str, Latency]] = (),
) -> str:
    """Write the card of a model in Markdown.

    Args:
        manifest: The model.
        origin: Repository of the Hugging Face hub that has the weights; None: unknown.
        licence: Name of the weights' licence; None: unknown.
        latency: Of each encoder, if timed.
    """
    parts = [
        f"# {manifest.id}",
        f"The CLIP model `{_plain(manifest.open_clip_name)}` as encoders for NVIDIA Triton, "
        "exported by openclip-triton. It turns pictures and texts into vectors whose cosine says "
        "how well they match.",
        about(manifest, origin, licence),
        "## Precision and accuracy",
        _accuracy(manifest),
        data_sets([(manifest.id, manifest.gate)]),
        _speed(manifest, latency),
    ]
    made = "\n\n".join(filter(None, parts)) + "\n"
    # Manifests have no limit; only the end of a table is cut off.
    return made.encode()[:MAX_CARD_BYTES].decode(errors="ignore")


def about(manifest: Manifest, origin: str | None = None, licence: str | None = None) -> str:
    """The sections of a card that are the same in each precision."""
    facts = table(("", ""), _facts(manifest, origin, licence), left=2)
    limits = "\n".join(f"- {line}" for line in _limits(manifest, licence))
    return f"## The model\n\n{facts}\n\n## Limits\n\n{limits}"


def _speed(manifest: Manifest, latency: Sequence[tuple[str, Latency]]) -> str:
    speeds = manifest.gate.speeds
    if not latency and not speeds:
        return ""
    machine = _plain(manifest.gate.processor) or "not named"
    parts = ["## Speed", f"On the machine that exported it: {machine}."]
    if latency:
        rows = [[name, f"{each.p50_ms:.2f}", f"{each.p99_ms:.2f}"] for name, each in latency]
        parts.append(table(["encoder, at batch 1", "p50, ms", "p99, ms"], rows))
        parts.append("p99 includes the delays that other work on that machine caused.")
    if speeds:
        rows = [[str(each.batch), *factors(each)] for each in speeds]
        head = ["speed against FP32, at batch", "image", "text", "both together"]
        parts.append(table(head, rows))
    return "\n\n".join(parts)


def _facts(manifest: Manifest, origin: str | None, licence: str | None) -> list[tuple[str, str]]:
    rules, weights = manifest.preprocessing, manifest.pretrained
    mean, std = (", ".join(f"{x:g}" for x in each) for each in (rules.mean, rules.std))
    bias = "" if manifest.logit_bias is None else f", bias {manifest.logit_bias:g}"
    return [
        ("architecture", f"`{_plain(manifest.open_clip_name)}`"),
        ("weights", f"`{_plain(weights)}`" if weights else "random, for tests alone"),
        ("from", f"`{_plain(origin)}` on the Hugging Face hub" if origin else "not known"),
        ("licence of the weights", _plain(licence) if licence else "not known"),
        ("vectors", f"{manifest.embedding_size} dimensions, of unit length"),
        ("scores", f"{manifest.scoring} of the cosine times {manifest.logit_scale:g}{bias}"),
        ("pictures", f"{_RESIZED[rules.resize_mode].format(rules.image_size)}, "
                     f"{rules.interpolation}; mean {mean}, std {std}"),
        ("texts", f"up to {manifest.tokenizer.context_length} tokens"),
    ]  # fmt: skip


def _accuracy(manifest: Manifest) -> str:
    gate = manifest.gate
    cosines = [
        [name, f"{found.min_cosine:.7f}", f"{found.p1_cosine:.7f}", f"{found.mean_cosine:.7f}"]
        for name, found in (("image", gate.image), ("text", gate.text))
    ]
    recipe = "; ".join(f"{name}: {made}" for name, made in manifest.recipe.items())
    parts = [
        f"It runs as {manifest.precision} in {manifest.runtime}. Measured against PyTorch "
        "FP32; each figure is the worst of all batch sizes and token lengths.",
        f"Made {manifest.precision.upper()} by {recipe}." if recipe else "",
        f"Version {manifest.version}, exported on "
        f"{datetime.fromtimestamp(manifest.created, UTC):%Y-%m-%d}. Fingerprint: "
        f"`{manifest.fingerprint}`",
        table(("cosine to PyTorch", "lowest", "1st percentile", "mean"), cosines),
        _rankings(gate),
        "\n".join(f"- fell short: {line}" for line in gate.failures),
    ]
    return "\n\n".join(filter(None, parts))


def _rankings(gate: Gate) -> str:
    names = ["zero-shot accuracy", *(name for name, _ in RECALLS)]
    rows = [
        [name, percent(found), percent(pytorch)]
        for name, found, pytorch in zip(names, *shares(gate), strict=True)
        if percent(found) != NONE
    ]
    counted = gate.zero_shot or gate.retrieval
    if counted is None:
        return ""
    return table((f"%, on {counted.pictures} pictures", "this model", "PyTorch"), rows)


def _limits(manifest: Manifest, licence: str | None) -> list[str]:
    lines = [
        "Its figures hold only for the pictures and texts that were measured: measure on yours. "
        "It has the faults and the biases of its training data.",
        f"Texts of more than {manifest.tokenizer.context_length} tokens are cut, and answers say "
        "so. Details of pictures that are lost at "
        f"{manifest.preprocessing.image_size} x {manifest.preprocessing.image_size} pixels are "
        "not seen.",
        "Vectors may be compared only with those of the same fingerprint.",
    ]
    if manifest.pretrained is None:
        lines.insert(0, "**Its weights are random: its vectors mean nothing.**")
    if not licence:
        lines.append("The licence is not known: ask whoever made the weights before use.")
    if (manifest.precision, manifest.runtime) == ("int8", "onnxruntime"):
        lines.append(
            "INT8 in NVIDIA's own ONNX Runtime backend is less accurate on x86 processors "
            "without VNNI."
        )
    return lines


def _plain(text: str) -> str:
    """Escape text for a table cell."""
    return re.sub(r"[^\w .,:/@+()-]", "?", text)[:200]
