"""Names the embedding space of a model: equal fingerprints mean comparable vectors."""

import hashlib
import json

import torch

from export.towers import OpenClipModel
from gateway.manifest import Preprocessing, Tokenizer

# Not of either tower's vectors: the factors on their cosines, and CoCa's caption decoder.
_OTHER_WEIGHTS = ("logit_scale", "logit_bias", "text_decoder.")


def fingerprint(
    model: OpenClipModel, preprocessing: Preprocessing, tokenizer: Tokenizer, precision: str
) -> str:
    """SHA-256 over weights, preprocessing, tokenizer and precision, as lower-case hex.

    Args:
        model: The OpenCLIP model; its weights count by name, dtype, shape and bytes.
        preprocessing: Rules for pictures.
        tokenizer: Rules for text, with the hash of its file; the file's name does not count.
        precision: `fp32`, `fp16` or `int8`.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not name.startswith(_OTHER_WEIGHTS):
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
