"""Converts OpenCLIP's tokenizer to a file of the `tokenizers` library."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip.tokenizer as open_clip_tokenizer
import torch
from open_clip.tokenizer import HFTokenizer, SigLipTokenizer, SimpleTokenizer
from tokenizers import AddedToken, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Tokenizers

from export.errors import TokenizerError
from gateway.models.manifest import Tokenizer, file_sha256
from gateway.models.tokenizer import TextTokenizer, padded

_CLEANERS = ("lower", "whitespace", "canonicalize")  # names for `open_clip...get_clean_fn`

TokenizeFunction = Callable[[list[str]], torch.Tensor]


def write_tokenizer(tokenizer: TokenizeFunction, path: Path) -> Tokenizer:
    """Write a tokenizer of `open_clip.get_tokenizer` to a file, and describe it.

    Raises:
        TokenizerError: The file format or the gateway does not support it.
    """
    if isinstance(tokenizer, SimpleTokenizer):
        content, rules = _from_simple(tokenizer)
    elif isinstance(tokenizer, HFTokenizer | SigLipTokenizer):
        content, rules = _from_hugging_face(tokenizer)
    else:
        raise TokenizerError(f"unknown kind of tokenizer: {type(tokenizer).__name__}")
    path.write_text(content, encoding="utf-8")
    return Tokenizer(
        file=path.name,
        sha256=file_sha256(path),
        context_length=tokenizer.context_length,
        **rules,
    )


def check_tokenizer(
    tokenizer: TokenizeFunction, spec: Tokenizer, folder: Path, texts: list[str]
) -> None:
    """Compare the gateway's ids, from the written file, with OpenCLIP's.

    Raises:
        TokenizerError: They differ for one of the texts.
    """
    ours = TextTokenizer(spec, folder)
    for text in texts:
        expected = tokenizer([text])[0].tolist()
        found = padded(ours.encode(text).ids, spec.context_length, spec.pad_id).tolist()
        if found != expected:
            at = next(i for i, token in enumerate(expected) if found[i] != token)
            raise TokenizerError(
                f"the saved tokenizer differs from OpenCLIP's for {text[:60]!r}: token {at} is "
                f"{found[at]} instead of {expected[at]}"
            )


def _from_simple(tokenizer: SimpleTokenizer) -> tuple[str, dict[str, Any]]:
    """Convert CLIP's byte-level BPE to a file's content, and its rules for the manifest.

    The gateway splits by the tokenizer's own pattern first.
    """
    if tokenizer.reduction_fn is not None:
        raise TokenizerError(
            "the tokenizer drops tokens of long text (`reduction_mask`), at random or by grammar; "
            "the gateway only cuts at the end"
        )
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    model = Tokenizers(models.BPE(tokenizer.encoder, merges, end_of_word_suffix="</w>"))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    special = [tokenizer.decoder[number] for number in tokenizer.all_special_ids]
    model.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    start, end = special[:2]
    model.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(start, tokenizer.sot_token_id), (end, tokenizer.eot_token_id)],
    )
    return model.to_str(), {
        "clean": _clean_name(tokenizer.clean_fn),
        "split_pattern": tokenizer.pat.pattern,
        "pad_id": 0,  # OpenCLIP's SimpleTokenizer pads with zeros
    }


def _from_hugging_face(tokenizer: HFTokenizer | SigLipTokenizer) -> tuple[str, dict[str, Any]]:
    """Likewise for a tokenizer of the hub."""
    inner = tokenizer.tokenizer
    if getattr(tokenizer, "tokenizer_mode", ""):
        raise TokenizerError(
            f"tokenizer_mode {tokenizer.tokenizer_mode!r} of the model's configuration moves "
            "tokens in a way that the `tokenizers` format cannot express"
        )
    if not getattr(inner, "is_fast", False):
        raise TokenizerError(
            f"{type(inner).__name__} is a slow (pure Python) tokenizer; only fast ones can be "
            "saved in the `tokenizers` format"
        )
    for side in ("padding_side", "truncation_side"):
        if getattr(inner, side, "right") != "right":
            raise TokenizerError(f"the tokenizer has {side} {getattr(inner, side)!r}; need 'right'")
    if getattr(inner, "split_special_tokens", False):
        raise TokenizerError(
            "the tokenizer splits special tokens in text, which the format cannot express"
        )
    if inner.pad_token_id is None:
        raise TokenizerError("the tokenizer has no padding token")
    model = Tokenizers.from_str(inner.backend_tokenizer.to_str())
    model.no_padding()
    model.no_truncation()
    cleaner = getattr(tokenizer, "clean_fn", None)  # SigLipTokenizer has none to choose
    zeroed = inner.sep_token_id if getattr(tokenizer, "strip_sep_token", False) else None
    pad_id = 0 if inner.pad_token_id == zeroed else inner.pad_token_id  # padding is zeroed, too
    return model.to_str(), {
        "clean": _clean_name(cleaner) if cleaner else "canonicalize",
        "pad_id": pad_id,
        "zeroed_id": zeroed,
    }


def _clean_name(cleaner: Callable[[str], str]) -> str:
    for name in _CLEANERS:
        if open_clip_tokenizer.get_clean_fn(name) is cleaner:
            return name
    raise TokenizerError("the tokenizer cleans text in an unknown way")
