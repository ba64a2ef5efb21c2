"""The card of a model, for those who find it on a hub or in a bucket."""

from gateway.models.manifest import Manifest

CARD = "README.md"

_TEXT = """\
---
library_name: openclip-triton
pipeline_tag: zero-shot-image-classification
---
# {id}

The OpenCLIP model `{open_clip_name}` with weights `{pretrained}`, as encoders for NVIDIA Triton,
written by openclip-triton.

| | |
|---|---|
| precision, backend | {precision}, {runtime} |
| pictures | {size} x {size} pixels |
| texts | up to {context} tokens |
| vectors | {embedding_size} dimensions, of unit length |
| lowest cosine to PyTorch FP32, image / text | {image:.6f} / {text:.6f} |
| fingerprint | `{fingerprint}` |

To serve it from a checkout of openclip-triton: `make run MODELS=ADDRESS`, with the address of this
folder.
"""


def card(manifest: Manifest) -> str:
    """Write the card in Markdown, with the header that the Hugging Face hub reads."""
    return _TEXT.format(
        id=manifest.id,
        open_clip_name=manifest.open_clip_name,
        pretrained=manifest.pretrained or "random",
        precision=manifest.precision,
        runtime=manifest.runtime,
        size=manifest.preprocessing.image_size,
        context=manifest.tokenizer.context_length,
        embedding_size=manifest.embedding_size,
        image=manifest.gate.image.min_cosine,
        text=manifest.gate.text.min_cosine,
        fingerprint=manifest.fingerprint,
    )
