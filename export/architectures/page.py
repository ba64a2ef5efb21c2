"""The page docs/architectures.md."""

from collections.abc import Mapping

import open_clip

from export.architectures.cut import BLOCKS
from export.architectures.stand_ins import TEXT_CONFIGS
from export.architectures.tried import Tried, untried
from export.report.tables import NONE, table


def page(results: Mapping[str, Tried]) -> str:
    """Format the table from the results of all configurations, or of some."""
    listed = [results.get(name) or untried(name) for name in open_clip.list_models()]
    exported = sum(each.failure is None for each in results.values())
    head = ["configuration", "outcome", "text", "parameters, M", "image, pixels",
            "context, tokens", "lowest cosine, image / text"]  # fmt: skip
    rows = [
        [f"`{each.name}`", each.outcome, each.text_form,
         f"{each.parameters / 1e6:.0f}" if each.parameters else NONE,
         str(each.image_size), str(each.context_length),
         NONE if each.image is None else f"{each.image:.6f} / {each.text:.6f}"]
        for each in listed
    ]  # fmt: skip
    text = _PAGE.format(
        version=open_clip.__version__, count=len(listed), tried=len(results), exported=exported,
        share=100 * exported / max(1, len(results)), blocks=BLOCKS,
        hub=", ".join(f"`{name}`" for name in sorted(TEXT_CONFIGS)),
    )  # fmt: skip
    return f"{text}\n{table(head, rows, left=3)}\n"


_PAGE = """\
# Architectures

`python -m export.architectures` writes this page. It tries every configuration of OpenCLIP, here
those of version {version}: of {count}, {tried} were tried, and {exported} of these ({share:.0f} %) can be exported.

A try is an export in FP32 with random weights, up to the comparison with PyTorch: tokenizer, both
graphs, ONNX Runtime, on two pictures and three texts. "exported": every cosine is 0.99999 or more.
"exported, cut": the same with {blocks} blocks of each kind, at the model's own widths, image size and
vocabulary; its other blocks repeat them. [models.md](models.md#results-for-each-family) has results of
whole and trained models, and of other precisions. Text is "packed", at "fixed lengths" or at its
"full length" only, as [models.md](models.md#text-lengths) explains.

Tokenizers that are on the hub have a stand-in of a few words here: an export checks the real one.
These text encoders, whose configurations are on the hub, have stand-ins of their published sizes:
{hub}.
"""  # noqa: E501 (its lines are filled in)
