"""Computes the fingerprint of an embedding space: equal ones mean comparable vectors."""

import hashlib
import json

import torch

from export.source.encoders import OpenClipModel
from gateway.models.manifest import Preprocessing, Tokenizer

# Without effect on vectors: the factors on cosines, and CoCa's caption decoder.
_OTHER_PARTS = ("logit_scale", "logit_bias", "text_decoder")
# Attributes without effect on the result; private ones are ignored too.
_OTHER_ATTRIBUTES = (
    "training", "fused_attn", "grad_checkpointing", "gradient_checkpointing", "name_or_path",
)  # fmt: skip


def fingerprint(
    model: OpenClipModel, preprocessing: Preprocessing, tokenizer: Tokenizer, precision: str
) -> str:
    """SHA-256 over architecture, weights, preprocessing, tokenizer and precision, in hex.

    Args:
        model: The OpenCLIP model; its modules count by name, class and plain attributes, since
            the same weights with QuickGELU or with GELU are two embedding spaces, and its weights
            by name, dtype, shape and bytes.
        preprocessing: Rules for pictures.
        tokenizer: Rules for text, with the hash of its file; the file's name does not count.
        precision: `fp32`, or another precision with the recipe that made it.
    """
    digest = hashlib.sha256()
    for name, module in sorted(model.named_modules()):
        if not name.startswith(_OTHER_PARTS):
            digest.update(f"{name} {type(module).__name__} {_attributes(module)}\n".encode())
    for name, tensor in sorted(model.state_dict().items()):
        if not name.startswith(_OTHER_PARTS):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    rules = {
        "preprocessing": preprocessing.model_dump(),
        "tokenizer": tokenizer.model_dump(exclude={"file"}),
        "precision": precision,
    }
    digest.update(json.dumps(rules, sort_keys=True).encode())
    return digest.hexdigest()


def _attributes(module: torch.nn.Module) -> list[tuple[str, bool | int | float | str]]:
    """Sizes, numbers of heads, epsilons and name of methods, as the module keeps them."""
    return sorted(
        (name, value)
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str)
        and not name.startswith("_")
        and name not in _OTHER_ATTRIBUTES
    )
